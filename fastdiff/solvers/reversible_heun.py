"""Reversible Heun: Heun's method by one network call a step, exactly invertible; y = x / c and slope d.

    z_t = 2 y_s - z_s + H d(z_s, s)
    y_t = y_s + H / 2 (d(z_s, s) + d(z_t, t)),      H = tau_t - tau_s;      z = y at the start

Its inverse is the same step with H -> -H. Order 2. To sigma = 0 one step y_t = y_s + H d(z_s, s) keeps z.
One more call at the start; from alpha = 0 on curved paths the shared first step, which has no inverse.

Source: Kidger et al. 2021, arXiv:2105.13493, algorithm 1.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import plain
from ..core.process import Node
from ..core.solver import Past
from ._reversible import Reversible
from ._slope import along


@dataclass(frozen=True)
class ReversibleHeun(Reversible):
    key = "reversible-heun"
    order = 2
    memory = 0
    source = "Kidger et al. 2021, arXiv:2105.13493"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if plain(s.scale) == 0:
            return self.first(p, s, t)
        z, d = past[-1] if past else (p.x, p.model(p.x, s))
        if t.clean:
            p.x = along(p.x, s, t, d)
            return [(z, d)]
        z = along(2 * p.x - z, s, t, d)
        new = p.model(z, t)
        p.x = along(p.x, s, t, (d + new) / 2)
        return [(z, new)]

    def undo(self, p: Any, s: Node, t: Node, past: Past, before: Node | None) -> Past:
        self.regular(s)
        if t.clean:
            p.x = along(p.x, t, s, past[-1][1])
            return past
        return self.step(p, t, s, past)

    def resume(self, p: Any, second: Any, here: Node, other: Node) -> Past:
        self.regular(here)
        return [(second, p.model(second, other if here.clean else here))]

    def held(self, past: Past) -> Any:
        return past[-1][0]

    def guess(self, p: Any, here: Node, other: Node) -> Any:
        return other.scale / here.scale * p.x if here.clean else p.x

    def regular(self, s: Node) -> None:
        if plain(s.scale) == 0:
            raise ValueError(
                f"reversible-heun: x / alpha does not exist at t={plain(s.t):g}, where alpha = 0; "
                "start below it, or use edict or bdia"
            )
