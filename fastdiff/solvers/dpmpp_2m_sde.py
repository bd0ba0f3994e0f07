"""SDE-DPM-Solver++(2M): the two-step multistep method for the reverse SDE with noise level tau, eta = tau^2.

    x_t = (sigma_t / sigma_s) e^{-eta h} x_s + alpha_t (1 - e^{-k}) m_0 + alpha_t c d
          + s_noise sigma_t sqrt(1 - e^{-2 eta h}) xi
    h   = lambda_t - lambda_s,      k = (1 + eta) h,      d = (m_0 - m_1) h / h_previous

    weight "midpoint"   c = (1 - e^{-k}) / 2
    weight "heun"       c = 1 - (1 - e^{-k}) / k       exact for a data prediction linear in lambda

eta = 0 is `dpmpp-2m`; order 1 with eta = 1 is `ddpm`. Weak order 2. From alpha = 0 nothing of x_s is left.

Source: Lu et al. 2022, arXiv:2211.01095, algorithm 3 and appendix A.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import exp, expm1, sqrt
from ..core.process import Node
from ..core.solver import Multistep, Past, check_range


@dataclass(frozen=True)
class DPMpp2MSDE(Multistep):
    key = "dpmpp-2m-sde"
    predicts = "data"
    source = "Lu et al. 2022, arXiv:2211.01095"
    orders, startups = (1, 2), ("ramp",)

    eta: float = 1.0
    s_noise: float = 1.0
    weight: Literal["midpoint", "heun"] = "midpoint"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eta", "s_noise"):
            check_range(self, name, 0)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        h, m0 = t.lam - s.lam, p.model(p.x, s)
        k = (1 + self.eta) * h
        p.x = t.sigma / s.sigma * exp(-self.eta * h) * p.x - t.alpha * expm1(-k) * m0
        if past:
            u, m1 = past[-1]
            c = -expm1(-k) / 2 if self.weight == "midpoint" else 1 + expm1(-k) / k
            p.x = p.x + t.alpha * c * (h / (s.lam - u.lam)) * (m0 - m1)
        if self.eta:
            p.x = p.x + self.s_noise * t.sigma * sqrt(-expm1(-2 * self.eta * h)) * p.noise(s, t, self.eta)
        return [(s, m0)]

    def first(self, p: Any, s: Node, t: Node) -> Past:
        if self.eta == 0:
            return super().first(p, s, t)
        p.x = t.alpha * p.model(p.x, s) + self.s_noise * t.sigma * p.noise(s, t, self.eta)
        return []
