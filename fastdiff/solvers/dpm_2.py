"""DPM-Solver-2: two-stage exponential Runge-Kutta in half log-SNR, noise prediction.

    u   at lambda_s + h / 2,      h = lambda_t - lambda_s
    y   = (alpha_u / alpha_s) x_s - sigma_u (e^{h/2} - 1) m_0
    x_t = (alpha_t / alpha_s) x_s - sigma_t (e^h - 1) m_0 - sigma_t c d,      d = 2 (m_u(y) - m_0)

    weight "midpoint"   c = (e^h - 1) / 2           m_0 drops out
    weight "taylor"     c = (e^h - 1) / h - 1       exact for a noise prediction linear in lambda

Order 2 by two network calls a step; one for the last step to sigma = 0, which is alpha_t x0.

Source: Lu et al. 2022, arXiv:2206.00927, algorithm 1, r = 1/2.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Node
from ..core.solver import Past, Solver
from ._exponential import singlestep


@dataclass(frozen=True)
class DPM2(Solver):
    key = "dpm-2"
    predicts = "noise"
    order = 2
    source = "Lu et al. 2022, arXiv:2206.00927"

    weight: Literal["midpoint", "taylor"] = "midpoint"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        p.x = singlestep(p, s, t, "noise", p.model(p.x, s), 2, self.weight)
        return []
