"""A training step without fusion, the same bits: noise by fd.noise.normal, then torch's own multiplications
and additions in the order that the ops fix; and the same bits on every rank."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import Denoising
from fastdiff.noise import resolve, streams
from fastdiff.ops import perturb, regression_loss

F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64
VP = fd.processes.VP()
SHAPE = (6, 3, 5, 7)
PREDICTIONS = ("noise", "data", "velocity", "flow", "score")


def column(v: Tensor) -> Tensor:
    return v.reshape(-1, 1, 1, 1)


def coefficients(predicts: str, wide: torch.dtype) -> tuple[Tensor, ...]:
    """alpha, sigma, the row (a, b) of the target a x0 + b xi, and a weight: as a loss rounds them, once."""
    t = torch.linspace(0.1, 0.9, SHAPE[0], dtype=F64)
    a, s = VP.alpha(t), VP.sigma(t)
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    p, q = {
        "noise": (zero, one),
        "data": (one, zero),
        "velocity": (-s, a),
        "flow": (VP.dalpha(t), VP.dsigma(t)),
        "score": (zero, -1 / s),
    }[predicts]
    return tuple(v.to(wide) for v in (a, s, p, q, 1 + t))


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("dtype", [F32, BF16, F64])
@pytest.mark.parametrize("stored", [True, False])
def test_the_fused_pair_is_the_unfused_one(predicts: str, dtype: torch.dtype, stored: bool) -> None:
    """x_t, d(loss)/d(prediction) and, but for float64, the loss: bit for bit. The loss is a float64 sum
    rounded to float32 once, so the order of that sum is not seen; of float64 data it is: 105 terms, log2(128)
    roundings a term in either order. In bfloat16 the noise is rounded where it is stored, and the slope at
    the end."""
    wide = F64 if dtype == F64 else F32
    a, s, p, q, w = coefficients(predicts, wide)
    g = torch.Generator().manual_seed(0)
    x0, pred = (torch.randn(SHAPE, generator=g, dtype=F64).to(dtype) for _ in range(2))
    rng = resolve(5, SHAPE[0])
    made = perturb(x0, a, s, rng, noise=stored)
    x_t, read = made if isinstance(made, tuple) else (made, None)
    y = pred.clone().requires_grad_()
    source = {"noise": read} if stored else {"rng": rng}
    fused = regression_loss(y, x0, p=p, q=q, w=w, **source)
    (slope,) = torch.autograd.grad(fused.sum(), y)

    xi = fd.noise.normal(SHAPE, 5, stream=streams.TRAINING, dtype=wide)
    assert torch.equal(x_t, (column(a) * x0.to(wide) + column(s) * xi).to(dtype))
    xi = xi.to(dtype).to(wide) if stored else xi
    z = pred.to(wide).requires_grad_()
    d = z - (column(p) * x0.to(wide) + column(q) * xi)
    (want_slope,) = torch.autograd.grad(((d * d).flatten(1).sum(1) / d[0].numel() * w).sum(), z)
    assert torch.equal(slope, want_slope.to(dtype))
    squares = torch.nn.functional.mse_loss(
        d.detach().double(), torch.zeros_like(d).double(), reduction="none"
    )
    want = (w.double() * squares.flatten(1).mean(1)).to(wide)
    if dtype == F64:
        torch.testing.assert_close(fused, want, rtol=14 * 2**-53, atol=0)
    else:
        assert torch.equal(fused, want)


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_ranks_and_splits_see_the_same_targets(predicts: str) -> None:
    """Three ranks that say which samples are theirs, against one that has them all: times, x_t, losses and
    slopes, bit for bit."""
    x0 = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    loss_fn = Denoising(VP, predicts, weighting="min-snr")

    def step(x0: Tensor, seeds: fd.Seeds) -> tuple[Tensor, ...]:
        scale = torch.ones_like(x0, requires_grad=True)
        terms = loss_fn.per_sample(lambda x, t: x * scale, x0, seeds=seeds)
        return terms.t, terms.x_t, terms.weighted.detach(), *torch.autograd.grad(terms.weighted.sum(), scale)

    whole = step(x0, fd.Seeds(7, ids=range(6)))
    for rank in range(3):
        mine = slice(2 * rank, 2 * rank + 2)
        for got, want in zip(step(x0[mine], fd.Seeds(7, ids=range(6)[mine])), whole, strict=True):
            assert torch.equal(got, want[mine])
