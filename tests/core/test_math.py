"""Elementary functions on every kind of number, phi functions and interpolation weights against mpmath."""
import math

import numpy as np
import pytest
import torch

from fastdiff.core import math as fm
from fastdiff.core.number import PI, Real, precision

mpmath = pytest.importorskip("mpmath")
mp = mpmath.mp.clone()
mp.dps = 80

FUNCTIONS = ["exp", "expm1", "log", "log1p", "sqrt", "sin", "cos"]


def mp_phi(k, z):
    """phi_k from its series: sum_n z^n / (n + k)!, with digits enough for |z| <= 60."""
    return mp.nsum(lambda n: z**n / mp.factorial(n + k), [0, mp.inf]) if z else 1 / mp.factorial(k)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_kind_of_number_keeps_its_kind(name):
    f, x = getattr(fm, name), 0.37
    want = float(getattr(mp, name)(mp.mpf(x)))
    for y in (f(x), f(np.float64(x))):
        assert type(y) is float and y == pytest.approx(want, rel=4e-16)
    array = f(np.array([x, x]))
    assert isinstance(array, np.ndarray) and array.shape == (2,)
    assert array[0] == pytest.approx(want, rel=4e-16)
    with precision():
        y = f(Real(x))
        assert isinstance(y, Real) and float(y) == pytest.approx(want, rel=4e-16)
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = f(t)
    y.backward()  # math.expm1(t) would have dropped this
    slope = float(mp.diff(getattr(mp, name), mp.mpf(x)))
    assert y.item() == pytest.approx(want, rel=4e-16) and t.grad.item() == pytest.approx(slope, rel=1e-14)


def test_limits_are_infinite_and_silent():
    with np.errstate(all="raise"):
        assert fm.log(0.0) == -math.inf and fm.exp(-math.inf) == 0
        assert fm.divide(1.0, 0.0) == math.inf and fm.divide(-1, 0) == -math.inf
        assert np.array_equal(fm.divide(1.0, np.array([0.0, 2.0])), [math.inf, 0.5])
    assert fm.divide(1.0, 4.0) == 0.25


def test_helpers_take_the_kind_of_their_argument():
    assert fm.full_like(-math.inf, 1.0) == 1.0 and isinstance(fm.full_like(Real(2), 1.0), Real)
    assert fm.full_like(np.zeros((2, 3)), 5.0).shape == (2, 3)
    t = fm.full_like(torch.zeros(4, dtype=torch.float64), 5.0)
    assert t.shape == (4,) and t.dtype == torch.float64 and (t == 5).all()
    assert isinstance(fm.lift(0.1, Real(1)), Real) and fm.lift(0.1, 1.0) == 0.1
    assert fm.pi_like(1.0) == math.pi and fm.pi_like(Real(1)) == Real(PI)
    assert fm.has_zero(0.0) and fm.has_zero(np.array([1.0, 0.0])) and not fm.has_zero(torch.ones(3))
    assert fm.plain(torch.tensor([1.0, 3.0])) == 3.0 and fm.plain(Real(2)) == 2.0


def test_sinpi_is_exact_at_its_zero_and_at_a_half():
    assert fm.sinpi(0.0) == 0 and fm.sinpi(0.5) == 1
    with precision():
        assert fm.sinpi(Real(0)) == 0 and abs(fm.sinpi(Real(0.5)) - 1) < Real("1e-55")


@pytest.mark.parametrize("k", range(6))
@pytest.mark.parametrize("z", [0.0, 1e-8, -1e-3, 0.49, -0.49, 0.51, -0.51, 2.0, -2.0, 13.0, -13.0, -40.0])
def test_phi(k, z):
    """The recurrence loses most just above |z| = 1/2, by 2^k k!: 3 digits at k = 5."""
    want = float(mp_phi(k, mp.mpf(z)))
    assert fm.phi(k, z) == pytest.approx(want, rel=1e-12)
    assert fm.phi(k, np.array([z, 1.0, -0.1]))[0] == pytest.approx(want, rel=1e-12)
    with precision():
        assert float(abs(fm.phi(k, Real(z)) / Real(str(mp_phi(k, mp.mpf(z)))) - 1)) < 1e-50


@pytest.mark.parametrize("z", [0.2, -3.0])
def test_phi_carries_gradients(z):
    t = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    fm.phi(3, t).backward()
    assert t.grad.item() == pytest.approx(float(mp.diff(lambda u: mp_phi(3, u), mp.mpf(z))), rel=1e-11)


@pytest.mark.parametrize("a", [1.0, 1.7, -1.0])
@pytest.mark.parametrize("h", [0.02, 0.9, 5.0])
def test_exponential_integral_is_the_integral(a, h):
    for k in range(4):
        want = mp.quad(lambda u, k=k: mp.exp(-a * (h - u)) * u**k / mp.factorial(k), [0, h])  # noqa: B023
        assert fm.exponential_integral(k, a, h) == pytest.approx(float(want), rel=1e-12)


def test_exponential_integral_golden():
    """Computed by independent code: VP(0.1, 20), from t = 0.65 to 0.5."""
    h = 0.899821560238
    golden = {1: [0.593357785593, 0.306463774645, 0.0983756454896, 0.0230521007343],
              2: [0.417321054731, 0.241250252754, 0.0817945836906, 0.0198165812666],
              -1: [1.45916425932, 0.559342699081, 0.154503278946, 0.0330755327224]}
    for a, row in golden.items():
        assert [fm.exponential_integral(k, a, h) for k in range(4)] == pytest.approx(row, rel=1e-10)


def test_adams_weights_golden():
    s, h = -2.12738929465, 0.899821560238
    nodes = [0.0, -3.22320752913 - s, -4.07460553925 - s]
    golden = {(1, 2): [0.873024399089, -0.279666613496],
              (1, 3): [1.12261719814, -0.850505571379, 0.321246158837],
              (2, 3): [0.838037185511, -0.678854101839, 0.25813797106],
              (-1, 3): [2.40166605231, -1.49860827443, 0.55610648144]}
    for (a, q), row in golden.items():
        assert fm.adams_weights(a, h, nodes[:q]) == pytest.approx(row, rel=1e-9)


@pytest.mark.parametrize("nodes", [[0.0], [0.0, -0.7], [0.0, -0.7, -1.1], [0.8, 0.0, -0.7, -1.9]])
@pytest.mark.parametrize("a", [1.0, -1.0, 2.5])
def test_adams_weights_integrate_polynomials_exactly(nodes, a):
    h = 0.8
    b = fm.adams_weights(a, h, nodes)
    assert sum(b) == pytest.approx(fm.exponential_integral(0, a, h), rel=1e-12)
    for power in range(len(nodes)):
        want = float(mp.quad(lambda u, n=power: mp.exp(-a * (h - u)) * u**n, [0, h]))  # noqa: B023
        assert sum(w * u**power for w, u in zip(b, nodes, strict=True)) == pytest.approx(want, rel=1e-11)


def test_lagrange_rows_are_derivatives_at_zero():
    nodes = [0.3, -0.2, 1.1, 0.7]
    rows = fm.lagrange(nodes)
    for j, row in enumerate(rows):
        for i, u in enumerate(nodes):  # Taylor's series from 0 is the polynomial: 1 at its node, 0 elsewhere
            value = sum(c * u**k / math.factorial(k) for k, c in enumerate(row))
            assert value == pytest.approx(float(i == j), abs=1e-13)
    with precision():
        exact = fm.lagrange([Real(u) for u in nodes])
        assert np.allclose([[float(c) for c in row] for row in exact], rows, rtol=1e-12)


@pytest.mark.parametrize("nodes", [[0.4], [0.0, -0.7], [0.8, 0.0, -0.7, -1.9]])
def test_polynomial_weights_integrate_polynomials_under_any_weight(nodes):
    """int_0^1 sqrt(u) P(u) du, whose moments are 1 / ((k + 3/2) k!)."""
    b = fm.polynomial_weights([1 / ((k + 1.5) * math.factorial(k)) for k in range(len(nodes))], nodes)
    for power in range(len(nodes)):
        got = sum(w * u**power for w, u in zip(b, nodes, strict=True))
        assert got == pytest.approx(1 / (power + 1.5), rel=1e-11)


@pytest.mark.parametrize("points", [1, 2, 5, 12, 40])
def test_gauss_legendre(points):
    a, b = 0.3, 1.7
    for degree in (0, 1, 2 * points - 2, 2 * points - 1):
        got = sum(w * x**degree for x, w in fm.gauss_legendre(a, b, points))
        assert got == pytest.approx((b ** (degree + 1) - a ** (degree + 1)) / (degree + 1), rel=1e-12)
    with precision():
        x, w = fm.gauss_legendre(Real(a), Real(b), points)[0]
        assert isinstance(x, Real) and isinstance(w, Real)
    t = torch.tensor(b, dtype=torch.float64, requires_grad=True)
    sum(w * x for x, w in fm.gauss_legendre(a, t, points)).backward()
    assert t.grad.item() == pytest.approx(b, rel=1e-13)
