"""DPM-Solver(2M): two-step exponential Adams-Bashforth in half log-SNR, noise prediction.

    x_t = (alpha_t / alpha_s) x_s - sigma_t (e^h - 1) m_0 - sigma_t c d,      d = (m_0 - m_1) h / h_previous
    h   = lambda_t - lambda_s

    weight "midpoint"   c = (e^h - 1) / 2
    weight "heun"       c = (e^h - 1) / h - 1       exact for a noise prediction linear in lambda

`dpmpp-2m` for the noise prediction: better where h is small, worse where guidance is strong. The last step
to sigma = 0 is alpha_t x0.

Source: Lu et al. 2022, arXiv:2206.00927; the multistep form: Lu et al. 2022, DPM-Solver++.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Node
from ..core.solver import Multistep, Past
from ._exponential import multistep, singlestep


@dataclass(frozen=True)
class DPM2M(Multistep):
    key = "dpm-2m"
    predicts = "noise"
    orders = (1, 2)
    source = "Lu et al. 2022, arXiv:2206.00927"

    weight: Literal["midpoint", "heun"] = "midpoint"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        known = [(s, p.model(p.x, s)), *past]
        p.x = multistep(p.x, s, t, "noise", known, self.weight)
        return known[:1]

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        m0 = p.model(p.x, s)
        p.x = singlestep(p, s, t, "noise", m0, q)
        return [(s, m0)]
