"""What the exactly invertible solvers share: a state of two tensors, and the inverse of every step.

x and a second tensor at one end of the times determine both at the other end, by `step` down and by `undo`
up, to rounding. Where x alone is known the second is made of it: by the solver's first step at the noisy end,
by `guess` at the data. `jump` is the DDIM map by a given prediction in straight coordinates, finite at
alpha = 0 and at sigma = 0, which no step of these solvers leaves to a rule of its own.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..core.math import plain
from ..core.process import Node
from ..core.solver import Past, Solver
from ._slope import along


@dataclass(frozen=True)
class Reversible(Solver):
    """second: the name, in `consts`, of the second tensor at the start; None: it is made of x."""

    predicts = "slope"
    memory = 1

    second: str | None = None

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        if self.second is None:
            return super().record(p, nodes, route)
        if route is not None:
            raise ValueError(f"{self.key} from a pair of tensors does not go with a hook's route")
        p.steps = len(nodes) - 1
        p.x = p.inside(p.x, nodes[0])
        past: Past = []
        for i, (s, t) in enumerate(pairwise(nodes)):
            p.begin(i, s)
            past = past if i else self.resume(p, p.given(self.second), s, t)
            past = p.finish(self.step(p, s, t, past), t)
        p.x = p.outside(p.x, nodes[-1])
        p.emit("second", self.held(past))
        return None

    def move(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        return self.step(p, s, t, past)

    def undo(self, p: Any, s: Node, t: Node, past: Past, before: Node | None) -> Past:
        """p.x and the history after the step from s to t -> those before it; `before` comes before s."""
        raise TypeError(f"{type(self).__name__} does not define undo(p, s, t, past, before)")

    def resume(self, p: Any, second: Any, here: Node, other: Node) -> Past:
        """The history at an end of the times, of its second tensor; `other` is the node beside it."""
        raise TypeError(f"{type(self).__name__} does not define resume(p, second, here, other)")

    def held(self, past: Past) -> Any:
        """The second tensor of a history."""
        raise TypeError(f"{type(self).__name__} does not define held(past)")

    def guess(self, p: Any, here: Node, other: Node) -> Any:
        """The second tensor at the data end, where p.x alone is known."""
        return p.x


def field(p: Any, x: Any, s: Node) -> Any:
    """The prediction at s by which to jump."""
    return p.model(x, s, "data" if plain(s.scale) == 0 else "slope")


def jump(x: Any, s: Node, t: Node, m: Any) -> Any:
    """DDIM from s to t, up or down, by the prediction m at s."""
    if plain(s.scale) == 0:
        return t.sigma / s.sigma * x + t.alpha * m
    return t.sigma * m if plain(t.scale) == 0 else along(x, s, t, m)


def jump_back(x: Any, s: Node, t: Node, m: Any) -> Any:
    """What `jump` takes from s to x at t."""
    return s.sigma / t.sigma * (x - t.alpha * m) if plain(s.scale) == 0 else along(x, t, s, m)


def ascend(p: Any, t: Node, s: Node) -> Any:
    """Explicit DDIM inversion: p.x at t -> x at the noisier s. From sigma = 0, where data say nothing of the
    noise, the network is asked at s."""
    if not t.clean:
        return jump(p.x, t, s, p.model(p.x, t, "slope"))
    x = s.alpha / t.alpha * p.x
    return x + s.sigma * p.model(x, s, "noise")
