"""MarkovFBM: optimal weights against 50-digit arithmetic, its covariance against the exact processes, its
paths against its covariance.

The exact covariances: kind "II" int_0^s (s-u)^{a-1} (t-u)^{a-1} du / Gamma(a)^2, a = H + 1/2, a
hypergeometric function; kind "I" V (s^{2H} + t^{2H} - |t-s|^{2H}) / 2.
"""

from __future__ import annotations

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
import torch

from fastdiff.noise import Seeds, normal
from fastdiff.noise.markov_fbm import MarkovFBM, exact_variance, optimal_weights

F64 = torch.float64
TIMES = (0.1, 0.3, 0.6, 1.0)
PAIRS = list(itertools.combinations_with_replacement(TIMES, 2))


def exact(kind: str, hurst: float, s: float, t: float) -> float:
    """s <= t."""
    a = mp.mpf(hurst) + 0.5
    if kind == "II":
        whole = mp.mpf(s) ** a * mp.mpf(t) ** (a - 1) / (a * mp.gamma(a) ** 2)
        return float(whole * mp.hyp2f1(1 - a, 1, a + 1, mp.mpf(s) / t))
    v = 1 if hurst == 0.5 else mp.gamma(1 - 2 * mp.mpf(hurst)) * mp.cospi(hurst) / (mp.pi * hurst)
    return float(v * (s ** (2 * hurst) + t ** (2 * hurst) - (t - s) ** (2 * hurst)) / 2)


def of_weights(kind: str, hurst: float, span: tuple[float, float], terms: int) -> MarkovFBM:
    """With the optimal weights at H = 1/2 too, where MarkovFBM knows better."""
    f = MarkovFBM(hurst, terms, kind=kind, span=span)
    g = np.geomspace(*span, terms)
    w, defect = optimal_weights(hurst, g, 1.0, kind)
    f.__dict__.update(rates=g, _fit=(w, defect), weights=w)
    return f


@pytest.mark.parametrize(
    ("kind", "terms", "span", "figures"),
    [
        ("II", 5, (0.05, 20), {0.1: 0.448, 0.3: 1.53e-2, 0.5: 4.05e-6, 0.7: 2.00e-3, 0.9: 1.21e-3}),
        ("II", 10, (0.05, 500), {0.1: 0.237, 0.3: 1.96e-3, 0.5: 6.4e-9, 0.7: 4.85e-5, 0.9: 1.69e-5}),
        # those of a 60-digit solution; in float64 without the series for slow rates 1.3e-5, 9e-4, 6.3e-2
        ("I", 16, (1e-5, 300), {0.3: 3.763e-3, 0.5: 2.0045e-6, 0.7: 6.410e-4, 0.9: 0.18624}),
    ],
)
def test_covariance_error_on_record(kind, terms, span, figures) -> None:
    for hurst, figure in figures.items():
        f = of_weights(kind, hurst, span, terms)
        worst = max(abs(f.covariance(s, t) - exact(kind, hurst, s, t)) for s, t in PAIRS)
        assert figure / 1.05 < worst < figure * 1.05, f"H = {hurst}: {worst}"


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("hurst", [0.1, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("horizon", [1.0, 3.0])
def test_weights_solve_the_normal_equations(kind, hurst: float, horizon: float) -> None:
    """A w = b in 50 digits. w is off by rounding times the condition of A, ten times at most. What is
    minimised is flat there: the defect is off by the rounding of what is summed, |w| A |w|, and 1e-14."""
    g = np.geomspace(1e-4 if kind == "I" else 0.05, 100, 7) / horizon
    w, defect = optimal_weights(hurst, g, horizon, kind)
    with mp.workdps(50):
        T, a, n = mp.mpf(horizon), mp.mpf(hurst) + 0.5, len(g)
        G = [mp.mpf(float(x)) for x in g]
        A, b = mp.matrix(n, n), mp.matrix(n, 1)
        for i in range(n):
            x = G[i] * T
            if kind == "II":
                P = mp.gammainc(a, 0, x, regularized=True), mp.gammainc(a + 1, 0, x, regularized=True)
                b[i] = G[i] ** -a * (T * P[0] - a / G[i] * P[1])
            else:
                Q = mp.gammainc(a, x, regularized=True)
                b[i] = 2 * T - (mp.exp(x) * Q - mp.exp(-x)) / G[i] - G[i] ** (a - 1) * T**a / mp.gamma(a + 1)
                b[i] *= G[i] ** -a
            for j in range(n):
                S = G[i] + G[j]
                parts = (S,) if kind == "II" else (G[i], G[j])
                A[i, j] = sum(T + mp.expm1(-r * T) / r for r in parts) / S
        want = mp.lu_solve(A, b)
        total = exact(kind, hurst, 1.0, 1.0) * T ** (2 * mp.mpf(hurst) + 1) / (2 * mp.mpf(hurst) + 1)
        lost = 1 - sum(b[i] * want[i] for i in range(n)) / total
        condition = float(mp.mnorm(A, 1) * mp.mnorm(mp.inverse(A), 1))
    error = np.abs(w - np.array([float(x) for x in want])).max()
    assert error < 10 * condition * 2**-52 * np.abs(w).max() and condition < 1e11
    rounding = 2**-52 * np.abs(w) @ np.array(A.tolist(), dtype=float) @ np.abs(w) / float(total)
    assert defect == pytest.approx(float(lost), abs=1e-14 + 4 * rounding)


@pytest.mark.parametrize(("kind", "hurst"), [("I", 0.3), ("I", 0.7), ("II", 0.3), ("II", 0.7)])
def test_right_hand_side_is_the_covariance_with_a_register(kind, hurst: float) -> None:
    """b_k = int_0^1 E B(t) (Y_k(t) - Y_k(0)) dt, from the kernels of both processes by quadrature."""
    a, g = mp.mpf(hurst) + 0.5, mp.mpf(2)

    def with_register(t):
        c = mp.quad(lambda u: u ** (a - 1) * mp.exp(-g * u), [0, t])
        if kind == "I":
            past = lambda v: ((t + v) ** (a - 1) - v ** (a - 1)) * (mp.exp(-g * (t + v)) - mp.exp(-g * v))  # noqa: E731
            c += mp.quad(past, [0, t, 10, mp.inf])
        return c / mp.gamma(a)

    b = float(mp.quad(with_register, [0, 1], maxdegree=5))
    weight, _ = optimal_weights(hurst, np.array([2.0]), 1.0, kind)
    A = (1 + np.expm1(-4.0) / 4) / 4 if kind == "II" else (2 + np.expm1(-2.0)) / 4
    assert float(weight[0]) * A == pytest.approx(b, rel=1e-5)  # the endpoint singularity limits quad


@pytest.mark.parametrize(("hurst", "figure"), [(0.2, 4.7e-2), (0.3, 7.8e-3), (0.7, 1.3e-4), (0.9, 5.9e-5)])
def test_defect_on_record(hurst: float, figure: float) -> None:
    assert MarkovFBM(hurst).defect == pytest.approx(figure, rel=0.05)
    assert MarkovFBM(hurst, horizon=7.0).defect == pytest.approx(MarkovFBM(hurst).defect, rel=1e-9)
    assert MarkovFBM(hurst, 10, span=(0.05, 500.0)).defect < MarkovFBM(hurst).defect


def test_a_singular_system_gets_a_ridge() -> None:
    """40 rates cannot be told apart in float64: no Cholesky factor. The fit is no worse than of 10."""
    f, g = MarkovFBM(0.3, 40, span=(0.05, 500.0)), MarkovFBM(0.3, 10, span=(0.05, 500.0))
    assert np.isfinite(f.weights).all() and 0 < f.defect <= g.defect


@pytest.mark.parametrize("kind", ["I", "II"])
def test_variance_of_the_exact_process(kind) -> None:
    for hurst in (0.1, 0.4, 0.5, 0.7, 0.95):
        assert exact_variance(hurst, kind) == pytest.approx(exact(kind, hurst, 1.0, 1.0), rel=1e-13)
    f = MarkovFBM(0.7, 12, kind=kind, span=(1e-4, 300.0), unit_variance=True)
    assert f.variance(0.3) == pytest.approx(0.3**1.4) == pytest.approx(f.covariance(0.3, 0.3), rel=0.01)


def test_one_half_is_brownian_motion_exactly() -> None:
    """Kept times have exact square roots; sums of a few numbers in float64 round by some 1e-16."""
    t = [0.0, 0.25, 0.5, 0.5625, 1.0]
    for kind in ("I", "II"):
        f = MarkovFBM(0.5, 7, kind=kind)
        assert f.defect == 0 and list(f.rates) == [0] and list(f.weights) == [1]
        assert all(f.covariance(s, u) == min(s, u) for s in t for u in t)
        z = normal((4, len(t), 1, 3), 5, dtype=F64)[:, :, 0]
        steps = torch.tensor(np.diff(t, prepend=0.0), dtype=F64).sqrt()
        want = (z * steps[:, None]).cumsum(1)
        assert (f((4, len(t), 3), 5, t, dtype=F64) - want).abs().max() < 1e-15


# ---- paths


@pytest.mark.parametrize("h", [1e-6, 1e-3, 0.3])
def test_transition_is_exact(h: float) -> None:
    """L L^T = (1 - e^{-(g_i+g_j) h}) / (g_i + g_j), up to the pivots dropped, 1e-14 of the variances a piece;
    and two steps are one: d^2 = d(2h), d C d + C = C(2h)."""
    f = MarkovFBM(0.2, 8, span=(0.05, 500.0))
    S = f.rates[:, None] + f.rates
    (d, L), (d2, L2) = f.transition(h), f.transition(2 * h)
    want = np.array([[float(-mp.expm1(-mp.mpf(s) * h) / s) for s in row] for row in S])
    scale = np.sqrt(np.outer(want.diagonal(), want.diagonal()))
    assert np.abs((L @ L.T - want) / scale).max() < 8 * 1e-14
    C, C2 = L @ L.T, L2 @ L2.T
    assert np.abs(d * d - d2).max() < 1e-15
    assert np.abs((d[:, None] * C * d + C - C2) / C2.diagonal().max()).max() < 1e-13


@pytest.mark.parametrize(("kind", "hurst"), [("I", 0.3), ("I", 0.8), ("II", 0.3), ("II", 0.8)])
def test_sampled_covariance(kind, hurst: float) -> None:
    """Standard error of N products: sqrt((c_ss c_tt + c_st^2) / N); 5 of them."""
    f, n = MarkovFBM(hurst, kind=kind), 6000
    x = f((n, len(TIMES)), 3, TIMES).double()
    got = x.t() @ x / n
    c = torch.tensor([[f.covariance(s, t) for s in TIMES] for t in TIMES], dtype=F64)
    error = torch.sqrt((c.diagonal()[:, None] * c.diagonal() + c**2) / n)
    assert ((got - c).abs() < 5 * error).all()


def test_increments_of_kind_one_are_stationary_and_those_of_kind_two_are_not() -> None:
    def increment(f: MarkovFBM, s: float, h: float) -> float:
        return f.covariance(s + h, s + h) - 2 * f.covariance(s, s + h) + f.covariance(s, s)

    one, two = MarkovFBM(0.3, kind="I"), MarkovFBM(0.3)
    for s in (0.1, 0.4, 0.8):
        assert increment(one, s, 0.2) == pytest.approx(increment(one, 0.0, 0.2), rel=1e-12)
    # kind II: the past adds int_0^s ((h+v)^{a-1} - v^{a-1})^2 dv / Gamma(a)^2, here a good third
    assert increment(two, 0.8, 0.2) > 1.1 * increment(two, 0.0, 0.2)


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_a_path_does_not_know_its_batch_nor_what_comes_later(kind, dtype: torch.dtype) -> None:
    f = MarkovFBM(0.3, kind=kind)
    x = f((64, 4, 3), 7, TIMES, dtype=dtype)
    assert x.dtype == dtype and x.is_contiguous()
    for i in (0, 17, 63):
        assert torch.equal(f((1, 4, 3), Seeds(7, [i]), TIMES, dtype=dtype), x[i : i + 1])
    assert torch.equal(f((64, 2, 3), 7, TIMES[:2], dtype=dtype), x[:, :2])
    assert torch.equal(f((64, 4, 3), 7, torch.tensor(TIMES, dtype=F64), dtype=F64).to(dtype), x)
    assert not torch.equal(f((64, 4, 3), 7, TIMES, dtype=dtype, draw=1), x)


def test_no_time_passes_no_path_moves() -> None:
    x = MarkovFBM(0.3, kind="I")((2, 4), 0, [0.0, 0.0, 0.5, 0.5], dtype=F64)
    assert (x[:, :2] == 0).all() and torch.equal(x[:, 2], x[:, 3])
    assert MarkovFBM(0.3)((0, 1, 5), 0, [0.2]).shape == (0, 1, 5)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((0.0,), {}, "hurst is 0.0"),
        ((1.0,), {}, r"hurst is 1.0; a number in \(0, 1\)"),
        (("0.3",), {}, "hurst is '0.3'"),
        ((0.3, 0), {}, "terms is 0"),
        ((0.3, 5, -1.0), {}, "horizon is -1.0"),
        ((0.3,), {"kind": "2"}, "kind is '2'"),
        ((0.3,), {"span": 20.0}, "span is 20.0"),
        ((0.3,), {"span": (20.0, 0.05)}, "slowest <= fastest"),
        ((0.3,), {"span": (0.0, 20.0)}, "slowest is 0.0"),
    ],
)
def test_bad_settings(arguments, options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MarkovFBM(*arguments, **options)


@pytest.mark.parametrize(
    ("shape", "times", "words"),
    [
        ((2, 3), [0.1, 0.2], r"shape is \(2, 3\); \(B, 2, \*\) is allowed"),
        ((2,), [0.1], r"shape is \(2,\)"),
        ((2, 2), [0.2, 0.1], "never decreasing"),
        ((2, 2), [-0.2, 0.1], "from 0 on"),
        ((2, 1), [math.inf], "finite"),
        ((2, 0), [], "one or more"),
        ((2, 1), [1.5], r"times go to 1.5; the weights are for 0 \.\. 1.0"),
    ],
)
def test_bad_calls(shape, times, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MarkovFBM(0.3)(shape, 0, times)
    with pytest.raises(ValueError, match="dtype is torch.int64"):
        MarkovFBM(0.3)((2, 1), 0, [0.5], dtype=torch.int64)
