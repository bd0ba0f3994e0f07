"""Embedded Runge-Kutta pairs for the probability flow, in the angle theta = atan(sigma / alpha).

    u = x / r,  r = sqrt(alpha^2 + sigma^2)       du / dtheta = (alpha eps - sigma x0) / r
    k_i = du / dtheta at theta_s + c_i H          u_t = u_s + H sum_i b_i k_i       error: H sum_i e_i k_i

The velocity prediction over r: nothing in it is singular at sigma = 0 or at alpha = 0, for any process.

    heun21   Heun with Euler                         2(1), 2 calls an attempt
    bosh3    Bogacki & Shampine 1989                 3(2), 3
    dopri5   Dormand & Prince 1980                   5(4), 6
    tsit5    Tsitouras 2011, table 1                 5(4), 6

All but heun21 end with a call at (x_t, t) that the next step begins with.
"""
from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from ..core.math import cos, log, sin, sqrt
from ..core.process import Node


class Pair(NamedTuple):
    order: int  # of what goes on; the other is one lower
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...]  # b less the weights of the lower order

    @property
    def last_is_first(self) -> bool:
        return self.a[-1] == self.b[:-1]


def _pair(order: int, *rows: str) -> Pair:
    """Rows a, then b, then the lower order's weights."""
    *a, b, low = (tuple(map(Fraction, row.split())) for row in rows)
    e = tuple(float(x - y) for x, y in zip(b, low, strict=True))
    return Pair(order, ((), *(tuple(map(float, row)) for row in a)), tuple(map(float, b)), e)


_TSIT = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
)
PAIRS = {
    "heun21": _pair(2, "1", "1/2 1/2", "1 0"),
    "bosh3": _pair(3, "1/2", "0 3/4", "2/9 1/3 4/9", "2/9 1/3 4/9 0", "7/24 1/4 1/3 1/8"),
    "dopri5": _pair(
        5,
        "1/5",
        "3/40 9/40",
        "44/45 -56/15 32/9",
        "19372/6561 -25360/2187 64448/6561 -212/729",
        "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
        "35/384 0 500/1113 125/192 -2187/6784 11/84",
        "35/384 0 500/1113 125/192 -2187/6784 11/84 0",
        "5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40",
    ),
    "tsit5": Pair(
        5,
        (
            (),
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (
                5.86145544294642,
                -12.92096931784711,
                8.159367898576159,
                -0.071584973281401,
                -0.028269050394068383,
            ),
            _TSIT,
        ),
        (*_TSIT, 0.0),
        (
            -0.00178001105222577714,
            -0.0008164344596567469,
            0.007880878010261995,
            -0.1447110071732629,
            0.5823571654525552,
            -0.45808210592918697,
            1 / 66,
        ),
    ),
}


def node_at(clock: Any, angle: Any) -> Node:
    return clock.at_lam(log(cos(angle)) - log(sin(angle)))


def attempt(pair: Pair, p: Any, s: Node, t: Node) -> tuple[Any, Any]:
    """One step of the pair and its error; p.v0, p.v1: minus the angles of s and t."""
    H, known = p.v0 - p.v1, []  # of the angle, below 0

    def radius(n: Node) -> Any:
        return sqrt(n.alpha * n.alpha + n.sigma * n.sigma)

    start, end = radius(s), radius(t)

    def combined(weights: tuple[float, ...]) -> Any:
        total: Any = 0
        for w, k in zip(weights, known, strict=True):
            if w:
                total = total + w * k
        return H * total

    y = p.x
    for row in pair.a:
        c = sum(row)
        n, r = (t, end) if abs(c - 1) < 1e-12 else (s, start)
        if row:
            if n is s:
                n = node_at(s.clock, -p.v0 + c * H)  # type: ignore[attr-defined]
                r = radius(n)
            y = r * (p.x / start + combined(row))
        known.append(p.model(y, n, "velocity") / r)
    if not pair.last_is_first:
        y = end * (p.x / start + combined(pair.b))
    return y, end * combined(pair.e)
