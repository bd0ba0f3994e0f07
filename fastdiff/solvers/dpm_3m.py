"""DPM-Solver(3M): three-step exponential Adams-Bashforth in half log-SNR, noise prediction.

    x_t = (alpha_t / alpha_s) x_s - sigma_t int_0^h e^{h-u} P(u) du,      h = lambda_t - lambda_s

P: the parabola through the newest three noise predictions over lambda - lambda_s. While there are two only,
`dpm-2m` with `weight`. legacy=True halves P'', as public codes do; that leaves order 2.

Source: Lu et al. 2022, arXiv:2206.00927; the multistep form: Lu et al. 2022, DPM-Solver++.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Node
from ..core.solver import Multistep, Past
from ._exponential import multistep, singlestep


@dataclass(frozen=True)
class DPM3M(Multistep):
    key = "dpm-3m"
    predicts = "noise"
    source = "Lu et al. 2022, arXiv:2206.00927"

    order: int = 3
    weight: Literal["heun", "midpoint"] = "heun"
    legacy: bool = False

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = [*past, (s, p.model(p.x, s))]
        p.x = multistep(p.x, s, t, "noise", past[::-1], self.weight, curvature=0.5 if self.legacy else 1)
        return past

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        m0 = p.model(p.x, s)
        p.x = singlestep(p, s, t, "noise", m0, q)
        return [*past, (s, m0)]
