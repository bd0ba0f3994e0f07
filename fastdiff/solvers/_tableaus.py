"""Runge-Kutta tables: of fixed steps, and embedded pairs whose difference is an estimate of the error.

    heun21   Heun with Euler                    bosh3    Bogacki & Shampine 1989, 3(2)
    dopri5   Dormand & Prince 1980, 5(4)        tsit5    Tsitouras 2011, table 1, 5(4)
"""
from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

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


class Pair(NamedTuple):
    order: int  # of what goes on; the other is one lower
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...]  # b less the weights of the lower order

    @property
    def last_is_first(self) -> bool:
        """It ends with a call at (x_t, t), which the next step begins with."""
        return self.a[-1] == self.b[:-1]


def _pair(order: int, *rows: str) -> Pair:
    """Rows of a, then b, then the lower order's weights."""
    a, b = _tableau(*rows[:-1])
    e = tuple(float(x - Fraction(y)) for x, y in zip(b, rows[-1].split(), strict=True))
    return Pair(order, tuple(tuple(map(float, row)) for row in a), tuple(map(float, b)), e)


def _decimals(order: int, *rows: str) -> Pair:
    """The same without b, which is the last row of a; errors instead of weights."""
    *a, e = (tuple(map(float, row.split())) for row in rows)
    return Pair(order, ((), *a), (*a[-1], 0.0), e)


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
    "tsit5": _decimals(
        5,
        "0.161",
        "-0.008480655492356989 0.335480655492357",
        "2.8971530571054935 -6.359448489975075 4.3622954328695815",
        "5.325864828439257 -11.748883564062828 7.4955393428898365 -0.09249506636175525",
        "5.86145544294642 -12.92096931784711 8.159367898576159 -0.071584973281401 -0.028269050394068383",
        "0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 2.324710524099774",
        "-0.00178001105222577714 -0.0008164344596567469 0.007880878010261995 -0.1447110071732629 "
        "0.5823571654525552 -0.45808210592918697 0.015151515151515152",
    ),
}
