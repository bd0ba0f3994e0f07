"""DPM-Solver++(3M): three-step exponential Adams-Bashforth in half log-SNR, data prediction.

    x_t = (sigma_t / sigma_s) x_s + alpha_t int_0^h e^{u-h} P(u) du,      h = lambda_t - lambda_s

P: the parabola through the newest three data predictions over lambda - lambda_s. While there are two only,
`dpmpp-2m` with `weight`. legacy=True halves P'', as public codes do; that leaves order 2.

Source: Lu et al. 2022, arXiv:2211.01095.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Node
from ..core.solver import Multistep, Past
from ._exponential import multistep, singlestep


@dataclass(frozen=True)
class DPMpp3M(Multistep):
    key = "dpmpp-3m"
    predicts = "data"
    source = "Lu et al. 2022, arXiv:2211.01095"

    order: int = 3
    weight: Literal["heun", "midpoint"] = "heun"
    legacy: bool = False

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = [*past, (s, p.model(p.x, s))]
        p.x = multistep(p.x, s, t, "data", past[::-1], self.weight, curvature=0.5 if self.legacy else 1)
        return past

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        m0 = p.model(p.x, s)
        p.x = singlestep(p, s, t, "data", m0, q)
        return [*past, (s, m0)]
