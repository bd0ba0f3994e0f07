"""BrownianPath: its law against Brownian motion's, its times, and the clock that is not uniform.

Statistical bounds are 5 standard errors of the estimate; seeds are fixed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff import ops
from fastdiff.noise import BrownianPath, Seeds, resolve
from fastdiff.noise._clock import coefficients


def within(estimate: float, expected: float, standard_error: float) -> bool:
    return abs(estimate - expected) < 5 * standard_error


def covariances(x: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest deviation of the second moments of rows of x (k, n) in standard errors of Gaussian ones."""
    x, n = x.double(), x.shape[1]
    diagonal = expected.diagonal()
    error = ((diagonal[:, None] * diagonal + expected**2) / n).sqrt()
    return float(((x @ x.T / n - expected).abs() / error).max())


def pieces(out, levy):
    return out if levy else (out,)


# ---- the law


@pytest.mark.parametrize("levy", [False, True])
def test_covariance_is_the_smaller_time(levy):
    path = BrownianPath((40_000,), 1, -1.0, 3.0, levy=levy)
    times = torch.tensor([-0.9, -0.5, 0.1, 0.11, 1.0, 2.7, 3.0], dtype=torch.float64)
    x = torch.stack([path(t) for t in times])
    assert covariances(x, torch.minimum(times[:, None], times) + 1) < 5
    assert (path(-1.0) == 0).all()


def test_area_has_its_variance_and_is_independent():
    """Increments and areas of three intervals: variances h and h / 12, no correlation among the six."""
    path = BrownianPath((40_000,), 2, 0.0, 2.0, levy=True)
    times = [0.0, 0.3, 1.1, 2.0]
    W, H = path.increments(times)
    h = torch.tensor(times, dtype=torch.float64).diff()
    assert covariances(torch.cat([W, H]), torch.cat([h, h / 12]).diag()) < 5


def test_area_is_the_integral_it_is_defined_by():
    """int (W_u - W_s) du is (t - s) (W / 2 + H), of the whole as of each of 64 parts; float32 rounding."""
    path = BrownianPath((5, 7), 3, 0.0, 2.0, levy=True, depth=12)
    s, t, n = 0.25, 1.75, 64
    W, H = (v.double() for v in path.increments(np.linspace(s, t, n + 1)))
    before, h = W.cumsum(0) - W, (t - s) / n
    integral = (h * (before + W / 2 + H)).sum(0)
    V, G = path.increment(s, t)
    torch.testing.assert_close(integral / (t - s) - V.double() / 2, G.double(), rtol=0, atol=2e-6)


def test_a_hundred_thousand_random_pairs():
    """One interval for each sample: W / sqrt(t - s) is standard normal (four moments), uncorrelated with its
    length, and H / sqrt(h / 12) too."""
    n = 100_000
    path = BrownianPath((n,), 4, 0.0, 1.0, levy=True)
    s, t = torch.rand(2, n, dtype=torch.float64).sort(0).values * 0.999
    t = t + 2**-15  # apart by a cell at least
    W, H = path.increment(s, t)
    cells = torch.ceil(t * 2**16 - 0.5) - torch.ceil(s * 2**16 - 0.5)
    h = cells / 2**16
    for z in (W.double() / h.sqrt(), H.double() / (h / 12).sqrt()):
        for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert within(float((z**power).mean()), mean, math.sqrt(variance / n))
        assert within(float((z * (h - h.mean())).mean()), 0, float(h.std()) / math.sqrt(n))
        assert within(float(((z**2 - 1) * (h - h.mean())).mean()), 0, float(h.std()) * math.sqrt(2 / n))
    assert within(float((W.double() / h * H.double() * 12**0.5).mean()), 0, 1 / math.sqrt(n))


@pytest.mark.parametrize("levy", [False, True])
def test_increments_add_up(levy):
    """[a, b] and [b, c] give [a, c] within 4 units in the last place of the largest term, which is at most
    the range of the path there: roundings of a chain shrink with its terms."""
    path = BrownianPath((300,), 5, 0.0, 1.0, depth=9, levy=levy)
    every = pieces(path.increments(np.arange(513) / 512), levy)[0].double()
    whole = torch.cat([torch.zeros(1, 300).double(), every.cumsum(0)])
    g = np.random.default_rng(0)
    for _ in range(60):
        a, b, c = np.sort(g.choice(513, 3, replace=False))
        first, second, both = (
            pieces(path.increment(i / 512, j / 512), levy)[0].double() for i, j in ((a, b), (b, c), (a, c))
        )
        span = whole[a : c + 1].amax(0) - whole[a : c + 1].amin(0)
        ulp = torch.exp2(span.log2().floor() - 23)
        assert ((first + second - both).abs() <= 4 * ulp).all()


def test_chen_identity():
    path = BrownianPath((100,), 6, 1.0, 5.0, levy=True)  # the times lie on the grid
    a, b, c = 1.25, 1.5, 3.625
    (W1, H1), (W2, H2), (W, H) = (path.increment(*i) for i in ((a, b), (b, c), (a, c)))
    d1, d2 = b - a, c - b
    torch.testing.assert_close(W1 + W2, W, rtol=0, atol=4e-6)
    joined = (d1 * H1 + d2 * H2 + (d2 * W1 - d1 * W2) / 2) / (d1 + d2)
    torch.testing.assert_close(joined, H, rtol=0, atol=4e-6)


# ---- order, batches, bits


@pytest.mark.parametrize("levy", [False, True])
def test_order_of_queries_does_not_matter(levy, same_bits):
    path = BrownianPath((3, 4), 7, 0.0, 1.0, levy=levy)
    times = sorted(np.random.default_rng(1).random(30)) + [1.0]
    forward = [pieces(path.increment(s, t), levy) for s, t in zip(times[:-1], times[1:], strict=True)]
    again = BrownianPath((3, 4), 7, 0.0, 1.0, levy=levy)
    backward = [
        pieces(again.increment(s, t), levy) for s, t in reversed(list(zip(times, times[1:], strict=False)))
    ]
    row, reverse = pieces(path.increments(times), levy), pieces(again.increments(times[::-1]), levy)
    for k, one in enumerate(forward):
        for v, x in enumerate(one):
            same_bits(x, backward[-1 - k][v])
            same_bits(x, row[v][k])
            same_bits(reverse[v].flip(0)[k], -x if v == 0 else x)  # backwards: W changes sign, H does not


def test_backwards_and_forwards_cancel_in_chen_s_relation():
    """s -> t -> s is no way at all: W = 0 and H-bar = 0, with H-bar = (t - s) H."""
    path = BrownianPath((50,), 8, 0.0, 2.0, levy=True)
    (W1, H1), (W2, H2) = path.increment(0.5, 1.75), path.increment(1.75, 0.5)
    d1, d2 = 1.25, -1.25
    assert (W1 + W2 == 0).all()
    assert (d1 * H1 + d2 * H2 + (d2 * W1 - d1 * W2) / 2 == 0).all()


@pytest.mark.parametrize("levy", [False, True])
@pytest.mark.parametrize("snap", [False, True])
def test_batches_do_not_matter(levy, snap, same_bits):
    options = {"levy": levy, "snap": snap, "depth": 8}
    ids = torch.randperm(64).tolist()
    x = BrownianPath((64, 5), 9, 0.0, 1.0, **options).increment(0.123, 0.77)
    y = BrownianPath((64, 5), Seeds(9, ids), 0.0, 1.0, **options).increment(0.123, 0.77)
    one = BrownianPath((1, 5), Seeds(9, [17]), 0.0, 1.0, **options).increment(0.123, 0.77)
    for a, b, c in zip(*(pieces(v, levy) for v in (x, y, one)), strict=True):
        same_bits(a[ids], b)
        same_bits(a[17:18], c)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_backends_agree(backend, same_bits):
    for levy, snap in ((False, True), (True, True), (False, False), (True, False)):
        options = {"levy": levy, "snap": snap, "depth": 6, "dtype": torch.float16}
        x, y = (
            BrownianPath((2, 3), 1, 0.0, 1.0, backend=b, **options).increment(0.1, 0.8)
            for b in (None, backend)
        )
        for a, b in zip(pieces(x, levy), pieces(y, levy), strict=True):
            same_bits(a, b)


def test_a_deeper_tree_is_the_same_path(same_bits):
    coarse, fine = (BrownianPath((3,), 10, 0.0, 1.0, depth=d) for d in (5, 20))
    for s, t in ((0.0, 1.0), (0.03125, 0.5), (0.25, 0.28125)):
        same_bits(coarse.increment(s, t), fine.increment(s, t))


def test_the_horizon_scales(same_bits):
    """W by sqrt(T), H too: T = 4 moves exponents alone."""
    for one, four in zip(
        BrownianPath((9,), 11, 0.0, 1.0, levy=True).increment(0.25, 0.625),
        BrownianPath((9,), 11, 8.0, 12.0, levy=True).increment(9.0, 10.5),
        strict=True,
    ):
        same_bits(2 * one, four)


def test_dtypes(same_bits):
    x = BrownianPath((3, 5), 12, 0.0, 1.0).increment(0.1, 0.7)
    assert x.dtype == torch.float32
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        same_bits(BrownianPath((3, 5), 12, 0.0, 1.0, dtype=dtype).increment(0.1, 0.7), x.to(dtype))


# ---- times


@pytest.mark.parametrize("levy", [False, True])
@pytest.mark.parametrize("snap", [False, True])
def test_equal_times_give_zero(levy, snap):
    path = BrownianPath((4, 3), 0, 0.0, 1.0, levy=levy, snap=snap)
    t = torch.tensor([0.0, 0.3, 0.7, 1.0])
    for out in (path.increment(0.3, 0.3), path.increment(t, t), path.increment(1.0, 1)):
        assert all((v == 0).all() for v in pieces(out, levy))
    assert (path(0.0) == 0).all()
    row = pieces(path.increments([0.1, 0.1, 0.5]), levy)
    assert all((v[0] == 0).all() and (v[1] != 0).all() for v in row)


@pytest.mark.parametrize("levy", [False, True])
@pytest.mark.parametrize("snap", [False, True])
def test_times_of_any_kind(levy, snap, same_bits):
    path = BrownianPath((3, 4), 1, 0.0, 2.0, levy=levy, snap=snap, depth=10)
    x = pieces(path.increment(0.5, 1.3), levy)
    kinds = [
        (np.float64(0.5), np.array(1.3)),
        (torch.tensor(0.5, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)),
        (np.full(3, 0.5), torch.full((3,), 1.3, dtype=torch.float64)),
        (0.5, torch.full((3,), 1.3, dtype=torch.float64)),
    ]
    for s, t in kinds:
        for a, b in zip(x, pieces(path.increment(s, t), levy), strict=True):
            same_bits(a, b)
    s, t = torch.tensor([0.5, 1.3, 0.0]), torch.tensor([1.3, 0.5, 2.0])  # each its own, one backwards
    for k, (i, j) in enumerate(zip(s, t, strict=True)):
        for a, b in zip(pieces(path.increment(s, t), levy), pieces(path.increment(i, j), levy), strict=True):
            same_bits(a[k], b[k])
    whole = pieces(path.increments(torch.stack([s * 0, s, t])[1:]), levy)
    for a, b in zip(whole, pieces(path.increment(s, t), levy), strict=True):
        same_bits(a[0], b)


@pytest.mark.parametrize("snap", [False, True])
@pytest.mark.parametrize("ends", [(0.1, 0.7), (-1 / 3, 1000.1), (999.9, 1000.1)])
def test_times_rounded_to_their_dtype_are_inside(ends, snap, same_bits):
    path = BrownianPath((2, 3), 2, *ends, snap=snap)
    whole = path.increment(*ends)
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and ends[0] > 1:
            continue  # rounding is as long as the path
        s, t = (torch.tensor([e, e], dtype=dtype) for e in ends)
        same_bits(path(ends[1]), whole)
        for x in (path.increment(s, t), path.increment(s[0], t[0])):
            assert x.isfinite().all() and (x - whole).abs().max() < 0.5 * (ends[1] - ends[0]) ** 0.5
        assert path(s).isfinite().all() and path(t).isfinite().all()
        if snap and dtype == torch.float32 and ends[0] < 1:
            assert (path(s) == 0).all() and (path.increment(s[0], ends[0]) == 0).all()
    s, t = (np.float32(e) for e in ends)
    same_bits(path.increments([s, t])[0], path.increment(s, t))


@pytest.mark.parametrize("snap", [False, True])
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p(1.5), r"t is 1\.5; 0 \.\. 1 is allowed"),
        (lambda p: p(-1e-9), r"t is -1e-09; 0 \.\. 1"),
        (lambda p: p.increment(-0.1, 0.5), r"s is -0\.1; 0 \.\. 1"),
        (lambda p: p.increment(0.1, torch.tensor([0.5, 1.1])), r"t is 1\.1; 0 \.\. 1"),
        (lambda p: p.increments([0.0, 0.5, 2.0]), r"times\[2\] is 2; 0 \.\. 1"),
        (lambda p: p(float("nan")), "t is nan; finite"),
        (lambda p: p(torch.tensor([float("nan"), 0.5])), "t is nan; 0"),
        (lambda p: p(torch.zeros(3)), r"t has shape \(3,\); one time, or one for each of the 2 samples"),
        (lambda p: p(torch.zeros(2, requires_grad=True)), "t requires a gradient"),
        (lambda p: p.increments([0.5]), r"times is \[0\.5\]; a sequence of at least 2"),
        (lambda p: p.increments(torch.tensor(0.5)), r"times is tensor\(0\.5000\); a sequence of"),
    ],
)
def test_bad_times(call, words, snap):
    with pytest.raises(ValueError, match=f"BrownianPath: {words}"):
        call(BrownianPath((2, 3), 0, 0.0, 1.0, snap=snap))


def test_times_of_wrong_types():
    path = BrownianPath((2, 3), 0, 0.0, 1.0)
    for t in ("0.5", True, None, [0.1, 0.2], torch.tensor([True, False]), 1j):
        with pytest.raises(TypeError, match="BrownianPath: t is"):
            path(t)


def test_two_times_on_one_point_are_refused():
    path = BrownianPath((2, 3), 0, 0.0, 1.0, depth=4)
    words = (
        r"s = 0\.5 and t = 0\.5[01].* differ but fall on the same point of a grid of 2\^4 cells; raise depth"
    )
    for s, t in ((0.5, 0.51), (torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.51]))):
        with pytest.raises(ValueError, match=words):
            path.increment(s, t)
    with pytest.raises(ValueError, match=r"times\[1\] = 0\.5 and times\[2\] = 0\.51"):
        path.increments([0.0, 0.5, 0.51, 1.0])
    with pytest.raises(ValueError, match=r"raise depth \(depth=7 tells them apart\)"):
        path.increment(0.5, 0.51)
    assert (BrownianPath((2, 3), 0, 0.0, 1.0, depth=7).increment(0.5, 0.51) != 0).all()
    assert (BrownianPath((2, 3), 0, 0.0, 1.0, depth=4, snap=False).increment(0.5, 0.51) != 0).all()


def test_snapping_is_to_the_nearest_ties_down(same_bits):
    path = BrownianPath((2, 3), 0, 0.0, 16.0, depth=4)
    for t, snapped in ((4.5, 4), (4.5000001, 5), (4.49, 4), (1.5, 1), (15.51, 16)):
        same_bits(path(t), path(snapped))
        same_bits(path(torch.full((2,), t, dtype=torch.float64)), path(snapped))
        same_bits(path.increments([0.0, t])[0], path(snapped))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": ()}, r"shape is \(\)"),
        ({"t1": 0.0}, "t0 is 0 and t1 is 0; t0 < t1"),
        ({"t1": float("inf")}, "t1 is inf; finite"),
        ({"t0": -1.7e308, "t1": 1.7e308}, "overflows"),
        ({"depth": 0}, r"depth is 0; 1 \.\. 30"),
        ({"depth": 31}, r"depth is 31; 1 \.\. 30"),
        ({"dtype": torch.int64}, "dtype is torch.int64"),
    ],
)
def test_bad_paths(options, words):
    arguments = {"shape": (2, 3), "seeds": 0, "t0": 0.0, "t1": 1.0} | options
    with pytest.raises(ValueError, match=f"BrownianPath: .*{words}|{words}"):
        BrownianPath(**arguments)
    with pytest.raises(TypeError, match="depth is 4.0"):
        BrownianPath((2,), 0, 0.0, 1.0, depth=4.0)


# ---- snap=False


@pytest.mark.parametrize("levy", [False, True])
def test_interpolation_agrees_with_the_grid(levy, same_bits):
    options = {"depth": 6, "levy": levy}
    a, b = (BrownianPath((3, 5), 13, 0.0, 1.0, snap=snap, **options) for snap in (True, False))
    for s, t in ((0.0, 1.0), (0.25, 0.375), (1.0, 0.015625)):
        for x, y in zip(pieces(a.increment(s, t), levy), pieces(b.increment(s, t), levy), strict=True):
            if levy:  # H-bar times sqrt(T) over the length, in another order: two roundings
                torch.testing.assert_close(y, x, rtol=3e-7, atol=0)
            else:
                same_bits(y, x)


@pytest.mark.parametrize("levy", [False, True])
@pytest.mark.parametrize(("s", "t"), [(0.0, 0.1), (0.1, 0.9), (0.3, 0.6), (0.0, 0.95), (0.25, 0.4)])
def test_the_law_inside_cells(s, t, levy):
    """Four cells, and ends inside different ones: Var W = t - s, Var H = (t - s) / 12, no correlation."""
    path = BrownianPath((40_000,), 14, 0.0, 1.0, depth=2, levy=levy, snap=False)
    x = torch.stack(pieces(path.increment(s, t), levy))
    expected = torch.tensor([t - s, (t - s) / 12][: 1 + levy], dtype=torch.float64).diag()
    assert covariances(x, expected) < 5


def test_inside_one_cell_a_difference_of_two_queries():
    """Both ends in a cell: Chen's relation with the two queries from its start. float32 sums of size 1."""
    path = BrownianPath((50,), 15, 0.0, 1.0, depth=1, levy=True, snap=False)
    (W1, H1), (W2, H2), (W, H) = (path.increment(*i) for i in ((0, 0.1), (0.1, 0.3), (0, 0.3)))
    torch.testing.assert_close(W1 + W2, W, rtol=0, atol=1e-6)
    joined = (0.1 * H1 + 0.2 * H2 + (0.2 * W1 - 0.1 * W2) / 2) / 0.3
    torch.testing.assert_close(joined, H, rtol=0, atol=2e-6)


# ---- another clock


def uniform(depth):
    return lambda a, b: (b - a) / 2**depth


def signal(depth, lam0=-2.0, lam1=3.0):
    """v = e^{2 lam} between two half log signal-to-noise ratios, linear in the cells."""

    def lam(cell):
        return lam0 + (lam1 - lam0) * cell / 2**depth

    return lambda a, b: np.exp(2 * lam(a)) * np.expm1(2 * (lam(b) - lam(a)))


@pytest.mark.parametrize("depth", [1, 5, 16, 30])
def test_the_uniform_clock_is_no_clock(depth, same_bits):
    N = 2**depth
    at = sorted({0, N // 3, N // 2, N - N // 7, N})
    rows, v = coefficients(at, depth, uniform(depth))
    assert rows.dtype == np.float32 and np.array_equal(v, np.diff(at) / N)
    rng, cells = resolve(1, 3), torch.tensor(at)
    (a,), (b,) = (ops.brownian((3, 5), rng, cells, depth, coefs=c) for c in (None, torch.from_numpy(rows)))
    same_bits(a, b)


def test_the_law_of_a_clock():
    """Increments by e^{2 lam} are independent with the variances v."""
    depth, at = 10, [0, 1, 100, 512, 700, 1000, 1024]
    rows, v = coefficients(at, depth, signal(depth))
    (x,) = ops.brownian((40_000,), resolve(2, 40_000), torch.tensor(at), depth, coefs=torch.from_numpy(rows))
    assert covariances(x, torch.from_numpy(v).diag()) < 5


def test_coarse_increments_of_a_clock_are_sums_of_fine_ones():
    """To the rounding of float32 sums of a hundred numbers at most as large as the path."""
    depth, coarse = 10, [0, 300, 512, 1024]
    fine = sorted({*coarse, *range(0, 1025, 8)})
    rng = resolve(3, 4)
    (x,), (y,) = (
        ops.brownian(
            (4, 50),
            rng,
            torch.tensor(at),
            depth,
            coefs=torch.from_numpy(coefficients(at, depth, signal(depth))[0]),
        )
        for at in (coarse, fine)
    )
    where = [fine.index(c) for c in coarse]
    largest = float(y.double().cumsum(0).abs().max())
    for k in range(len(coarse) - 1):
        total = y[where[k] : where[k + 1]].double().sum(0)
        assert (total - x[k].double()).abs().max() < 100 * 2**-24 * largest


def test_a_row_of_a_clock_is_the_single_increments(same_bits):
    depth, at = 16, [5, 6, 1000, 40_000, 65_536]
    rng = resolve(4, 2)

    def draw(at):
        rows = torch.from_numpy(coefficients(at, depth, signal(depth))[0])
        return [
            ops.brownian((2, 9), rng, torch.tensor(at), depth, coefs=rows, backend=b)[0]
            for b in ("cpu", "reference")
        ]

    row, other = draw(at)
    same_bits(row, other)
    for k in range(len(at) - 1):
        for one in draw(at[k : k + 2]):
            same_bits(one[0], row[k])


def test_bad_clocks():
    with pytest.raises(ValueError, match="boundaries are"):
        coefficients([0, 5, 5], 4, uniform(4))
    with pytest.raises(ValueError, match="boundaries are"):
        coefficients([0, 17], 4, uniform(4))
    with pytest.raises(ValueError, match=r"measure\(0, 8\) is 0; positive"):
        coefficients([0, 3, 16], 4, lambda a, b: 0 * a)
    with pytest.raises(ValueError, match=r"measure gave shape \(\)"):
        coefficients([0, 3, 16], 4, lambda a, b: 1.0)


def test_is_exported():
    assert fd.noise.BrownianPath is BrownianPath
    assert "depth=16, snap=True" in repr(BrownianPath((2,), 0, 0.0, 1.0))


@pytest.fixture
def same_bits():
    def check(a: torch.Tensor, b: torch.Tensor) -> None:
        assert a.dtype == b.dtype and a.shape == b.shape
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
        assert torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))

    return check
