"""Runge-Kutta methods for the probability flow ODE, of fixed or of adaptive steps.

    coordinates "straight"    dy / dtau = d      y = x / c, d the slope: eps, or eps - x0 on straight paths
                              of a linear process: z over t
    coordinates "time"        dx / dt = u        the flow prediction u = alpha' x0 + sigma' eps

    k_i = field(y_s + H sum_j a_ij k_j) at s + c_i H,      y_t = y_s + H sum_i b_i k_i

method "euler" 1, "midpoint" 2, "heun" 2, "bosh3" 3, "rk4" 4: its order, and its calls a step. The last step
to sigma = 0 takes one call. Straight and "euler" is `euler`, straight and "heun" is `heun`.

rtol or atol makes the steps adaptive, by the pairs in the angle atan(sigma / alpha): methods
"heun21", "bosh3", "dopri5", "tsit5"; all but "bosh3" are adaptive always, to 1e-5 if not told. One tolerance
given stands for both.

Source: Song et al. 2021, arXiv:2011.13456, appendix D.1; coordinates: Karras et al. 2022.
"""
from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from ..core.math import plain
from ..core.process import Node
from ..core.solver import Past
from ._embedded import Embedded
from ._slope import at_tau
from ._tableaus import ORDERS, PAIRS, TABLEAUS


@dataclass(frozen=True)
class PFODE(Embedded):
    key = "pf-ode"
    kinds = ("gaussian", "linear")
    predicts = "flow"
    source = "Song et al. 2021, arXiv:2011.13456"

    method: Literal["euler", "midpoint", "heun", "bosh3", "rk4", "heun21", "dopri5", "tsit5"] = "heun"
    coordinates: Literal["straight", "time"] = "straight"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adaptive and self.coordinates != "straight":
            raise ValueError(f"solver 'pf-ode': coordinates={self.coordinates!r}; pairs step in the angle")

    @property
    def adaptive(self) -> bool:  # type: ignore[override]
        return self.method not in ORDERS or self.rtol is not None or self.atol is not None

    @property
    def order(self) -> int:  # type: ignore[override]
        return PAIRS[self.method].order if self.adaptive else ORDERS[self.method]

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
