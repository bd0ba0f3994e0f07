"""Explicit Adams methods: weights of the newest slopes.

    interpolated   w_j = int_s^t L_j, L_j the Lagrange polynomials on the nodes' own spacing
    mixed          the weights of equal steps; of velocities v_i = (1 - b) v_{i-1} + b d_i as well

Source: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, III.1; velocities: Wizadwongsa
et al. 2023, arXiv:2307.11118.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.math import Number, adams_weights, plain
from ..core.process import Node
from ..core.solver import Multistep, Past
from ._coordinates import STRAIGHT, Coordinates, Straight, add, total
from ._runge_kutta import runge_kutta

# K -> numerators p + q b of the K-step rule on velocities, and its denominator;
# b = 1 is Adams-Bashforth
MIXTURES: dict[int, tuple[tuple[tuple[int, int], ...], int]] = {
    1: (((0, 1),), 1),
    2: (((2, 1), (-2, 1)), 2),
    3: (((18, 5), (-24, 8), (6, -1)), 12),
    4: (((46, 9), (-78, 19), (42, -5), (-10, 1)), 24),
    5: (((1650, 251), (-3420, 646), (2880, -264), (-1380, 106), (270, -19)), 720),
}


def mixed(slopes: Sequence[Any], b: Number = 1) -> Any:
    """One slope from velocities, newest first, whose steps are of equal size; b = 1: from slopes."""
    rows, denominator = MIXTURES[len(slopes)]
    return total([p + q * b for p, q in rows], slopes) / (denominator * b)


def interpolated(s: Node, t: Node, nodes: Sequence[Node], on: Coordinates = STRAIGHT) -> list[Number]:
    """w_j = int_s^t L_j, the polynomials in the clock of `on`."""
    return adams_weights(0, on.clock(t) - on.clock(s), [on.clock(n) - on.clock(s) for n in nodes])


@dataclass(frozen=True)
class Adams(Straight, Multistep):
    """Base of the explicit Adams methods; `weights` says how much of each slope, newest first.

    Their weights are finite at sigma = 0, so that the step there is one like the others.

    legacy: never a lower order than the history allows.
    """

    order: int = 4
    legacy: bool = False

    orders = (1, 2, 3, 4)

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        return self.order if self.legacy else super().limit(step, steps)

    def weights(self, s: Node, t: Node, nodes: Sequence[Node]) -> Sequence[Number]:
        return interpolated(s, t, nodes)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        known = [(s, p.model(p.x, s)), *past[::-1]][: self.order]
        weights = self.weights(s, t, [n for n, _ in known])
        p.x = add(p.x, s, t, total(weights, [d for _, d in known]))
        return known[::-1]

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        d = p.model(p.x, s)
        p.x = runge_kutta(p, s, t, d, q)
        return [*past, (s, d)]

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        return super().last(p, s, t, past) if plain(s.scale) == 0 else self.step(p, s, t, past)
