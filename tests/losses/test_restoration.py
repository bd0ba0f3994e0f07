"""fd.losses.Restoration against the posterior written out in float64, and its minimiser against ridge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import Restoration

DOUBLE = torch.float64
VE, VP = fd.processes.EDM(), fd.processes.VP()


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def pooled(x: Tensor, t: Tensor) -> Tensor:
    """Means of neighbours, weaker the earlier: another shape than x."""
    half = x.unflatten(-1, (-1, 2)).mean(-1)
    return half * (1 + t.to(x.dtype))[:, None]


class Net(torch.nn.Module):
    """y (B, 3) -> (B, 6)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(3, 6, dtype=DOUBLE) / 2)

    def forward(self, y: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        x = torch.tanh(y) @ self.w + torch.cos(t)[:, None]
        return x if z is None else x + z.sum(1, keepdim=True)


@pytest.mark.parametrize("latent", (None, (2,)))
@pytest.mark.parametrize("process", (VE, VP), ids=lambda p: p.key)
def test_value_and_gradient(process, latent: tuple[int, ...] | None) -> None:
    x0, net, lam = data(5, 6), Net(), 0.7
    prior = lambda g, x: (g**4).sum(1)  # noqa: E731
    loss_fn = Restoration(process, pooled, prior, lam=lam, latent=latent, t_min=0.1, t_max=1.0)
    terms = loss_fn.per_sample(net, x0, seeds=4)
    t = terms.t
    a, s = process.alpha(t)[:, None], process.sigma(t)[:, None]
    y, _ = process.perturb(pooled(x0, t), t, seeds=4)
    torch.testing.assert_close(terms.x_t, y, rtol=0, atol=0)
    z = None if latent is None else fd.noise.normal((5, 2), 4, stream=13, dtype=DOUBLE)
    guess = net(y, t, z)
    want = ((a * pooled(guess, t) - y) ** 2 / (2 * s * s)).sum(1) + lam * prior(guess, x0)
    torch.testing.assert_close(terms.weighted, want, rtol=1e-12, atol=0)
    got = loss_fn(net, x0, seeds=4)
    (slope,), (want_slope,) = torch.autograd.grad(got, net.w), torch.autograd.grad(want.mean(), net.w)
    torch.testing.assert_close(slope, want_slope, rtol=1e-10, atol=1e-12 * float(want_slope.abs().max()))


@pytest.mark.parametrize("process", (VE, VP), ids=lambda p: p.key)
def test_the_minimiser_is_the_posterior_mean(process) -> None:
    """Linear A, prior N(0, c): Newton's one step on the quadratic loss from 0 lands on the mean of the
    Gaussian posterior, (a^2 A'A / s^2 + I / c)^-1 a A'y / s^2."""
    A, c, t = data(3, 6, seed=2), 1.3, torch.tensor([0.4], dtype=DOUBLE)
    loss_fn = Restoration(process, lambda x, t: x @ A.T, lambda g, x: (g * g).sum(1) / (2 * c))
    x0, seen = data(1, 6), []

    def loss_of(g: Tensor) -> Tensor:
        def net(y: Tensor, t: Tensor) -> Tensor:
            seen.append(y.detach())
            return g[None]

        return loss_fn.per_sample(net, x0, seeds=0, t=t).loss.sum()

    zero = torch.zeros(6, dtype=DOUBLE, requires_grad=True)
    bend = torch.autograd.functional.hessian(loss_of, zero)
    (slope,) = torch.autograd.grad(loss_of(zero), zero)
    best = torch.linalg.solve(bend, -slope)
    a, s = float(process.alpha(0.4)), float(process.sigma(0.4))
    precision = a * a * A.T @ A / s**2 + torch.eye(6, dtype=DOUBLE) / c
    want = torch.linalg.solve(precision, a * A.T @ seen[-1][0] / s**2)
    torch.testing.assert_close(best, want, rtol=1e-10, atol=1e-12)


def test_restore_walks_down() -> None:
    """A network that knows x0 ends there, whatever the levels; each level's y has the process's law."""
    x0, seen = data(4000, 1), []

    def net(y: Tensor, t: Tensor) -> Tensor:
        seen.append((float(t[0]), y))
        return x0

    end = Restoration(VE).restore(net, 3 * data(4000, 1, seed=1) + x0, [3.0, 1.0, 0.2], seeds=0)
    assert torch.equal(end, x0) and [t for t, _ in seen] == [3.0, 1.0, 0.2]
    for level, y in seen[1:]:
        assert abs((y - x0).std().item() / level - 1) < 5 / (2 * 4000) ** 0.5


def test_errors() -> None:
    with pytest.raises(TypeError, match="operator must be callable, got int"):
        Restoration(VE, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown option 'rho'; allowed"):
        Restoration(VE, rho="l1")
    with pytest.raises(ValueError, match=r"operator\(x, t\) must give a tensor \(5, \*\), got \(2,\)"):
        Restoration(VE, lambda x, t: torch.zeros(2))(Net(), data(5, 6))
    with pytest.raises(ValueError, match=r"prior must give \(5,\) or a scalar, got \(5, 6\)"):
        Restoration(VE, pooled, lambda g, x: g)(Net(), data(5, 6))
    with pytest.raises(ValueError, match="times must be one or more, decreasing"):
        Restoration(VE).restore(Net(), data(5, 6), [0.1, 0.2])
