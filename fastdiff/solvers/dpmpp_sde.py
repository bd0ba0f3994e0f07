"""DPM-Solver++ (SDE): the two-stage midpoint method for the reverse SDE of noise level tau, eta = tau^2.

    u   at lambda_s + h / 2,      h = lambda_t - lambda_s,      k = (1 + eta) h
    y   = (sigma_u / sigma_s) e^{-eta h / 2} x_s + alpha_u (1 - e^{-k/2}) m_0
          + s_noise sigma_u sqrt(1 - e^{-eta h}) n_1
    x_t = (sigma_t / sigma_s) e^{-eta h} x_s + alpha_t (1 - e^{-k}) m_u(y)
          + s_noise sigma_t sqrt(1 - e^{-2 eta h}) (n_1 + n_2) / sqrt(2)

n_1, n_2: normals, the increments over the two halves of one Brownian motion in lambda. Weights from the SDE's
own increments over the halves make `seeds` of order 2; these bring the law of linear data ten times closer at
the same calls. legacy=True is k-diffusion's: eta is DDIM's fraction of fresh noise, and the motion is over
sigma / alpha. Weak order 2 each way.

Source: Lu et al. 2022, arXiv:2211.01095, as written in k-diffusion (sample_dpmpp_sde).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import Number, exp, expm1, sqrt
from ..core.process import Node
from ..core.solver import Past, check_range
from ._exponential import Noisy, below, from_noise


@dataclass(frozen=True)
class DPMppSDE(Noisy):
    key = "dpmpp-sde"
    predicts = "data"
    order = 2
    source = "Lu et al. 2022, arXiv:2211.01095"

    legacy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.legacy:
            check_range(self, "eta", 0, 1)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        m0, x, u = p.model(p.x, s), p.x, s.at((s.lam + t.lam) / 2)
        (k, up), (whole, all_up) = self.level(s, u), self.level(s, t)
        # clock -1/2: variance d rho = e^{-lambda} d lambda
        clock, a, b, c = (-0.5, s.rho, u.rho, t.rho) if self.legacy else (0, s.lam, u.lam, t.lam)
        w = (b - a) / (c - a)
        y = u.alpha * (exp(-k) / s.alpha * x - expm1(-k) * m0)
        noise = [p.noise(s, u, clock), p.noise(u, t, clock)] if self.eta else []
        if noise:
            y = y + self.s_noise * up * u.sigma * noise[0]
        p.x = t.alpha * (exp(-whole) / s.alpha * x - expm1(-whole) * p.model(y, u))
        if noise:
            p.x = p.x + self.s_noise * all_up * t.sigma * (sqrt(w) * noise[0] + sqrt(1 - w) * noise[1])
        return []

    def level(self, s: Node, t: Node) -> tuple[Number, Number]:
        """k of the step from s to t, and its noise over sigma_t."""
        if self.legacy:
            return below(s, t, self.eta)
        h = t.lam - s.lam
        return (1 + self.eta) * h, sqrt(-expm1(-2 * self.eta * h))

    def first(self, p: Any, s: Node, t: Node) -> Past:
        if not self.legacy:
            return super().first(p, s, t)
        return from_noise(p, s, t, (1 - self.eta**2) ** 0.5, self.s_noise * self.eta)
