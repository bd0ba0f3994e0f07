"""ConsistentNoise: every view white, and two views correlated by what they share.

`warp` is linear: of the identity it gives a matrix M, so that M^T M is a view's covariance and M1^T M2 that
of two views, exactly. 1e-15 is a few roundings of a number of size 1 in float64. Sampled correlations of N
samples have standard error sqrt((1 + rho^2) / N), and 5 of them are allowed.
"""

from __future__ import annotations

import math

import pytest
import torch

from fastdiff.noise import Seeds, normal, streams
from fastdiff.noise.consistent_noise import ConsistentNoise

F64 = torch.float64
TEXELS, PIXELS = 40, (3, 4)


def seen(seed: int) -> torch.Tensor:
    """A map with hidden texels and with pixels of many, one and no texel."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 9, (TEXELS,), generator=g)


def matrix(view: ConsistentNoise) -> torch.Tensor:
    """(texels, pixels): what each texel adds to each pixel, nothing fresh."""
    fresh = torch.zeros(view.texels, *view.pixels, dtype=F64)
    return view.warp(torch.eye(view.texels, dtype=F64), fresh).flatten(1)


@pytest.mark.parametrize("seed", range(4))
def test_a_view_is_white_and_of_unit_variance(seed: int) -> None:
    view = ConsistentNoise(seen(seed), PIXELS)
    m = matrix(view)
    assert (m.t() @ m - torch.diag((view.coverage.flatten() > 0).double())).abs().max() < 1e-15
    count = torch.stack([(seen(seed) == p).sum() for p in range(12)])
    assert torch.equal(view.coverage, count.view(PIXELS)) and (count > 1).any() and (count == 0).any()


def test_views_are_correlated_by_their_overlap() -> None:
    maps = seen(0), seen(1)
    a, b = (matrix(ConsistentNoise(m, PIXELS, view=v)) for v, m in enumerate(maps))
    inside = [torch.stack([m == p for p in range(12)]).double() for m in maps]  # (pixels, texels)
    sizes = torch.outer(inside[0].sum(1), inside[1].sum(1))
    want = inside[0] @ inside[1].t() / sizes.clamp_min(1).sqrt()
    assert (a.t() @ b - want).abs().max() < 1e-15


def test_sampled_correlation_is_the_shared_part() -> None:
    """Two views of 6 texels in one pixel share k of them: correlation k / 6."""
    n = 20000
    for k in (0, 2, 5, 6):
        maps = torch.full((12,), -1), torch.full((12,), -1)
        maps[0][:6] = 0
        maps[1][6 - k : 12 - k] = 0
        x, y = (ConsistentNoise(m, (1,), view=v)((n, 1, 1), 3).flatten() for v, m in enumerate(maps))
        rho = k / 6
        assert float((x * y).mean()) == pytest.approx(rho, abs=5 * math.sqrt((1 + rho**2) / n))
        assert float(x.square().mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / n))


def test_one_texel_a_pixel_is_the_texture_and_the_rest_is_the_views_own() -> None:
    order = torch.randperm(12)
    view = ConsistentNoise(order, PIXELS, view=5)
    texture = normal((2, 3, 12), 7, stream=streams.TEXTURE, draw=2**32 - 1)
    got = view((2, 3, *PIXELS), 7).flatten(2)
    assert torch.equal(got[..., order], texture)
    hidden = torch.where(order % 2 == 0, -1, order)
    got = ConsistentNoise(hidden, PIXELS, view=5)((2, 3, *PIXELS), 7).flatten(2)
    fresh = normal((2, 3, 12), 7, stream=streams.TEXTURE, draw=5)
    assert torch.equal(got[..., ::2], fresh[..., ::2]) and not torch.equal(got[..., 1::2], fresh[..., 1::2])
    nothing = ConsistentNoise(torch.full((12,), -1), PIXELS, view=5)
    assert torch.equal(nothing((2, 3, *PIXELS), 7).flatten(2), fresh)


def test_views_of_one_texture() -> None:
    """The same map seen again: the same covered pixels, fresh noise elsewhere; another seed: all anew."""
    a, b = (ConsistentNoise(seen(2), PIXELS, view=v) for v in (0, 1))
    x, y, other = a((2, 1, *PIXELS), 4), b((2, 1, *PIXELS), 4), a((2, 1, *PIXELS), 5)
    covered = a.coverage > 0
    assert torch.equal(x[..., covered], y[..., covered])
    assert not (x[..., ~covered] == y[..., ~covered]).any() and not (x == other).any()


def test_many_texels_in_one_pixel() -> None:
    """Sums in pairs: log2 n roundings in float32, each of a partial sum of at most some 4 sqrt(n)."""
    n = 10007
    view = ConsistentNoise(torch.zeros(n, dtype=torch.int32), (1, 1))
    texture = normal((1, 1, n), 9, stream=streams.TEXTURE, draw=2**32 - 1)
    want = math.fsum(texture.flatten().tolist()) / math.sqrt(n)
    assert float(view((1, 1, 1, 1), 9)) == pytest.approx(want, abs=14 * 4 * 2**-24)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16, torch.float16])
def test_a_sample_does_not_know_its_batch_and_halves_are_rounded_once(dtype: torch.dtype) -> None:
    view = ConsistentNoise(seen(3), PIXELS, view=2)
    x = view((64, 3, *PIXELS), 7, dtype=dtype)
    for i in (0, 17, 63):
        assert torch.equal(view((1, 3, *PIXELS), Seeds(7, [i]), dtype=dtype), x[i : i + 1])
    if dtype != F64:
        assert torch.equal(x, view((64, 3, *PIXELS), 7, dtype=torch.float32).to(dtype))
    assert x.dtype == dtype and torch.equal(view((64, 3, *PIXELS), 7, dtype=dtype, backend="reference"), x)


def test_warp_is_linear_to_autograd() -> None:
    view = ConsistentNoise(seen(3), PIXELS)
    texture = torch.zeros(2, TEXELS, dtype=F64, requires_grad=True)
    fresh = torch.zeros(2, *PIXELS, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(view.warp, (texture, fresh))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([0, 1], PIXELS), TypeError, "pixel_of_texel is list"),
        ((torch.zeros(2), PIXELS), TypeError, r"pixel_of_texel is \(2,\) of torch.float32"),
        ((torch.zeros(2, 2, dtype=torch.int64), PIXELS), TypeError, r"pixel_of_texel is \(2, 2\)"),
        ((torch.zeros(0, dtype=torch.int64), PIXELS), TypeError, r"pixel_of_texel is \(0,\)"),
        ((torch.tensor([0, 12]), PIXELS), ValueError, r"has 0 \.\. 12; -1 \.\. 11 is allowed"),
        ((torch.tensor([0, -2]), PIXELS), ValueError, r"has -2 \.\. 0"),
        ((torch.tensor([0]), ()), ValueError, r"pixels is \(\)"),
        ((torch.tensor([0]), (3, 0)), ValueError, r"pixels is \(3, 0\)"),
        ((torch.tensor([0]), PIXELS, -1), ValueError, "view is -1"),
        ((torch.tensor([0]), PIXELS, 2**32 - 1), ValueError, r"view is 4294967295; 0 \.\. 2\^32 - 2"),
    ],
)
def test_bad_views(arguments, error, words: str) -> None:
    with pytest.raises(error, match=words):
        ConsistentNoise(*arguments)


def test_bad_calls() -> None:
    view = ConsistentNoise(seen(0), PIXELS)
    with pytest.raises(ValueError, match=r"shape is \(2, 3, 4\); \(B, C, 3, 4\) is allowed"):
        view((2, 3, 4), 0)
    with pytest.raises(ValueError, match="dtype is torch.int64"):
        view((2, 1, *PIXELS), 0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"texture is \(2, 12\)"):
        view.warp(torch.zeros(2, 12), torch.zeros(2, *PIXELS))
