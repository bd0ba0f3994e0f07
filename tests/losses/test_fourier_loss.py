"""fd.losses.Fourier against the whole transform of both sides in float64, Parseval, and the weighting of the
published code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import Fourier, weightings

DOUBLE = torch.float64
DISCRETE = fd.processes.DiscreteVP.cosine(60)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(3, 3, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) @ self.w + torch.cos(t).reshape(-1, 1, 1)


def data(length: int) -> Tensor:
    return torch.randn(4, length, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def published_weight(n: Tensor) -> Tensor:
    """sqrt(a) sqrt(1 - abar) / beta / 100 at steps n = 1 .. N, from the table."""
    abar = torch.cat([torch.ones(1, dtype=DOUBLE), torch.tensor(DISCRETE.alphas_cumprod, dtype=DOUBLE)])
    beta = 1 - abar[1:] / abar[:-1]
    return ((1 - beta).sqrt() * (1 - abar[1:]).sqrt() / beta / 100)[n - 1]


@pytest.mark.parametrize("rho", ("l1", "l2"))
@pytest.mark.parametrize("predicts", ("data", "noise", "velocity"))
@pytest.mark.parametrize("length", (1, 2, 7, 8))
def test_value_and_gradient(length: int, predicts: str, rho: str) -> None:
    """The published loss: separate full transforms of both series. beta = 1 - abar / abar of the oracle is as
    small as 1e-3, which leaves 13 digits: value to 1e-12, gradient to 1e-10."""
    x0, net, n = data(length), Net(), torch.tensor([1, 2, 30, 59])
    t = n.double() / 60
    loss_fn = Fourier(DISCRETE, predicts, rho=rho)
    terms = loss_fn.per_sample(net, x0, seeds=2, t=t)
    x, _ = DISCRETE.perturb(x0, t, seeds=2)
    a, s = (v.reshape(-1, 1, 1) for v in (DISCRETE.alpha(t), DISCRETE.sigma(t)))
    out = net(x, t)
    guess = {"data": out, "noise": (x - s * out) / a, "velocity": a * x - s * out}[predicts]
    one, two = (torch.fft.fft(v.transpose(1, 2), norm="forward").transpose(1, 2) for v in (guess, x0))
    power = (lambda v: v.abs()) if rho == "l1" else (lambda v: v**2)
    each = power(guess - x0) + math.sqrt(length) / 5 * (
        power(one.real - two.real) + power(one.imag - two.imag)
    )
    want = each.mean((1, 2)) * published_weight(n)
    torch.testing.assert_close(terms.weighted, want, rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(terms.weighted.mean(), net.w)
    (want_slope,) = torch.autograd.grad(want.mean(), net.w)
    torch.testing.assert_close(slope, want_slope, rtol=1e-10, atol=1e-12 * float(want_slope.abs().max()))


@pytest.mark.parametrize("axis", (1, 2, -1))
@pytest.mark.parametrize("norm, factor", (("forward", 1.0), ("ortho", 8.0), ("backward", 64.0)))
def test_parseval(norm: str, factor: float, axis: int) -> None:
    """p = 2: the sum over bins is the sum over times over L (forward): with scale = L it is the same loss
    again."""
    x0 = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    net = lambda x, t: torch.sin(x)  # noqa: E731
    plain, both = (
        Fourier(DISCRETE, weighting="data", rho="l2", scale=k, norm=norm, axis=axis).per_sample(
            net, x0, seeds=0
        )
        for k in (0.0, 8.0)
    )
    torch.testing.assert_close(both.loss, (1 + factor) * plain.loss, rtol=1e-13, atol=0)


def test_the_weighting_is_the_published_table() -> None:
    n = torch.arange(1, 61)
    weight = weightings.registry.make("diffusion-ts").weight(DISCRETE.node(n.double() / 60), "data")
    torch.testing.assert_close(weight[:-1], published_weight(n)[:-1], rtol=1e-12, atol=0)
    assert abs(weight[-1] / published_weight(n)[-1] - 1) < 1e-9  # abar = 1e-9 there


def test_the_weighting_of_a_continuous_process() -> None:
    """alpha_ts sigma_t / (100 beta_t) of one step down; finite at both ends."""
    process, N = fd.processes.FlowMatching(), 10
    t = torch.tensor([0.0, 0.05, 0.1, 0.35, 1.0], dtype=DOUBLE)
    weight = weightings.registry.make("diffusion-ts", steps=N).data(process.node(t[2:]))
    s = t[2:] - 0.1
    ratio = (1 - t[2:]) / (1 - s)
    want = ratio * t[2:] / (100 * (t[2:] ** 2 - ratio**2 * s**2))
    torch.testing.assert_close(weight[:2], want[:2], rtol=1e-12, atol=0)
    ends = weightings.registry.make("diffusion-ts", steps=N).weight(process.node(t), "data")
    assert ends.isfinite().all() and ends[-1] < 1e-100


def test_errors() -> None:
    with pytest.raises(ValueError, match="axis must be a whole number other than 0"):
        Fourier(DISCRETE, axis=0)
    with pytest.raises(ValueError, match=r"axis 3 of x0 with shape \(4, 8, 3\)"):
        Fourier(DISCRETE, axis=3)(Net(), data(8))
    with pytest.raises(ValueError, match="rho must be 'l1' or 'l2'"):
        Fourier(DISCRETE, rho="huber")
    with pytest.raises(ValueError, match="norm must be one of"):
        Fourier(DISCRETE, norm="fwd")
    with pytest.raises(ValueError, match="steps must be a whole number >= 1, got 0"):
        weightings.registry.make("diffusion-ts", steps=0)
