"""Heavy ball: the direction of a step is a running mean of the directions of a solver, v_0 = p_0.

    v = (1 - beta) v + beta p

Enlarges the region of stability and costs the order: 1 for beta < 1, whatever the solver's.
Source: Wizadwongsa et al. 2023, arXiv:2307.11118, section 4.1.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Node
from ..core.solver import Past, Solver, check_range
from ._adams import mixed
from ._coordinates import Straight
from ._slope import along


@dataclass(frozen=True)
class HeavyBall(Solver):
    order = 1

    beta: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "beta", 0.01, 1)

    def smooth(self, v: Any, p: Any) -> Any:
        """v None: no step has been taken."""
        return p if v is None else (1 - self.beta) * v + self.beta * p


@dataclass(frozen=True)
class HeavyPLMS(HeavyBall, Straight):
    """Adams-Bashforth with the weights of equal steps; history: slopes, and the velocity with each."""

    memory = 3

    nodes: Literal[1, 2, 3, 4] = 4

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        d = p.model(p.x, s)
        known = [d, *(d for d, _ in past[::-1])][: self.nodes]
        mean = mixed(known)
        v = self.smooth(past[-1][1] if past else None, mean)
        p.x = along(p.x, s, t, self.direction(v, mean))
        return [*((d, None) for d, _ in past), (d, v)][-max(1, self.nodes - 1) :]

    def direction(self, v: Any, mean: Any) -> Any:
        return v
