"""fd.losses.FlowMatching against the loss written out in float64, and on Gaussians whose velocity is
known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import Denoising, FlowMatching

DOUBLE = torch.float64
STRAIGHT = fd.processes.FlowMatching()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(5, 5, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) @ self.w + t[:, None] ** 2


def data(n: int = 24) -> Tensor:
    return 1 + 2 * torch.randn(n, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def base(x0: Tensor, t: Tensor, seed: int) -> Tensor:
    return STRAIGHT.perturb(x0, t, seeds=seed)[1]


def check(loss_fn: FlowMatching, x1_of, seed: int = 3, **given: Tensor) -> None:
    """Value to 1e-12, gradient to 1e-10: both sides are float64 sums of 120 squares."""
    x0, net = data(), Net()
    loss = loss_fn(net, x0, seeds=seed, **given)
    (slope,) = torch.autograd.grad(loss, net.w)
    terms = loss_fn.per_sample(net, x0, seeds=seed, **given)
    t = terms.t[:, None]
    x1 = x1_of(x0, base(x0, terms.t, seed))
    x_t = (1 - t) * x0 + t * x1
    torch.testing.assert_close(terms.x_t, x_t, rtol=1e-14, atol=1e-14)
    want = (net(x_t, terms.t) - (x1 - x0)).square().mean()
    (want_slope,) = torch.autograd.grad(want, net.w)
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, want_slope, rtol=1e-10, atol=1e-12 * float(want_slope.abs().max()))


def test_independent() -> None:
    check(FlowMatching(), lambda x0, x1: x1)


def test_optimal_transport() -> None:
    def paired(x0: Tensor, x1: Tensor) -> Tensor:
        return x1[linear_sum_assignment(torch.cdist(x0, x1).square().numpy())[1]]

    check(FlowMatching(coupling="assignment"), paired)


def test_pairs_of_ones_own() -> None:
    mine = data().flip(0)
    check(FlowMatching(), lambda x0, x1: mine, x1=mine)
    check(FlowMatching(coupling="ot"), lambda x0, x1: mine, x1=mine)
    check(FlowMatching(coupling=lambda x0, rng: -x0 / 2), lambda x0, x1: -x0 / 2)


def test_independent_is_denoising_with_flow_and_iadb() -> None:
    """The same bits as Denoising; IADB (x_a = (1 - a) noise + a data, network -> data - noise) is it with the
    time and the sign turned."""
    x0, net = data(), Net()
    flow = FlowMatching().per_sample(net, x0, seeds=1)
    plain = Denoising(STRAIGHT, "flow").per_sample(net, x0, seeds=1)
    assert torch.equal(flow.loss, plain.loss) and torch.equal(flow.x_t, plain.x_t)
    a = 1 - flow.t[:, None]
    noise = base(x0, flow.t, 1)
    x_a = (1 - a) * noise + a * x0
    iadb = (-net(x_a, 1 - a[:, 0]) - (x0 - noise)).square().mean(1)
    torch.testing.assert_close(flow.loss, iadb, rtol=1e-12, atol=0)


def test_any_path() -> None:
    process, x0, net, x1 = fd.processes.VP(), data(), Net(), data().flip(0)
    terms = FlowMatching(process).per_sample(net, x0, x1, seeds=0)
    a, s, da, ds = (
        f(terms.t)[:, None] for f in (process.alpha, process.sigma, process.dalpha, process.dsigma)
    )
    want = (net(a * x0 + s * x1, terms.t) - (da * x0 + ds * x1)).square().mean(1)
    torch.testing.assert_close(terms.loss, want, rtol=1e-12, atol=0)


def test_gaussian_velocity_has_the_least_loss() -> None:
    """Independent N(m, c) and N(0, 1): u = E[x1 - x0 | x_t] is linear and leaves the variance of x1 - x0
    given x_t, c / V with V = (1 - t)^2 c + t^2. 1e5 numbers, 5 standard errors of a chi-square."""
    m, c = -0.5, 2.5
    x0 = m + math.sqrt(c) * fd.noise.normal((100, 1000), 5, dtype=DOUBLE)
    t = torch.linspace(0.02, 0.98, 100, dtype=DOUBLE)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        V = (1 - t) ** 2 * c + t**2
        return -m + (t - (1 - t) * c) / V * (x - (1 - t) * m)

    terms = FlowMatching().per_sample(velocity, x0, seeds=1, t=t)
    ratio = terms.loss / (c / ((1 - t) ** 2 * c + t**2))
    assert abs(ratio.mean().item() - 1) < 5 * math.sqrt(2 / x0.numel())


def test_optimal_pairs_leave_less_to_guess() -> None:
    """In one dimension the coupling is monotone: as the batch grows x1 becomes a function of x0, and the loss
    of the exact velocity of the linear map x1 = (x0 - m) / s tends to 0."""
    m, s, n = 0.5, 2.0, 400

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        z = (x - (1 - t) * m) / ((1 - t) * s + t)
        return z - (m + s * z)

    x0 = m + s * fd.noise.normal((n, 1), 5, dtype=DOUBLE)
    paired, alone = (
        FlowMatching(coupling=c)(velocity, x0, seeds=0).item() for c in ("assignment", "independent")
    )
    assert paired < alone / 20  # of the order of log log n / n


def test_warm_up_clamps() -> None:
    """FDM's bound: 5 x 100^{k / K}, to 500."""
    process, x0, net = fd.processes.EDM(), data(), Net()
    w = fd.losses.weightings.registry.make("warmup-clamp", warmup=200)
    loss_fn = Denoising(process, "data", weighting=w)
    for k, bound in ((0, 5.0), (100, 50.0), (200, 500.0), (900, 500.0)):
        w.iteration = k
        terms = loss_fn.per_sample(net, x0, seeds=0)
        sigma = terms.t
        want = ((sigma**2 + 0.25) / (0.5 * sigma) ** 2).clamp(max=bound)
        torch.testing.assert_close(terms.weight, want, rtol=1e-12, atol=0)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"x1 must be like x0 \(\(24, 5\)\), got \(3, 5\)"):
        FlowMatching()(Net(), data(), data(3))
    with pytest.raises(ValueError, match="noise is the coupling's to say"):
        FlowMatching(noise=lambda like, rng: like)
    with pytest.raises(TypeError, match="coupling must be a key, a Coupling or a callable, got 3"):
        FlowMatching(coupling=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"noise\(like, rng\) must give a tensor"):
        FlowMatching(coupling=lambda x0, rng: x0[:1])(Net(), data())
