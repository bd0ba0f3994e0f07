"""Real: a number of 60 digits that formulas can be run over.

Whether a coefficient has cancelled, and so how many tensors a plan must carry, cannot be told in float64:
true coefficients reach 1e-16 of their addends. With 60 digits a gap of some 30 decades separates them from
rounding residue. Python's decimal module does the arithmetic in C: a product costs 0.15 us, an exponential
13 us.
"""
from __future__ import annotations

import decimal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

DIGITS = 60
PI = Decimal("3.141592653589793238462643383279502884197169399375105820974944592307816406286208998628")
# of its row's scale: what is smaller has cancelled (residue is below 1e-50, true coefficients above 1e-20)
ZERO = Decimal("1e-35")

_CONTEXT = decimal.Context(prec=DIGITS, rounding=decimal.ROUND_HALF_EVEN, Emin=-999999, Emax=999999, traps=[])


@contextmanager
def precision() -> Iterator[None]:
    """All arithmetic of Reals happens inside this context."""
    with decimal.localcontext(_CONTEXT):
        yield


class Real:
    """A Decimal that also takes ints and floats (exactly) on either side of an operator."""

    __slots__ = ("v",)
    __array_ufunc__ = None  # numpy leaves `float64 * Real` to us

    def __init__(self, v: Any):
        self.v = v if type(v) is Decimal else v.v if type(v) is Real else Decimal(v)

    def __add__(self, o: Any) -> Real:
        return Real(self.v + value(o)) if is_number(o) else NotImplemented

    def __sub__(self, o: Any) -> Real:
        return Real(self.v - value(o)) if is_number(o) else NotImplemented

    def __rsub__(self, o: Any) -> Real:
        return Real(value(o) - self.v) if is_number(o) else NotImplemented

    def __mul__(self, o: Any) -> Real:
        return Real(self.v * value(o)) if is_number(o) else NotImplemented

    def __truediv__(self, o: Any) -> Real:
        return Real(self.v / value(o)) if is_number(o) else NotImplemented

    def __rtruediv__(self, o: Any) -> Real:
        return Real(value(o) / self.v) if is_number(o) else NotImplemented

    def __pow__(self, n: Any) -> Real:
        return Real(self.v ** value(n))

    def __neg__(self) -> Real:
        return Real(-self.v)

    def __abs__(self) -> Real:
        return Real(abs(self.v))

    def __float__(self) -> float:
        return float(self.v)

    def __eq__(self, o: object) -> bool:
        return self.v == value(o) if is_number(o) else NotImplemented

    def __lt__(self, o: Any) -> bool:
        return self.v < value(o)

    def __le__(self, o: Any) -> bool:
        return self.v <= value(o)

    def __gt__(self, o: Any) -> bool:
        return self.v > value(o)

    def __ge__(self, o: Any) -> bool:
        return self.v >= value(o)

    def __hash__(self) -> int:
        return hash(self.v)

    def __repr__(self) -> str:
        return f"Real({float(self)!r})"

    __radd__, __rmul__ = __add__, __mul__

    # elementary functions, by the names that fastdiff.core.math looks for
    def exp(self) -> Real:
        return Real(self.v.exp())

    def expm1(self) -> Real:
        return Real(_guarded(self.v, lambda x: x.exp() - 1, Decimal(1) / 2))

    def log(self) -> Real:
        return Real(self.v.ln())

    def log1p(self) -> Real:
        return Real(_guarded(self.v, lambda x: (1 + x).ln(), Decimal(-1) / 2))

    def sqrt(self) -> Real:
        return Real(self.v.sqrt())

    def sin(self) -> Real:
        return Real(_sincos(self.v)[0])

    def cos(self) -> Real:
        return Real(_sincos(self.v)[1])


def is_number(o: Any) -> bool:
    return isinstance(o, (Real, int, float, Decimal))


def value(o: Any) -> Decimal:
    return o.v if type(o) is Real else o if type(o) is Decimal else Decimal(o)


def _guarded(x: Decimal, f: Callable[[Decimal], Decimal], curvature: Decimal) -> Decimal:
    """f(x) = x + curvature x^2 + ... with all its digits: near 0 the 1 inside f takes as many as x has
    leading zeros."""
    lost = -x.adjusted() if x.is_finite() and x else 0
    if lost > DIGITS // 2:
        return x + curvature * x * x
    with decimal.localcontext() as context:
        context.prec += max(lost, 0)
        return f(x)


def _sincos(x: Decimal) -> tuple[Decimal, Decimal]:
    """Taylor's series on x / 2^5, then five doublings; used by a few nodes per plan only."""
    x = x / 32
    square, term, k = x * x, Decimal(1), 0
    sin = cos = Decimal(0)
    while abs(term) > Decimal(10) ** -(DIGITS + 5):
        cos, sin = cos + term, sin + term / (k + 1)
        k += 2
        term = -term * square / (k * (k - 1))
    sin = sin * x
    for _ in range(5):
        sin, cos = 2 * sin * cos, cos * cos - sin * sin
    return sin, cos
