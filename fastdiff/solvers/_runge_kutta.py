"""Runge-Kutta: stages at fractions of a step, in coordinates where the flow is a plain integral.

Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.1.
"""
from __future__ import annotations

from typing import Any

from ..core.math import Number
from ..core.process import Node
from ._coordinates import STRAIGHT, Coordinates, add, total

# order -> rows of stages (fraction of the step, weights of the slopes before), then the weights of all
TABLEAUX: dict[int, tuple[tuple[tuple[Number, tuple[Number, ...]], ...], tuple[tuple[int, ...], int]]] = {
    1: ((), ((1,), 1)),
    2: (((1, (1,)),), ((1, 1), 2)),  # Heun
    3: (((0.5, (0.5,)), (1, (-1, 2))), ((1, 4, 1), 6)),  # Kutta
    4: (((0.5, (0.5,)), (0.5, (0, 0.5)), (1, (0, 0, 1))), ((1, 2, 2, 1), 6)),  # the classical one
}


def runge_kutta(p: Any, s: Node, t: Node, d: Any, order: int, on: Coordinates = STRAIGHT) -> Any:
    """x at t from the slope d at s, by order - 1 more calls."""
    stages, (weights, denominator) = TABLEAUX[order]
    step, slopes = on.clock(t) - on.clock(s), [d]
    for c, row in stages:
        u = t if c == 1 else on.at(s, on.clock(s) + step * c)
        terms = [(a, d) for a, d in zip(row, slopes, strict=True) if a]
        slopes.append(p.model(add(p.x, s, u, step * sum(a * d for a, d in terms), on), u, on.kind))
    return add(p.x, s, t, step * (total(weights, slopes) / denominator), on)
