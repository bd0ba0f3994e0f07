"""PNDM, also known as PLMS: fourth-order Adams-Bashforth weights in straight coordinates, after a warm-up.

    x_t / c_t = x_s / c_s + (tau_t - tau_s) (55 d_0 - 59 d_1 + 37 d_2 - 9 d_3) / 24

    warmup "trapezoid"     the first step is Heun's (two calls), then two and three slopes: PLMS
    warmup "runge-kutta"   the first three steps are the classical Runge-Kutta's, four calls each, with the
                           inner node half-way in t

Order 2 on smooth grids. To sigma = 0 it is the same formula; with fewer than 15 steps x = alpha x0 there, but
for legacy=True, as diffusers.

Source: Liu et al. 2022, arXiv:2202.09778, algorithm 2; PLMS: CompVis' latent-diffusion.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import plain
from ..core.process import Node
from ..core.solver import Past
from ._adams import mixed
from ._coordinates import Straight
from ._slope import along


@dataclass(frozen=True)
class PNDM(Straight):
    key = "pndm"
    order = memory = 2
    source = "Liu et al. 2022, arXiv:2202.09778"

    warmup: Literal["trapezoid", "runge-kutta"] = "trapezoid"
    legacy: bool = False

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        d = p.model(p.x, s)
        known = [d, *past[:-4:-1]]
        if self.warmup == "runge-kutta" and len(past) < 3:
            u = s.process.node((s.t + t.t) / 2)
            d1 = p.model(along(p.x, s, u, d), u)
            d2 = p.model(along(p.x, s, u, d1), u)
            d3 = p.model(along(p.x, s, t, d2), t)
            p.x = along(p.x, s, t, (d + 2 * d1 + 2 * d2 + d3) / 6)
        elif not past:
            d1 = p.model(along(p.x, s, t, d), t)
            p.x = along(p.x, s, t, (d + d1) / 2)
        else:
            p.x = along(p.x, s, t, mixed(known))
        return known[::-1]

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        short = p.steps < 15 and not self.legacy
        if short or plain(s.scale) == 0 or len(past) < (3 if self.warmup == "runge-kutta" else 1):
            return super().last(p, s, t, past)
        return self.step(p, s, t, past)
