"""DPM-Solver++ (SDE): the two-stage midpoint method for the reverse SDE of noise level tau, eta = tau^2.

    u   at lambda_s + h / 2,      h = lambda_t - lambda_s,      k = (1 + eta) h
    y   = (sigma_u / sigma_s) e^{-eta h / 2} x_s + alpha_u (1 - e^{-k/2}) m_0 + s_noise sigma_u n_1
    x_t = (sigma_t / sigma_s) e^{-eta h} x_s + alpha_t (1 - e^{-k}) m_u(y)
          + s_noise sigma_t (e^{-eta h / 2} n_1 + n_2),      n_1, n_2: sqrt(1 - e^{-eta h}) times a normal

n_1 and n_2 are the SDE's own increments over the two halves: equals `seeds` of order 2.
legacy=True is k-diffusion's: eta is DDIM's fraction of fresh noise, and the noise of both stages comes from
one Brownian motion over sigma / alpha, so that it is correlated otherwise. At eta = 1 the laws of y and of
the noise in x_t are the same. Weak order 2 either way.

Source: Lu et al. 2022, arXiv:2211.01095, as written in k-diffusion (sample_dpmpp_sde).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import exp, expm1, sqrt
from ..core.process import Node
from ..core.solver import Past, check_range
from ._exponential import Noisy, below, from_noise, singlestep


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
        m0 = p.model(p.x, s)
        if self.legacy:
            return self.published(p, s, t, m0)
        p.x = singlestep(p, s, t, "data", m0, 2, "midpoint", self.eta, self.s_noise)
        return []

    def published(self, p: Any, s: Node, t: Node, m0: Any) -> Past:
        x, u = p.x, s.at((s.lam + t.lam) / 2)
        (k, up), (whole, all_up) = below(s, u, self.eta), below(s, t, self.eta)
        y = u.alpha * (exp(-k) / s.alpha * x - expm1(-k) * m0)
        noise = []
        if self.eta:
            clock = -0.5  # variance d rho = e^{-lambda} d lambda
            w = (s.rho - u.rho) / (s.rho - t.rho)
            noise = [p.noise(s, u, clock), p.noise(u, t, clock)]
            y = y + self.s_noise * up * u.sigma * noise[0]
        p.x = t.alpha * (exp(-whole) / s.alpha * x - expm1(-whole) * p.model(y, u))
        if self.eta:
            p.x = p.x + self.s_noise * all_up * t.sigma * (sqrt(w) * noise[0] + sqrt(1 - w) * noise[1])
        return []

    def first(self, p: Any, s: Node, t: Node) -> Past:
        if not self.legacy:
            return super().first(p, s, t)
        return from_noise(p, s, t, (1 - self.eta**2) ** 0.5, self.s_noise * self.eta)
