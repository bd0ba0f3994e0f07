"""EDICT: two coupled DDIM chains, each stepped by the other's prediction; exactly invertible.

    x' = F(x; eps(y, s)),      y' = F(y; eps(x', s)),      F(x; eps): DDIM from s to t
    x  = mix x' + (1 - mix) y',      y = mix y' + (1 - mix) x

Order 1 by two network calls a step. alternate=True lets y lead in every other step, as the released code
does. The inverse divides by mix twice a step, so that on the way up rounding, and the distance of the two
chains, grow like mix^{-2N} at most; on the way down the distance grows like 1 / alpha_T. Fifty steps are good
to 1e-12 in float64 and to 1e-4 in float32 (2e-4 where the leaders alternate).

Source: Wallace et al. 2023, arXiv:2211.12446.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Past, check_range
from ._reversible import Reversible, field, jump, jump_back


@dataclass(frozen=True)
class EDICT(Reversible):
    key = "edict"
    order = 1
    source = "Wallace et al. 2023, arXiv:2211.12446"

    mix: float = 0.93
    alternate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "mix", 0.5, 1)

    def turn(self, p: Any, x: Any, y: Any) -> tuple[Any, Any]:
        """The leading state first."""
        return (y, x) if self.alternate and p.step % 2 else (x, y)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        x, y = self.turn(p, p.x, past[-1] if past else p.x)
        x = jump(x, s, t, field(p, y, s))
        y = jump(y, s, t, field(p, x, s))
        x = self.mix * x + (1 - self.mix) * y
        y = self.mix * y + (1 - self.mix) * x
        p.x, y = self.turn(p, x, y)
        return [y]

    def undo(self, p: Any, s: Node, t: Node, past: Past, before: Node | None) -> Past:
        x, y = self.turn(p, p.x, past[-1])
        y = (y - (1 - self.mix) * x) / self.mix
        x = (x - (1 - self.mix) * y) / self.mix
        y = jump_back(y, s, t, field(p, x, s))
        x = jump_back(x, s, t, field(p, y, s))
        p.x, y = self.turn(p, x, y)
        return [y]

    def resume(self, p: Any, second: Any, here: Node, other: Node) -> Past:
        return [second]

    def held(self, past: Past) -> Any:
        return past[-1]
