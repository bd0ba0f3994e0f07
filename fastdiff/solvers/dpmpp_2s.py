"""DPM-Solver++(2S): two-stage exponential Runge-Kutta in half log-SNR, data prediction.

    u   at lambda_s + h / 2,      h = lambda_t - lambda_s
    y   = (sigma_u / sigma_s) x_s + alpha_u (1 - e^{-h/2}) m_0
    x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - e^{-h}) m_0 + alpha_t c d,      d = 2 (m_u(y) - m_0)

    weight "midpoint"   c = (1 - e^{-h}) / 2           m_0 drops out
    weight "taylor"     c = 1 - (1 - e^{-h}) / h       exact for a data prediction linear in lambda

Order 2 by two network calls a step; one for the last step to sigma = 0.

Source: Lu et al. 2022, arXiv:2211.01095, algorithm 1, r = 1/2; "taylor": RES, arXiv:2308.02157.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import expm1
from ..core.process import Node
from ..core.solver import Past, Solver
from ._exponential import singlestep


@dataclass(frozen=True)
class DPMpp2S(Solver):
    key = "dpmpp-2s"
    predicts = "data"
    order = 2
    source = "Lu et al. 2022, arXiv:2211.01095"

    weight: Literal["midpoint", "taylor"] = "midpoint"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        h = t.lam - s.lam
        m0 = p.model(p.x, s)
        if self.weight == "taylor":
            p.x = singlestep(p, s, t, "data", m0, 2)
            return []
        u = s.at(s.lam + h / 2)
        m1 = p.model(u.sigma / s.sigma * p.x - u.alpha * expm1(s.lam - u.lam) * m0, u)
        p.x = t.sigma / s.sigma * p.x - t.alpha * expm1(-h) * m1
        return []
