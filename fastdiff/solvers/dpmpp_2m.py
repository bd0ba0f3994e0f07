"""DPM-Solver++(2M): two-step exponential Adams-Bashforth in half log-SNR, data prediction.

    x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - e^{-h}) m_0 + alpha_t c d,      d = (m_0 - m_1) / r
    h   = lambda_t - lambda_s,      r = h_previous / h

    weight "midpoint"   c = (1 - e^{-h}) / 2
    weight "heun"       c = 1 - (1 - e^{-h}) / h       exact for a data prediction linear in lambda

The first step has no m_1 and leaves d out: local error h^2 once, global order 2 kept. order=1 is `ddim`.

    cfg_pp    x_t = alpha_t m_0 + sigma_t eps + alpha_t c (u_0 - u_1) / r,      m guided, u and its eps not

is CFG++ (see `euler`). legacy=True has m_0 - u_1 there, as ComfyUI does: that counts some of the guidance
m_0 - u_0 as if it were a change from one step to the next.

Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2; CFG++: Chung et al. 2024, arXiv:2406.08070.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import expm1
from ..core.process import Node
from ..core.solver import Multistep, Past
from ._exponential import singlestep


@dataclass(frozen=True)
class DPMpp2M(Multistep):
    key = "dpmpp-2m"
    predicts = "data"
    orders = (1, 2)
    source = "Lu et al. 2022, arXiv:2211.01095"

    weight: Literal["midpoint", "heun"] = "midpoint"
    cfg_pp: bool = False
    legacy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cfg_pp and self.startup == "single":
            raise ValueError(f"solver {self.key!r}: cfg_pp=True has no startup='single'; use 'ramp'")

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        h = t.lam - s.lam
        m0 = new = p.model(p.x, s)
        if self.cfg_pp:
            p.x, m0 = t.alpha * m0 + t.sigma * p.branch(1, "noise"), p.branch(1)
            new = new if self.legacy else m0
        else:
            p.x = t.sigma / s.sigma * p.x - t.alpha * expm1(-h) * m0
        if past:
            u, m1 = past[-1]
            d = (new - m1) * (h / (s.lam - u.lam))
            c = -expm1(-h) / 2 if self.weight == "midpoint" else 1 + expm1(-h) / h
            p.x = p.x + t.alpha * c * d
        return [(s, m0)]

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        m0 = p.model(p.x, s)
        p.x = singlestep(p, s, t, "data", m0, q)
        return [(s, m0)]
