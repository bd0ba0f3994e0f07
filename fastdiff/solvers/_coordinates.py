"""Coordinates in which the flow is a plain integral, dy = d dw with y = x / c: a step adds weighted slopes.

    x_t / c_t = x_s / c_s + sum_j w_j d_j

    STRAIGHT  c, w of Node.scale and Node.tau: d is the "slope" prediction; eps in w = sigma / alpha, or
              eps - x0 in t where paths are straight
    RHO       c = alpha, w = sigma / alpha, d = eps on every process
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..core.math import Number, log, plain
from ..core.process import Node
from ..core.solver import Past, Solver
from ._slope import at_tau


class Coordinates(NamedTuple):
    kind: str  # the prediction that is dy / dw
    scale: Callable[[Node], Number]
    clock: Callable[[Node], Number]
    at: Callable[[Node, Number], Node]  # the node of the same process at a clock


STRAIGHT = Coordinates("slope", lambda n: n.scale, lambda n: n.tau, at_tau)
RHO = Coordinates("noise", lambda n: n.alpha, lambda n: n.rho, lambda n, rho: n.at(-log(rho)))


def add(x: Any, s: Node, t: Node, slopes: Any, on: Coordinates = STRAIGHT) -> Any:
    """From s to t by a weighted sum of slopes."""
    return on.scale(t) * (x / on.scale(s) + slopes)


def total(weights: Sequence[Number], slopes: Sequence[Any]) -> Any:
    return sum(w * d for w, d in zip(weights, slopes, strict=True))


class Straight(Solver):
    """Base of the methods that step in straight coordinates, without churn."""

    predicts = "slope"

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """Straight paths are regular at alpha = 0, and the slope there is history."""
        return super().first(p, s, t) if plain(s.scale) == 0 else self.step(p, s, t, [])
