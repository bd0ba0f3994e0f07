"""Reals against mpmath, which does the same arithmetic by other means."""
import decimal
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from fastdiff.core.number import DIGITS, PI, ZERO, Real, precision

mpmath = pytest.importorskip("mpmath")
mp = mpmath.mp.clone()
mp.dps = 80

POINTS = [1.0, 0.1, 3.7, 1e-3, 1e-9, 0.999999, 25.0, 123.456, 1e-25]


@pytest.fixture(autouse=True)
def sixty_digits():
    with precision():
        yield


def to_mp(x):
    return mp.mpf(str(x.v)) if isinstance(x, Real) else mp.mpf(x)


def close(real, exact, digits=57):
    return abs(to_mp(real) - exact) <= abs(exact) * mp.mpf(10) ** -digits


@pytest.mark.parametrize("a", POINTS)
@pytest.mark.parametrize("b", [2, 0.3, -7.25, 1e-12])
def test_arithmetic_is_that_of_mpmath(a, b):
    x, y = mp.mpf(a), mp.mpf(b)
    for left, right in ((Real(a), Real(b)), (Real(a), b), (a, Real(b))):
        assert close(left + right, x + y, 55)
        assert close(left - right, x - y, 55)
        assert close(left * right, x * y)
        assert close(left / right, x / y)
    assert close(Real(a) ** 3, x**3) and close(Real(a) ** 0.5, mp.sqrt(x), 55)
    assert close(-Real(a), -x) and close(abs(Real(-a)), x)


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "sqrt", "sin", "cos"])
@pytest.mark.parametrize("a", POINTS)
def test_functions_are_those_of_mpmath(name, a):
    assert close(getattr(Real(a), name)(), getattr(mp, name)(mp.mpf(a)), 55)


@pytest.mark.parametrize("a", [1e-3, -1e-3, 1e-12, -1e-30, 1e-31, 1e-80, 0.0])
def test_expm1_and_log1p_keep_every_digit_near_zero(a):
    assert close(Real(a).expm1(), mp.expm1(mp.mpf(a)))
    assert close(Real(a).log1p(), mp.log1p(mp.mpf(a)))


def test_floats_and_ints_enter_exactly():
    assert Fraction(Real(0.1).v) == Fraction(0.1) and Real(7).v == 7
    assert float(Real(0.1)) == 0.1 and Real(Real(0.1)) == Real(0.1)
    assert close(Real(PI), +mp.pi)


def test_comparisons():
    a = Real(0.5)
    assert a == 0.5 and 0.5 == a and a != 0.25 and a < 1 and 1 > a and a <= 0.5 and a >= Real(0.5)
    assert hash(a) == hash(Real(0.5)) and len({a, Real(0.5)}) == 1
    assert not a == "0.5" and a != None  # noqa: E711 - what == does with something that is no number
    with pytest.raises(TypeError):
        a + "1"


def test_numpy_scalars_leave_the_operation_to_real():
    for y in (np.float64(0.3) * Real(2), np.float64(0.3) + Real(2), np.float64(0.3) / Real(2)):
        assert isinstance(y, Real)
    assert Real(2) - np.float64(0.5) == 1.5


def test_infinities_do_not_raise():
    assert float(Real(0).log()) == -math.inf and float(Real("-Infinity").exp()) == 0
    assert float(Real(1) / Real(0)) == math.inf
    assert float(Real("-Infinity").expm1()) == -1


def test_cancellation_is_seen():
    """What ZERO is for: an identity that holds leaves less, a true difference of 1e-20 leaves more."""
    x = Real(0.7)
    assert abs(x.sin() * x.sin() + x.cos() * x.cos() - 1) < ZERO
    assert abs((x + Real(Decimal("1e-20"))) - x) > ZERO


def test_precision_is_left_as_it_was():
    assert decimal.getcontext().prec == DIGITS
    with precision():
        pass
    assert decimal.getcontext().prec == DIGITS
