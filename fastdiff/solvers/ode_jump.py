"""ODE-Jump: some steps of a solver, then straight to the data prediction there; a wrapper of any solver.

    x_0 = alpha_0 x0(x_k, t_k)      after k = `after` steps; the steps left do nothing and call nothing

after=None goes all the way: the inner solver. The data prediction runs ahead of the state, so that it is
close to the final sample long before the state is.

Source: Chen et al. 2023, arXiv:2305.19947.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..core.process import Node
from ..core.solver import Past
from ._wrapper import Wrapper


@dataclass(frozen=True)
class ODEJump(Wrapper):
    key = "ode-jump"
    source = "Chen et al. 2023, arXiv:2305.19947"

    after: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.after is not None and (type(self.after) is not int or self.after < 0):
            raise ValueError(f"solver 'ode-jump': after must be a count of steps or None, got {self.after!r}")

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        if self.after is None or self.after >= len(nodes) - 1:
            return self.made.record(p, nodes, route)
        if route is not None or not nodes[-1].clean:
            raise ValueError("ode-jump ends at the process's zero (final='zero') and takes no hook's route")
        p.steps = len(nodes) - 1
        p.x = p.inside(p.x, nodes[0])
        past: Past = []
        for i, (s, t) in enumerate(pairwise(nodes)):
            p.begin(i, s)
            if i < self.after:
                past = self.made.move(p, s, t, past, self.made.limit(i, p.steps))
            elif i == self.after:
                past = self.made.last(p, s, nodes[-1], past)
            past = p.finish(past, t if i < self.after else nodes[-1])
        p.x = p.outside(p.x, nodes[-1])
        return None
