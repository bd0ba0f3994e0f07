"""Embedded Runge-Kutta pairs for the probability flow, in the angle theta = atan(sigma / alpha).

    u = x / r,  r = sqrt(alpha^2 + sigma^2)          du / dtheta = (alpha eps - sigma x0) / r
    k_i = du / dtheta at theta_s + c_i H             u_t = u_s + H sum_i b_i k_i,      error H sum_i e_i k_i

The velocity prediction over r: nothing in it is singular at sigma = 0 or at alpha = 0, for any process.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import atan2
from typing import Any

from ..core.adaptive import Adaptive
from ..core.math import cos, log, sin, sqrt
from ..core.process import Node
from ._tableaus import PAIRS, Pair


@dataclass(frozen=True)
class Embedded(Adaptive):
    """Base of a solver some of whose methods are pairs."""

    rtol: float | None = None  # type: ignore[assignment]
    atol: float | None = None  # type: ignore[assignment]

    method: str = "dopri5"

    def __post_init__(self) -> None:
        given = next((v for v in (self.rtol, self.atol) if v is not None), None)
        if given is not None and self.method not in PAIRS:
            known = ", ".join(PAIRS)
            raise ValueError(f"solver {self.key!r}: rtol, atol go with {known}, got method={self.method!r}")
        for name in ("rtol", "atol") if self.adaptive else ():
            if getattr(self, name) is None:
                object.__setattr__(self, name, 1e-5 if given is None else given)
        super().__post_init__()

    @property
    def reuses_last(self) -> bool:
        return PAIRS[self.method].last_is_first

    def coordinate(self, n: Node) -> float:
        return -atan2(float(n.sigma), float(n.alpha))

    def node(self, clock: Any, v: Any) -> Node:
        return clock.at_lam(log(cos(v)) - log(sin(-v)))

    def attempt(self, p: Any, s: Node, t: Node) -> tuple[Any, Any]:
        pair: Pair = PAIRS[self.method]
        H, known = p.v0 - p.v1, []  # v is minus the angle

        def radius(n: Node) -> Any:
            return sqrt(n.alpha * n.alpha + n.sigma * n.sigma)

        def combined(weights: tuple[float, ...]) -> Any:
            return H * sum(w * k for w, k in zip(weights, known, strict=True) if w)

        u, end, y = p.x / radius(s), radius(t), p.x
        for row in pair.a:
            c = sum(row)
            last = abs(c - 1) < 1e-12
            n = t if last else self.node(s.clock, p.v0 - c * H) if row else s  # type: ignore[attr-defined]
            if row:
                y = (end if last else radius(n)) * (u + combined(row))
            known.append(p.model(y, n, "velocity") / (end if last else radius(n)))
        if not pair.last_is_first:
            y = end * (u + combined(pair.b))
        return y, end * combined(pair.e)
