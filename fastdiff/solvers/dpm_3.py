"""DPM-Solver-3: three-stage exponential Runge-Kutta in half log-SNR, noise prediction.

    u, v at lambda_s + h / 3 and + 2 h / 3,      h = lambda_t - lambda_s
    y_u  by m_0 alone;      y_v  by the line through m_0 and m_u;      E_k = int_0^h e^{h-z} z^k / k! dz

    weight "midpoint"   x_t = (alpha_t / alpha_s) x_s - sigma_t (E_0 m_0 + E_1 (m_v - m_0) 3 / (2 h))
    weight "taylor"     x_t by the parabola through m_0, m_u, m_v

Order 3 by three network calls a step; one for the last step to sigma = 0, which is alpha_t x0.

Source: Lu et al. 2022, arXiv:2206.00927, algorithm 2.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Node
from ..core.solver import Past, Solver
from ._exponential import singlestep


@dataclass(frozen=True)
class DPM3(Solver):
    key = "dpm-3"
    predicts = "noise"
    order = 3
    source = "Lu et al. 2022, arXiv:2206.00927"

    weight: Literal["midpoint", "taylor"] = "midpoint"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        p.x = singlestep(p, s, t, "noise", p.model(p.x, s), 3, self.weight)
        return []
