"""DPM-Solver++(2M) with heavy ball momentum.

    D   = m_0 + (m_0 - m_1) h / (2 h_previous)
    v   = (1 - beta) v + beta D,      v_0 = D_0
    x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - e^{-h}) v,      h = lambda_t - lambda_s

beta = 1 is `dpmpp-2m` (midpoint, order never lowered); else order 1.

Source: Wizadwongsa et al. 2023, arXiv:2307.11118, appendix.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import expm1
from ..core.process import Node
from ..core.solver import Past
from ._heavy_ball import HeavyBall


@dataclass(frozen=True)
class DPMpp2MHB(HeavyBall):
    key = "dpmpp-2m-hb"
    predicts = "data"
    memory = 1
    source = "Wizadwongsa et al. 2023, arXiv:2307.11118"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        h, m0 = t.lam - s.lam, p.model(p.x, s)
        D, v = m0, None
        if past:
            u, m1, v = past[-1]
            D = m0 + h / (s.lam - u.lam) / 2 * (m0 - m1)
        v = self.smooth(v, D)
        p.x = t.sigma / s.sigma * p.x - t.alpha * expm1(-h) * v
        return [(s, m0, v)]
