"""fd.noise.normal, uniform, gamma, ...: what users type, and that the laws are the laws."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch._dynamo.testing import CompileCounter

import fastdiff as fd
from fastdiff import ops
from fastdiff.noise import resolve, streams

BOTH = pytest.mark.parametrize("name", ["normal", "uniform"])


@BOTH
def test_is_the_op_on_the_users_stream(name):
    draw, op = getattr(fd.noise, name), getattr(ops, name)
    x = draw((3, 5), 7)
    assert torch.equal(x, op((3, 5), resolve(7, 3), 0, 32))
    assert torch.equal(
        draw((3, 5), 7, stream=40, draw=9, dtype=torch.float16),
        op((3, 5), resolve(7, 3), 9, 40, dtype=torch.float16),
    )
    assert not torch.equal(x, op((3, 5), resolve(7, 3), 0, streams.SOLVER))
    assert torch.equal(draw(torch.Size([3, 5]), 7, backend="reference"), x)


@BOTH
def test_a_sample_depends_on_its_seed_and_id_alone(name):
    draw = getattr(fd.noise, name)
    x = draw((6, 4, 3), 7)
    assert torch.equal(draw((2, 4, 3), 7), x[:2])
    assert torch.equal(draw((3, 4, 3), fd.Seeds(7, [5, 0, 3])), x[[5, 0, 3]])
    y = draw((3, 4, 3), [11, 12, 13])
    assert torch.equal(draw((1, 4, 3), 12), y[1:2])
    assert x.unique().numel() > 6 * 4 * 3 - 2  # no sample repeats another


@BOTH
def test_defaults_of_dtype_and_device(name):
    draw = getattr(fd.noise, name)
    assert draw((1, 2), 0).dtype == torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert draw((1, 2), 0).dtype == torch.float64
    finally:
        torch.set_default_dtype(before)
    with torch.device("meta"):
        assert draw((1, 2), 0).device.type == "meta"
    assert draw((1, 2), 0, device="meta").device.type == "meta"


@BOTH
def test_seeds_from_torch(name):
    draw = getattr(fd.noise, name)
    torch.manual_seed(5)
    a, b = draw((2, 3), None), draw((2, 3), None)
    torch.manual_seed(5)
    assert torch.equal(draw((2, 3), None), a) and not torch.equal(a, b)
    assert torch.equal(
        draw((2, 3), torch.Generator().manual_seed(2)), draw((2, 3), torch.Generator().manual_seed(2))
    )


@BOTH
@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        (5, {}, r"shape is 5; \(B, \*\) is allowed"),
        ((), {}, r"shape is \(\); \(B, \*\) is allowed"),
        ((2, 3), {"stream": 256}, r"stream is 256; 0 \.\. 255"),
        ((2, 3), {"stream": -1}, r"stream is -1; 0 \.\. 255"),
        ((2, 3), {"draw": 2**32}, r"draw is 4294967296; 0 \.\. 2\^32 - 1"),
        ((2, 3), {"draw": -1}, "draw is -1"),
        ((2, 3), {"dtype": torch.int32}, "dtype is torch.int32"),
        ((2, -3), {}, r"shape is \(2, -3\); sizes of at least 0"),
        ((-2, 3), {}, "the batch has size -2; at least 0"),
        ((2, 3), {"backend": "numpy"}, "backend='numpy' is unknown"),
    ],
)
def test_bad_draws(name, shape, options, words):
    with pytest.raises(ValueError, match=words):
        getattr(fd.noise, name)(shape, 0, **options)


@BOTH
def test_in_a_compiled_function_with_any_seed(name):
    torch._dynamo.reset()
    counter = CompileCounter()
    draw = getattr(fd.noise, name)
    compiled = torch.compile(
        lambda x, s: x + draw(x.shape, s, device=x.device), fullgraph=True, backend=counter
    )
    x = torch.zeros(2, 3)
    for s in range(0, 2**62, 2**58):
        assert torch.equal(compiled(x, s), draw((2, 3), s))
    assert counter.frame_count <= 2


# ---- the laws. 5 sigma, two-sided: a right generator fails once in 1.7 million seeds, and the seed is fixed

FIVE_SIGMA = 2 * stats.norm.sf(5)
N = 10**6
noise = fd.noise


def mixture(m):
    s = math.sqrt(1 - m * m)
    return lambda x: (stats.norm.cdf((x - m) / s) + stats.norm.cdf((x + m) / s)) / 2


def scaled(law, mean, deviation):
    """cdf of (X - mean) / deviation."""
    return lambda x: law.cdf(x * deviation + mean)


# draw(shape, seeds), cdf, mean, variance (None where there is none or no small fourth moment), kurtosis
LAWS = {
    "normal": (noise.normal, stats.norm.cdf, 0, 1, 3),
    "uniform": (noise.uniform, stats.uniform.cdf, 1 / 2, 1 / 12, 9 / 5),
    "uniform, variance 1": (
        partial(noise.uniform, unit_variance=True),
        stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)).cdf,
        0,
        1,
        9 / 5,
    ),
    "exponential": (noise.exponential, stats.expon.cdf, 1, 1, 9),
    "gumbel": (noise.gumbel, stats.gumbel_r.cdf, np.euler_gamma, math.pi**2 / 6, 27 / 5),
    "laplace": (noise.laplace, stats.laplace(scale=math.sqrt(1 / 2)).cdf, 0, 1, 6),
    "bimodal .8": (partial(noise.bimodal, m=0.8), mixture(0.8), 0, 1, 3 - 2 * 0.8**4),
    "bimodal -.3": (partial(noise.bimodal, m=-0.3), mixture(0.3), 0, 1, 3 - 2 * 0.3**4),
    "t .3": (partial(noise.student_t, nu=0.3), stats.t(0.3).cdf, None, None, None),
    "t 1": (partial(noise.student_t, nu=1), stats.cauchy.cdf, None, None, None),
    "t 5": (partial(noise.student_t, nu=5), stats.t(5).cdf, 0, 5 / 3, 9),
    "t 1e6": (partial(noise.student_t, nu=1e6), stats.norm.cdf, 0, 1, 3),
    "t 3, variance 1": (
        partial(noise.student_t, nu=3, unit_variance=True),
        scaled(stats.t(3), 0, math.sqrt(3)),
        0,
        None,
        None,
    ),
    "t 9, variance 1": (
        partial(noise.student_t, nu=9, unit_variance=True),
        scaled(stats.t(9), 0, math.sqrt(9 / 7)),
        0,
        1,
        3 + 6 / 5,
    ),
    **{
        f"gamma {k}": (
            partial(noise.gamma, k=k),
            scaled(stats.gamma(k), k, math.sqrt(k)),
            0,
            1,
            3 + 6 / k,
        )
        for k in (0.5, 1.0, 2.5, 30.0, 1e4, 1e8)
    },
    **{
        f"gamma {k}, not centred": (
            partial(noise.gamma, k=k, centred=False),
            stats.gamma(k).cdf,
            k,
            k,
            3 + 6 / k,
        )
        for k in (0.2, 0.9, 4.0)
    },
}


def kolmogorov(x: np.ndarray, cdf) -> float:
    """p-value of the largest distance between the two distribution functions."""
    u, n = np.sort(cdf(x.astype(np.float64))), x.size
    steps = np.arange(n + 1) / n
    return stats.kstwobign.sf(math.sqrt(n) * max((steps[1:] - u).max(), (u - steps[:-1]).max()))


@pytest.mark.parametrize("name", LAWS)
def test_law(name):
    """Kolmogorov and Smirnov at 10^6 draws; mean and variance by their standard errors where these exist."""
    draw, cdf, mean, variance, kurtosis = LAWS[name]
    x = draw((4, N // 4), 2026).double().numpy().ravel()
    assert np.isfinite(x).all()
    assert kolmogorov(x, cdf) > FIVE_SIGMA
    if variance is not None:
        assert abs(x.mean() - mean) < 5 * math.sqrt(variance / N)
        assert abs(((x - mean) ** 2).mean() - variance) < 5 * variance * math.sqrt((kurtosis - 1) / N)


@pytest.mark.parametrize("nu", [0.5, 1.5, 3.0, 50.0])
def test_multivariate_t(nu):
    """Marginals are t; |x|^2 / 2 of two elements is F(2, nu); one over the other, the chi-square cancelled,
    is Cauchy. Samples, streams and draws have chi-squares of their own."""
    x = noise.multivariate_t((N // 2, 2), 5, nu).double().numpy()
    for e in (0, 1):
        assert kolmogorov(x[:, e], stats.t(nu).cdf) > FIVE_SIGMA
    assert kolmogorov((x**2).sum(1) / 2, stats.f(2, nu).cdf) > FIVE_SIGMA
    assert kolmogorov(x[:, 0] / x[:, 1], stats.cauchy.cdf) > FIVE_SIGMA
    others = [
        noise.multivariate_t((N // 2, 2), 5, nu, stream=33),
        noise.multivariate_t((N // 2, 2), 5, nu, draw=1),
    ]
    size = [np.log(np.abs(v).sum(1)) for v in (x, *(o.double().numpy() for o in others), np.roll(x, 1, 0))]
    for other in size[1:]:
        assert abs(np.corrcoef(size[0], other)[0, 1]) < 5 / math.sqrt(N // 2)
    if nu > 2:
        one = noise.multivariate_t((8, 3), 5, nu, unit_variance=True).double()
        ratio = one / torch.from_numpy(noise.multivariate_t((8, 3), 5, nu).double().numpy())
        assert (ratio / math.sqrt((nu - 2) / nu) - 1).abs().max() < 3e-7  # two float32 roundings each


def test_rademacher_is_fair():
    """+1 is binomial (n, 1/2), in all, among the 128 of a block (by chi-square) and at each bit."""
    x = noise.rademacher((2, 8 * N), 9, dtype=torch.float16)
    assert x.abs().eq(1).all()
    assert stats.binomtest(int((x > 0).sum()), x.numel()).pvalue > FIVE_SIGMA
    blocks = (x[0, : 128 * (N // 16)] > 0).view(-1, 128)
    ones = torch.bincount(blocks.sum(1), minlength=129).numpy()
    law = stats.binom(128, 1 / 2).pmf(np.arange(129)) * len(blocks)
    some = law > 20
    seen, expected = np.append(ones[some], ones[~some].sum()), np.append(law[some], law[~some].sum())
    assert stats.chisquare(seen, expected).pvalue > FIVE_SIGMA
    assert stats.binomtest(int(blocks.sum(0).min()), len(blocks)).pvalue * 128 > FIVE_SIGMA


@pytest.mark.parametrize("p", [0.0, 2**-10, 0.3, 0.5, 1.0])
def test_bernoulli(p):
    x = noise.bernoulli((4, N // 4), 3, p)
    assert ((x == 0) | (x == 1)).all()
    assert stats.binomtest(int(x.sum()), N, p).pvalue > FIVE_SIGMA
    assert p not in (0, 1) or (x == p).all()
    # its words are those of a uniform: a coin comes up where that lies below p, but for its 2^-24
    u = noise.uniform((4, N // 4), 3)
    assert (((u < p) == (x == 1)) | ((u - p).abs() < 2**-23)).all()


def test_bernoulli_is_exact_at_its_ends():
    """p = 2^-32 and 1 - 2^-32 are one word of all away from 0 and 1; what is less than a word is 0."""
    assert ops.noise("bernoulli", (1, 9), resolve(0, 1), parameters=[2.0**-33]).sum() == 0
    assert noise.bernoulli((1, N), 0, 1 - 2.0**-32).sum() == N


def test_gumbel_max_is_a_categorical_draw():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    seen = torch.bincount((logits + noise.gumbel((N // 4, 4), 8)).argmax(1), minlength=4).numpy()
    assert stats.chisquare(seen, logits.double().softmax(0).numpy() * (N // 4)).pvalue > FIVE_SIGMA


# ---- places in memory and in a sample


@pytest.mark.parametrize("name", ["normal", "laplace", "rademacher"])
def test_memory_format_moves_no_number(name):
    draw = getattr(noise, name)
    for shape, memory_format in (
        ((2, 3, 5, 7), torch.channels_last),
        ((2, 3, 2, 5, 7), torch.channels_last_3d),
    ):
        x = draw(shape, 4, memory_format=memory_format)
        assert x.is_contiguous(memory_format=memory_format) and torch.equal(x, draw(shape, 4))


def test_a_shard_has_its_part():
    whole = noise.student_t((2, 8, 6), 3, 4.0, draw=5)
    part = noise.student_t((2, 3, 2), 3, 4.0, draw=5, offset=4 * 6 + 1, strides=[6, 1])
    assert torch.equal(part, whole[:, 4:7, 1:3])
    assert torch.equal(noise.normal((2, 4), 3, offset=12), noise.normal((2, 16), 3)[:, 12:])


def test_symmetric_noise():
    """Mirrored, zero on the diagonal; the upper triangle is independent with variance 1: 5 standard errors of
    every covariance (variance 1, of a square 2)."""
    n, samples = 7, 40_000
    x = noise.symmetric((samples, n, n), 6)
    assert torch.equal(x, x.transpose(1, 2)) and (x.diagonal(dim1=1, dim2=2) == 0).all()
    i, j = torch.triu_indices(n, n, 1)
    z = x[:, i, j].double()
    covariance = z.T @ z / samples
    bound = 5 * torch.where(torch.eye(len(i), dtype=torch.bool), 2 / samples, 1 / samples).double().sqrt()
    assert ((covariance - torch.eye(len(i))).abs() < bound).all()
    assert torch.equal(noise.normal((samples, n, n), 6)[:, i, j], x[:, i, j])
    for draw in (noise.rademacher, partial(noise.gamma, k=2.0)):
        y = draw((5, 2, n, n), 6, symmetric=n)
        assert torch.equal(y, y.mT) and (y.diagonal(dim1=2, dim2=3) == 0).all()


def test_masked_symmetric_noise():
    x = noise.symmetric((3, 2, 5, 5), 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    y = noise.symmetric((3, 2, 5, 5), 6, mask=mask.bool())
    both = (mask[:, None, :, None] * mask[:, None, None, :]).bool()
    assert torch.equal(y, torch.where(both, x, 0.0)) and y.view(torch.int32)[~both.expand_as(y)].eq(0).all()
    assert torch.equal(noise.symmetric((3, 2, 5, 5), 6, mask=mask[1])[0], torch.where(both[1], x[0], 0.0))
    rows = noise.symmetric((3, 2, 2, 5), 6, symmetric=5, offset=5, strides=[25, 5, 1])
    assert torch.equal(rows, x[:, :, 1:3])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: noise.gamma((2, 3), 0, 0.0), r"gamma: k is 0.0; above 0: 1e-30 \.\. 1e\+30"),
        (lambda: noise.gamma((2, 3), 0, 1.0, draw=2**24), r"gamma: draw is 16777216; 0 \.\. 2\^24 - 1"),
        (lambda: noise.student_t((2, 3), 0, -1.0), "student_t: nu is -1.0; above 0"),
        (
            lambda: noise.student_t((2, 3), 0, 2.0, unit_variance=True),
            "nu is 2.0; above 2 with unit variance",
        ),
        (lambda: noise.bimodal((2, 3), 0, 1.5), r"bimodal: m is 1.5; -1 \.\. 1"),
        (lambda: noise.bernoulli((2, 3), 0, 1.5), r"bernoulli: p is 1.5; 0 \.\. 1"),
        (lambda: noise.laplace((2, 3), 0, strides=[1, 1]), "laplace: strides are 2 for a sample of shape"),
        (lambda: noise.laplace((2, 3), 0, offset=-1), "laplace: offset and strides reach elements -1"),
        (
            lambda: noise.normal((2, 3), 0, memory_format=torch.channels_last),
            r"noise.normal: memory_format is torch.channels_last for 2 dimensions; contiguous_format, ",
        ),
        (lambda: noise.symmetric((3, 3), 0), r"noise.symmetric: shape is \(3, 3\); \(B, \*, n, n\)"),
        (lambda: noise.symmetric((2, 3, 4), 0), r"noise.symmetric: shape is \(2, 3, 4\); \(B, \*, n, n\)"),
        (
            lambda: noise.symmetric((2, 3, 3), 0, mask=torch.ones(3, 3)),
            r"noise.symmetric: mask has shape \(3, 3\) for noise of \(2, 3, 3\); \(B, n\) or \(n,\)",
        ),
    ],
)
def test_bad_laws(call, words):
    with pytest.raises(ValueError, match=words):
        call()
