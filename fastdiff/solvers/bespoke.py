"""Bespoke: one Runge-Kutta step on a trained scale and a trained time, x / c = y(tau) / s(r), tau = tau(r).

With d the slope dy / dtau, D = tau_t - tau_s, and numbers of each step

    order 1   y_t = ((1 + rate) y + speed D d) / scale
    order 2   z   = (1 + rate / 2) y + speed D d / 2
              y_t = (y + rate_m z + half speed_m D d(z / half, tau_s + mid D)) / scale

    scale = s_t / s_s    half = s_m / s_s    rate = h s' / s    speed = h tau' / D    mid = (tau_m - tau_s) /
    D

Without a table it is Euler's method or the midpoint rule. Any smooth s and tau keep the order: a whole family
of paths and solvers, out of which `fd.tune.bespoke` takes the one that suits a network.

Source: Shaul et al. 2023, arXiv:2310.19075.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import Number, plain
from ..core.process import Node
from ..core.solver import Past, Solver
from ._slope import at_tau

COLUMNS = {1: ("scale", "rate", "speed"), 2: ("scale", "rate", "speed", "mid", "half", "rate_m", "speed_m")}
PLAIN = {1: (1.0, 0.0, 1.0), 2: (1.0, 0.0, 1.0, 0.5, 1.0, 0.0, 1.0)}


@dataclass(frozen=True)
class Bespoke(Solver):
    """table: one row of numbers for each step, in the order of `COLUMNS[order]`; (): the plain rule"""

    key = "bespoke"
    predicts = "slope"
    source = "Shaul et al. 2023, arXiv:2310.19075"

    order: Literal[1, 2] = 2
    table: Any = ()

    orders = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            table = tuple(tuple(map(float, row)) for row in self.table)
        except (TypeError, ValueError) as e:
            raise TypeError(f"solver 'bespoke': table must be rows of numbers, got {self.table!r}") from e
        for row in table:
            known = dict(zip(COLUMNS[self.order], row, strict=False))
            if len(row) != len(COLUMNS[self.order]) or not all(abs(v) < float("inf") for v in row):
                raise ValueError(
                    f"solver 'bespoke': a row of order {self.order} has "
                    f"{', '.join(COLUMNS[self.order])}, finite numbers; got {row}"
                )
            if known["scale"] <= 0 or known.get("half", 1) <= 0 or not 0 < known.get("mid", 0.5) < 1:
                raise ValueError(
                    f"solver 'bespoke': scale and half must be positive, mid between 0 and 1; got {known}"
                )
        object.__setattr__(self, "table", table)

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        if len(self.table) not in (0, steps):
            raise ValueError(
                f"solver 'bespoke': table has {len(self.table)} rows for {steps} steps; give one for each"
            )
        return self.order

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        self.limit(p.step, p.steps)
        p.x = advance(p, s, t, self.table[p.step] if self.table else PLAIN[self.order])
        return []

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """Straight paths are regular at alpha = 0; elsewhere tau has no end there, and no number matters."""
        return super().first(p, s, t) if plain(s.scale) == 0 else self.step(p, s, t, [])

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        """tau = 0 is regular; from pure noise in one step there is the data prediction alone."""
        return super().last(p, s, t, past) if plain(s.scale) == 0 else self.step(p, s, t, past)


def advance(p: Any, s: Node, t: Node, row: Sequence[Number]) -> Any:
    """x at t by one step of the rule with these numbers."""
    gap, y = t.tau - s.tau, p.x / s.scale
    d = p.model(p.x, s)
    scale, rate, speed, *inner = row
    if not inner:
        return t.scale / scale * ((1 + rate) * y + speed * gap * d)
    mid, half, rate_m, speed_m = inner
    z = (1 + rate / 2) * y + speed * gap / 2 * d
    m = at_tau(s, s.tau + mid * gap)
    d_m = p.model(m.scale / half * z, m)
    return t.scale / scale * (y + rate_m * z + half * speed_m * gap * d_m)
