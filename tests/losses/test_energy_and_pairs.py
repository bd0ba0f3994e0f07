"""fd.losses.MultiscaleDSM and CoupledDiffusion against the formulas written out in float64, and Tweedie's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import CoupledDiffusion, MultiscaleDSM
from fastdiff.noise.streams import training_column_stream

DOUBLE = torch.float64


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


class Energy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(4, 4, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cos(torch.tanh(x) @ self.w).sum(1)


def test_multiscale_value_and_gradient() -> None:
    """|y - y~ + s0^2 grad E(y~)|^2 / sigma^2 with grad E by hand."""
    x0, net, s0 = data(6, 4), Energy(), 0.3
    loss_fn = MultiscaleDSM(s0, t_min=0.05, t_max=2.0)
    terms = loss_fn.per_sample(net, x0, seeds=4)
    noisy, _ = loss_fn.process.perturb(x0, terms.t, seeds=4)
    u = torch.tanh(noisy)
    grad = -(torch.sin(u @ net.w) @ net.w.T) * (1 - u * u)
    want = ((x0 - noisy + s0**2 * grad).square().mean(1) / terms.t**2).mean()
    (want_slope,) = torch.autograd.grad(want, net.w)
    for got in (terms.weighted.mean(), loss_fn(net, x0, seeds=4)):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
        (slope,) = torch.autograd.grad(got, net.w)
        torch.testing.assert_close(slope, want_slope, rtol=1e-10, atol=1e-12 * float(want_slope.abs().max()))
    with torch.no_grad():
        held_out = loss_fn(net, x0, seeds=4)
    assert not held_out.requires_grad
    torch.testing.assert_close(held_out, want.detach(), rtol=1e-12, atol=0)


def test_gaussian_energy_is_that_of_the_noised_data() -> None:
    """Data N(0, c), E = k y^2 / 2 trained at sigma = sigma_0 alone: the loss is a parabola in k whose least
    lies at 1 / k = c + sigma_0^2 (Tweedie), within 5 standard errors of the fit's slope."""
    c, s0, n = 1.7, 0.6, 100_000
    x0 = c**0.5 * fd.noise.normal((n, 1), 3, dtype=DOUBLE)
    t = torch.full((n,), s0, dtype=DOUBLE)
    k = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    loss_fn = MultiscaleDSM(s0)
    terms = loss_fn.per_sample(lambda x, t: k * (x * x).sum(1) / 2, x0, seeds=1, t=t)
    (slope,) = torch.autograd.grad(terms.loss.mean(), k, create_graph=True)
    (bend,) = torch.autograd.grad(slope, k)
    best = -slope.item() / bend.item()
    # least squares of sigma xi = y~ - y on sigma_0^2 y~: its standard error, c / (c + s0^2) of xi being free
    error = (s0 * (c / (c + s0**2)) ** 0.5) / (s0**2 * (c + s0**2) ** 0.5 * n**0.5)
    assert abs(best - 1 / (c + s0**2)) < 5 * error
    y = loss_fn.jump(lambda x, t: (x * x).sum(1) / 2 / (c + s0**2), x0, t)
    torch.testing.assert_close(y, x0 * c / (c + s0**2), rtol=1e-14, atol=1e-15)


class Forecast(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(4, 3, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) @ self.w + torch.cos(t)[:, None]


@pytest.mark.parametrize("c", (0.0, 0.25, 1.0, 3.0))
@pytest.mark.parametrize("rho, huber", (("l2", None), ("l1", None), ("huber", 0.5)))
def test_coupled_value_and_gradient(c: float, rho: str, huber: float | None) -> None:
    """The future's schedule as a process of its own with c times the betas; its noise is column 1."""
    x, y, net = data(6, 4), data(6, 3, seed=1), Forecast()
    process, other = fd.processes.VP(0.1, 12.0), fd.processes.VP(max(0.1 * c, 1e-300), max(12.0 * c, 1e-300))
    loss_fn = CoupledDiffusion(process, c, lambda t, p: 1 + t, rho=rho, huber=huber)
    terms = loss_fn.per_sample(net, x, y, seeds=5)
    t = terms.t
    x_t, _ = process.perturb(x, t, seeds=5)
    noise = fd.noise.normal((6, 3), 5, stream=training_column_stream(1), dtype=DOUBLE)
    d = net(x_t, t) - (other.alpha(t)[:, None] * y + other.sigma(t)[:, None] * noise)
    each = {"l2": d * d, "l1": d.abs(), "huber": torch.where(d.abs() < 0.5, d * d / 2, (d.abs() - 0.25) / 2)}
    want = (each[rho].mean(1) * (1 + t)).mean()
    got = loss_fn(net, x, y, seeds=5)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    (slope,), (want_slope,) = torch.autograd.grad(got, net.w), torch.autograd.grad(want, net.w)
    torch.testing.assert_close(slope, want_slope, rtol=1e-10, atol=1e-12 * float(want_slope.abs().max()))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"process must have alpha = 1 \(EDM, VE\), got VP"):
        MultiscaleDSM(0.1, fd.processes.VP())
    with pytest.raises(ValueError, match="sigma_0 must be a number > 0, got 0"):
        MultiscaleDSM(0)
    with pytest.raises(ValueError, match=r"the network must give energies \(6,\), got \(6, 4\)"):
        MultiscaleDSM(0.1)(lambda x, t: x, data(6, 4))
    with pytest.raises(TypeError, match="net must be callable"):
        MultiscaleDSM(0.1)(3, data(6, 4))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="process must be variance preserving, got EDM"):
        CoupledDiffusion(fd.processes.EDM())
    with pytest.raises(ValueError, match="c must be a number >= 0, got -1"):
        CoupledDiffusion(fd.processes.VP(), -1)
    with pytest.raises(ValueError, match=r"y0 must be a tensor \(6, \*\), got \(5, 3\)"):
        CoupledDiffusion(fd.processes.VP())(Forecast(), data(6, 4), data(5, 3))
    with pytest.raises(ValueError, match=r"the network returned shape \(6, 3\).*\(6, 2\)"):
        CoupledDiffusion(fd.processes.VP())(Forecast(), data(6, 4), data(6, 2))
