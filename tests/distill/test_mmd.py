"""fd.distill.mmd2 and MMD: written out, against Gaussian closed forms, and through a sampler."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.distill import MMD, mmd2

DOUBLE = torch.float64


def draws(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def off_diagonal(k: Tensor) -> Tensor:
    return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))


@pytest.mark.parametrize("tile", [3, 1024])
@pytest.mark.parametrize("kernel", ["poly", "rbf", "linear", ("poly", "rbf")])
def test_written_out(kernel, tile: int) -> None:
    """Value 1e-12 and gradient 1e-10 of sums of 100 products, whatever the tiles."""
    x, y = draws(10, 4, 0).requires_grad_(), draws(7, 4, 1).requires_grad_()
    single = {
        "poly": lambda a, b: (a @ b.T / 4 + 1) ** 3,
        "rbf": lambda a, b: sum(torch.exp(-g * (a[:, None] - b).square().sum(-1)) for g in (0.1, 0.7)),
        "linear": lambda a, b: a @ b.T,
    }

    def k(a: Tensor, b: Tensor) -> Tensor:
        return sum(single[n](a, b) for n in ([kernel] if isinstance(kernel, str) else kernel))

    want = off_diagonal(k(x, x)) + off_diagonal(k(y, y)) - 2 * k(x, y).mean()
    got = mmd2(x, y, kernel, gamma=(0.1, 0.7), tile=tile)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for g, w in zip(torch.autograd.grad(got, (x, y)), torch.autograd.grad(want, (x, y)), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-12)


def test_degree_one_is_the_distance_of_the_means() -> None:
    """|mean x - mean y|^2 less what the means themselves vary by, tr(cov) / n: algebra, so 1e-12."""
    x, y = draws(30, 5, 0) + 1, draws(20, 5, 1)
    noise = sum(v.var(0).sum() / len(v) for v in (x, y))
    want = (x.mean(0) - y.mean(0)).square().sum() - noise
    torch.testing.assert_close(mmd2(x, y, "linear"), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mmd2(x, y, "poly", degree=1), want / 5, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (0.8, 1.5)])
def test_mean_is_that_of_two_gaussians(shift: float, scale: float) -> None:
    """E exp(-g |x - y|^2) = (1 + 2 g v)^(-d/2) exp(-g |a - b|^2 / (1 + 2 g v)), v the sum of both variances;
    400 estimates of 40 draws, 4 standard errors. Equal laws: 0."""
    g, d, found = 0.3, 3, []
    for i in range(400):
        found.append(mmd2(draws(40, d, 2 * i), shift + scale * draws(40, d, 2 * i + 1), "rbf", gamma=g))

    def mean(v: float, off: float) -> float:
        return (1 + 2 * g * v) ** (-d / 2) * math.exp(-g * d * off * off / (1 + 2 * g * v))

    want = mean(2, 0) + mean(2 * scale**2, 0) - 2 * mean(1 + scale**2, shift)
    got = torch.stack(found)
    assert abs(float(got.mean()) - want) < 4 * float(got.std()) / 20
    assert (want == 0) == (shift == 0)


def sampler(w: Tensor, steps: int = 3) -> fd.Sampler:
    process = fd.processes.VP()
    net = lambda x, t: w * torch.tanh(x)  # noqa: E731
    times = torch.linspace(0.9, 0.05, steps + 1).tolist()
    plan = fd.plan("ddim", process, times, predicts="noise")
    return fd.Sampler(fd.Denoiser(net, process, predicts="noise"), plan)


@pytest.mark.parametrize("gradient", ["checkpoint", "full"])
def test_through_the_sampler(gradient: str) -> None:
    """DDIM written out: x_t = alpha_t x0 + sigma_t eps. Value 1e-11, slope 1e-10, by autograd alone."""
    process, w = fd.processes.VP(), torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    s, real = sampler(w), draws(12, 4, 3)
    x = x_T = draws(12, 4, 4)
    for a, b in zip(s.plan.times[:-1], s.plan.times[1:], strict=True):
        eps = w * torch.tanh(x)
        x = process.alpha(b) / process.alpha(a) * (x - process.sigma(a) * eps) + process.sigma(b) * eps
    phi = nn.Linear(4, 6).double()
    want = mmd2(phi(x), phi(real))
    got = MMD(s, phi, gradient=gradient)(real, x_T=x_T)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    slopes = [torch.autograd.grad(v, w)[0] for v in (got, want)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_seeds_draw_the_start_that_fd_sample_draws() -> None:
    w = torch.tensor(0.7, dtype=DOUBLE)
    s, real = sampler(w), draws(8, 4, 3)
    made = fd.sample(s.denoiser, (8, 4), solver="ddim", times=s.plan.times, seeds=6, dtype=DOUBLE)
    assert torch.equal(MMD(s)(real, seeds=6), mmd2(made, real))


def test_finetuning_reaches_the_datas_law() -> None:
    """One step of a linear network from N(0, I) scales by 1 / alpha (1 - sigma w): the variance that the data
    have is reached, to 5 standard errors of a variance of 512 * 2 numbers (and as much of the data's)."""
    process, w = fd.processes.VP(), torch.tensor(0.9, dtype=DOUBLE, requires_grad=True)
    denoiser = fd.Denoiser(lambda x, t: w * x, process, predicts="noise")
    s = fd.Sampler(denoiser, fd.plan("ddim", process, [0.5, 0.0], predicts="noise"))
    loss, optimiser = MMD(s, kernel="rbf", gamma=(0.5, 2.0)), torch.optim.Adam([w], 0.03)
    for i in range(120):
        optimiser.zero_grad()
        loss(0.5 * draws(256, 2, i), seeds=i).backward()
        optimiser.step()
    made = s(draws(512, 2, 1000))
    assert abs(float(made.std()) / 0.5 - 1) < 5 * (2 / 1024) ** 0.5


def test_what_is_wrong_is_said() -> None:
    x = draws(4, 3, 0)
    with pytest.raises(ValueError, match="kernel"):
        mmd2(x, x, "gauss")
    with pytest.raises(ValueError, match="x has shape"):
        mmd2(x[:1], x)
    with pytest.raises(ValueError, match="features"):
        mmd2(x, x[:, :2])
    with pytest.raises(ValueError, match="gamma"):
        mmd2(x, x, "rbf", gamma=-1)
    with pytest.raises(TypeError, match="sampler"):
        MMD(lambda x: x)  # type: ignore[arg-type]
