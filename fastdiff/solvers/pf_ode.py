"""Runge-Kutta methods for the probability flow ODE, of fixed or of adaptive steps.

    coordinates "straight"    dy / dtau = d      y = x / c, d the slope: eps, or eps - x0 on straight paths
    coordinates "time"        dx / dt = u        the flow prediction u = alpha' x0 + sigma' eps

    k_i = field(y_s + H sum_j a_ij k_j) at s + c_i H,      y_t = y_s + H sum_i b_i k_i

method "euler" 1, "midpoint" 2, "heun" 2, "bosh3" 3, "rk4" 4: its order, and its calls a step. The last step
to sigma = 0 takes one call. Straight and "euler" is `euler`, straight and "heun" is `heun`.

rtol or atol makes the steps adaptive, by the pairs of `_embedded` in the angle atan(sigma / alpha): methods
"heun21", "bosh3", "dopri5", "tsit5"; all but "bosh3" are adaptive always, to 1e-5 if not told. One tolerance
given stands for both.

Source: Song et al. 2021, arXiv:2011.13456, appendix D.1; coordinates: Karras et al. 2022.
"""
from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import atan2
from typing import Any, Literal

from ..core.adaptive import Adaptive
from ..core.math import plain
from ..core.process import Node
from ..core.solver import Past
from ._embedded import PAIRS, attempt, node_at
from ._slope import at_tau

Tableau = tuple[tuple[tuple[Fraction, ...], ...], tuple[Fraction, ...]]  # rows a_ij below the diagonal; b


def _tableau(*rows: str) -> Tableau:
    *a, b = (tuple(map(Fraction, row.split())) for row in rows)
    return ((), *a), b


TABLEAUS = {
    "euler": _tableau("1"),
    "midpoint": _tableau("1/2", "0 1"),
    "heun": _tableau("1", "1/2 1/2"),
    "bosh3": _tableau("1/2", "0 3/4", "2/9 1/3 4/9"),
    "rk4": _tableau("1/2", "0 1/2", "0 0 1", "1/6 1/3 1/3 1/6"),
}
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "bosh3": 3, "rk4": 4}


@dataclass(frozen=True)
class PFODE(Adaptive):
    key = "pf-ode"
    predicts = "flow"
    source = "Song et al. 2021, arXiv:2011.13456"

    rtol: float | None = None  # type: ignore[assignment]
    atol: float | None = None  # type: ignore[assignment]
    method: Literal["euler", "midpoint", "heun", "bosh3", "rk4", "heun21", "dopri5", "tsit5"] = "heun"
    coordinates: Literal["straight", "time"] = "straight"

    def __post_init__(self) -> None:
        given = next((v for v in (self.rtol, self.atol) if v is not None), None)
        if given is not None and self.method not in PAIRS:
            raise ValueError(
                f"solver 'pf-ode': rtol and atol go with method {', '.join(PAIRS)}, got {self.method!r}"
            )
        if self.adaptive and self.coordinates != "straight":
            raise ValueError(
                f"solver 'pf-ode': adaptive steps go by the angle, got coordinates={self.coordinates!r}"
            )
        for name in ("rtol", "atol"):
            if self.adaptive and getattr(self, name) is None:
                object.__setattr__(self, name, 1e-5 if given is None else given)
        super().__post_init__()

    @property
    def adaptive(self) -> bool:  # type: ignore[override]
        return self.method not in ORDERS or self.rtol is not None or self.atol is not None

    @property
    def order(self) -> int:  # type: ignore[override]
        return PAIRS[self.method].order if self.adaptive else ORDERS[self.method]

    @property
    def reuses_last(self) -> bool:
        return PAIRS[self.method].last_is_first

    def coordinate(self, n: Node) -> float:
        return -atan2(float(n.sigma), float(n.alpha))

    def node(self, clock: Any, v: Any) -> Node:
        return node_at(clock, -v)

    def attempt(self, p: Any, s: Node, t: Node) -> tuple[Any, Any]:
        return attempt(PAIRS[self.method], p, s, t)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        a, b = TABLEAUS[self.method]
        straight = self.coordinates == "straight"
        kind, H = ("slope", t.tau - s.tau) if straight else ("flow", t.t - s.t)
        known: list[Any] = []

        def reached(n: Node, row: tuple[Fraction, ...]) -> Any:
            y = p.x / s.scale if straight else p.x
            for w, k in zip(row, known, strict=True):
                if w:
                    y = y + H * w.numerator / w.denominator * k
            return n.scale * y if straight else y

        for row in a:
            n = self.between(s, t, sum(row, Fraction(0)))
            known.append(p.model(reached(n, row) if row else p.x, n, kind))
        p.x = reached(t, b)
        return []

    def between(self, s: Node, t: Node, c: Fraction) -> Node:
        if c in (0, 1):
            return t if c else s
        straight = self.coordinates == "straight"
        a, b = (s.tau, t.tau) if straight else (s.t, t.t)
        at = a + (b - a) * c.numerator / c.denominator  # the division is exact over Reals
        return at_tau(s, at) if straight else s.process.node(at)

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """Regular at alpha = 0 in time, and on straight paths."""
        singular = self.coordinates == "straight" and plain(s.scale) == 0
        return super().first(p, s, t) if singular else self.step(p, s, t, [])
