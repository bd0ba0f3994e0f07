"""Inverse: a solver's run taken from the data up to the noise, as a plan of the same times.

    reversible    every step undone, exactly
    otherwise     its own steps over the nodes in reverse (explicit), each followed by `iterations` of

        x <- x + (c_s / c_t) (x_t - step(x)),      c of Node.scale (sigma where that is 0)

whose fixed point is what the solver's step takes to x_t. For DDIM on curved paths this is the usual
x = (alpha_s / alpha_t) x_t + (sigma_s - (alpha_s / alpha_t) sigma_t) eps(x, s). It contracts where the factor
of eps times its Lipschitz constant is below 1: always when the steps are fine enough.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.math import plain
from ..core.process import Node
from ..core.solver import Past, Solver
from ._reversible import Reversible, ascend


@dataclass(frozen=True)
class Inverse(Solver):
    solver: Solver
    iterations: int = 0
    second: str | None = None  # its name in consts, of a reversible solver at the data; None: a guess

    def __post_init__(self) -> None:
        object.__setattr__(self, "predicts", self.solver.predicts)

    @property
    def order(self) -> Any:
        return self.solver.order

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        if route is not None:
            raise ValueError("an inversion goes straight up: it does not go with a hook's route")
        p.steps = len(nodes) - 1
        p.x = p.inside(p.x, nodes[-1])
        (self.exactly if isinstance(self.solver, Reversible) else self.closely)(p, nodes)
        p.x = p.outside(p.x, nodes[0])

    def exactly(self, p: Any, nodes: Sequence[Node]) -> None:
        solver, last, past = self.solver, len(nodes) - 1, []
        assert isinstance(solver, Reversible)
        for i in range(last - 1, -1, -1):
            p.begin(i, nodes[i])
            if i == last - 1:
                ends = nodes[last], nodes[i]
                second = p.given(self.second) if self.second else solver.guess(p, *ends)
                past = solver.resume(p, second, *ends)
            past = solver.undo(p, nodes[i], nodes[i + 1], past, nodes[i - 1] if i else None)
            past = p.finish(past, nodes[i])
        p.emit("second", solver.held(past))

    def closely(self, p: Any, nodes: Sequence[Node]) -> None:
        past: Past = []
        up = nodes[::-1]
        for i, (t, s) in enumerate(zip(up, up[1:], strict=False)):
            p.begin(i, t)
            target, ratio = p.x, s.sigma / t.sigma if plain(s.scale) == 0 else s.scale / t.scale
            if t.clean and s.pure:
                raise ValueError("one step from data to pure noise keeps nothing of the data; use more steps")
            if t.clean or s.pure:
                p.x, past = ascend(p, t, s), []
            else:
                past = self.solver.move(p, t, s, past, self.solver.limit(i, p.steps))
            for _ in range(self.iterations):
                x = p.x = p.keep(p.x)
                if self.solver.move(p, s, t, [], 1):
                    raise ValueError(f"iterations: {self.solver.key} leaves a history; use a one-step solver")
                p.x = x + ratio * (target - p.x)
            past = p.finish(past, s)
