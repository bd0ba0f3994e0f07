"""fd.losses.Interpolant and LearnedCoupling against what they say, written out in float64 with autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import Denoising, Interpolant, LearnedCoupling
from fastdiff.losses.interpolant import ALONE, GAMMAS, KINDS, OWN
from fastdiff.noise import resolve
from fastdiff.ops import normal

DOUBLE = torch.float64


def draws(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """(z, base): training noise, columns 0 and 1."""
    rng = resolve(seed, shape[0])
    return normal(shape, rng, 0, 2, dtype=DOUBLE), normal(shape, rng, 0, 193, dtype=DOUBLE)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(5, 5, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) @ self.w + t[:, None] ** 2


def data(n: int = 12) -> Tensor:
    return 1 + 2 * torch.randn(n, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def position(loss_fn: Interpolant, x0: Tensor, x1: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """x_t as published, in our direction of time."""
    t = t[:, None]
    c = loss_fn.c
    S = torch.sigmoid
    gamma = {
        "brownian": (c * t * (1 - t)).sqrt(),
        "parabola": c * t * (1 - t),
        "sine-squared": c * torch.sin(math.pi * t) ** 2,
        "sigmoid": S(c * (t - 0.5) + 1)
        - S(c * (t - 0.5) - 1)
        - S(torch.tensor(-c / 2 + 1, dtype=DOUBLE))
        + S(torch.tensor(-c / 2 - 1, dtype=DOUBLE)),
        "zero": 0 * t,
    }[loss_fn.gamma]
    cos, sin = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
    root = (1 - gamma**2).sqrt()
    bell = torch.cos(math.pi * t) ** 2
    return {
        "linear": lambda: (1 - t) * x0 + t * x1 + gamma * z,
        "trig": lambda: root * (cos * x0 + sin * x1) + gamma * z,
        "encoding-decoding": lambda: bell * torch.where(t <= 0.5, x0, x1) + gamma * z,
        "one-sided-linear": lambda: (1 - t) * x0 + t * z,
        "one-sided-trig": lambda: cos * x0 + sin * z,
        "mirror": lambda: x0 + gamma * z,
    }[loss_fn.kind]()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_flow_is_the_slope_of_the_path(kind: str, gamma: str) -> None:
    """Its target is dx_t/dt, here by autograd; value to 1e-12 and gradient to 1e-10, times in the middle 98 %
    where gamma' of the Brownian is below 5."""
    if kind == "mirror" and gamma == "zero":
        return
    loss_fn, x0, net = Interpolant(kind, gamma, t_min=0.01, t_max=0.99), data(), Net()
    z, x1 = draws(tuple(x0.shape), 4)
    terms = loss_fn.per_sample(net, x0, seeds=4)
    t = terms.t
    x_t, slope = torch.func.jvp(lambda t: position(loss_fn, x0, x1, z, t), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(terms.x_t, x_t, rtol=1e-12, atol=1e-12)
    want = (net(x_t, t) - slope).square().mean()
    torch.testing.assert_close(loss_fn(net, x0, seeds=4), want, rtol=1e-12, atol=0)
    (ours,) = torch.autograd.grad(loss_fn(net, x0, seeds=4), net.w)
    (theirs,) = torch.autograd.grad(want, net.w)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12 * float(theirs.abs().max()))


@pytest.mark.parametrize("predicts", ("transport", "noise", "score"))
def test_other_predictions(predicts: str) -> None:
    loss_fn, x0, net = Interpolant("linear", "brownian", predicts), data(), Net()
    z, x1 = draws(tuple(x0.shape), 2)
    terms = loss_fn.per_sample(net, x0, seeds=2)
    x_t, g = position(loss_fn, x0, x1, z, terms.t), (terms.t * (1 - terms.t)).sqrt()[:, None]
    out = net(x_t, terms.t)
    error = {"transport": out - (x1 - x0), "noise": out - z, "score": g * (out + z / g)}[predicts]
    torch.testing.assert_close(terms.loss, error.square().mean(1), rtol=1e-12, atol=0)


def test_one_sided_linear_is_flow_matching() -> None:
    """The same noise, the same pass: the same bits."""
    x0, net = data(), Net()
    t = torch.linspace(0.05, 0.95, 12, dtype=DOUBLE)
    ours = Interpolant("one-sided-linear", "zero").per_sample(net, x0, seeds=1, t=t)
    plain = Denoising(fd.processes.FlowMatching(), "flow").per_sample(net, x0, seeds=1, t=t)
    assert torch.equal(ours.x_t, plain.x_t) and torch.equal(ours.loss, plain.loss)


def test_antithetic_pairs() -> None:
    """The mean over z and -z."""
    x0, net = data(), Net()
    loss_fn = Interpolant(antithetic=True)
    z, x1 = draws(tuple(x0.shape), 3)
    terms = loss_fn.per_sample(net, x0, seeds=3)
    t, want = terms.t[:, None], 0.0
    g = (t * (1 - t)).sqrt()
    for s in (1, -1):
        x_t = (1 - t) * x0 + t * x1 + s * g * z
        want = want + (net(x_t, terms.t) - (x1 - x0 + s * (0.5 - t) / g * z)).square().mean(1) / 2
    torch.testing.assert_close(terms.loss, want, rtol=1e-12, atol=0)


def test_gaussian_ends() -> None:
    """Data N(2, 0.3^2) to N(-1, 0.7^2), Brownian latent: the regression's optimum on x_t is the known
    b(x) = (m1 - m0) + (-(1 - t) s0^2 + t s1^2 + (1 - 2 t) / 2) / V (x - M). By least squares on 1e5 draws at
    one time; 5 standard errors of its two coefficients."""
    n, (m0, s0), (m1, s1) = 100_000, (2.0, 0.3), (-1.0, 0.7)
    x0 = m0 + s0 * fd.noise.normal((n, 1), 5, dtype=DOUBLE)
    x1 = m1 + s1 * fd.noise.normal((n, 1), 6, dtype=DOUBLE)
    for time in (0.2, 0.7):
        t = torch.full((n,), time, dtype=DOUBLE)
        V = (1 - time) ** 2 * s0**2 + time**2 * s1**2 + time * (1 - time)
        k = (-(1 - time) * s0**2 + time * s1**2 + (1 - 2 * time) / 2) / V
        M = (1 - time) * m0 + time * m1

        theta = torch.zeros(2, dtype=DOUBLE, requires_grad=True)

        def net(x: Tensor, t: Tensor, theta: Tensor = theta, k: float = k, M: float = M) -> Tensor:
            return (m1 - m0) + k * (x - M) + theta[0] + theta[1] * (x - M) / math.sqrt(V)  # noqa: B023

        loss = Interpolant().per_sample(net, x0, x1, seeds=0, t=t).loss.mean()
        (slope,) = torch.autograd.grad(loss, theta)
        rest = (
            s0**2 + s1**2 + (0.5 - time) ** 2 / (time * (1 - time)) - k**2 * V
        )  # variance left: the least loss
        assert abs(loss.item() / rest - 1) < 5 * math.sqrt(2 / n)
        assert (slope / 2).abs().max() < 5 * math.sqrt(rest / n)


def test_what_it_learns_samples() -> None:
    """The flow b of Gaussian ends, known in closed form, under a solver of straight paths from x1: in one
    dimension a flow keeps ranks, so it ends at m0 + (s0 / s1) (x1 - m1), each sample for itself. Heun is of
    order 2: 4 times the steps, 16 times nearer, to 10 %."""
    (m0, s0), (m1, s1) = (2.0, 0.3), (-1.0, 0.7)

    def flow(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        M, V = (1 - t) * m0 + t * m1, ((1 - t) * s0) ** 2 + (t * s1) ** 2 + t * (1 - t)
        return m1 - m0 + (-(1 - t) * s0**2 + t * s1**2 + (1 - 2 * t) / 2) / V * (x - M)

    denoiser = fd.Denoiser(flow, fd.processes.FlowMatching(), predicts="flow")
    x1 = m1 + s1 * fd.noise.normal((200, 1), 0, dtype=DOUBLE)
    want, errors = m0 + s0 / s1 * (x1 - m1), []
    for steps in (100, 400):
        times = torch.linspace(1, 0, steps + 1, dtype=DOUBLE).tolist()
        errors.append(float((fd.sample(denoiser, x1, solver="heun", times=times) - want).abs().max()))
    assert errors[0] < 2e-3 and errors[0] / errors[1] == pytest.approx(16, rel=0.1), errors


def test_masked_ends() -> None:
    """Inpainting: x1 = x0 where it is known; those elements stand still and count nothing."""
    x0, net = data(), Net()
    known = torch.tensor([True, False, False, True, False])
    z = draws(tuple(x0.shape), 9)[0]
    x1 = torch.where(known, x0, z)
    loss_fn = Interpolant(gamma="zero")
    terms = loss_fn.per_sample(net, x0, x1, seeds=0, mask=~known[None])
    t = terms.t[:, None]
    torch.testing.assert_close(terms.x_t[:, known], x0[:, known], rtol=4e-16, atol=0)
    error = (net((1 - t) * x0 + t * x1, terms.t) - (x1 - x0)).square()
    torch.testing.assert_close(terms.loss, error[:, ~known].sum(1) / 5, rtol=1e-12, atol=0)


def test_a_sample_depends_on_itself_alone() -> None:
    x0, net = data(), Net()
    whole = Interpolant().per_sample(net, x0, seeds=4)
    part = Interpolant().per_sample(net, x0[[6, 1]], seeds=fd.Seeds(4, ids=[6, 1]))
    assert torch.equal(whole.x_t[[6, 1]], part.x_t)
    torch.testing.assert_close(whole.loss[[6, 1]], part.loss, rtol=1e-13, atol=0)  # the net's own matmul


def test_learned_coupling() -> None:
    """Value, and gradients of network and encoder, against the loss written out."""
    x0, net = data(), Net()
    torch.manual_seed(3)
    mean, scale = (torch.nn.Linear(5, 5, dtype=DOUBLE) for _ in range(2))
    loss_fn = LearnedCoupling(lambda x: (mean(x), scale(x)), weight=3.0)
    params = [net.w, *mean.parameters(), *scale.parameters()]
    t = loss_fn.per_sample(net, x0, seeds=2).t
    eps, (mu, log_var) = draws(tuple(x0.shape), 2)[0], (mean(x0), scale(x0))
    z = mu + (log_var / 2).exp() * eps
    flow = (net((1 - t[:, None]) * x0 + t[:, None] * z, t) - (z - x0)).square().mean()
    q = torch.distributions.Normal(mu, (log_var / 2).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean()
    loss = loss_fn(net, x0, seeds=2)
    torch.testing.assert_close(loss, flow + 3 * kl, rtol=1e-12, atol=0)
    ours, theirs = torch.autograd.grad(loss, params), torch.autograd.grad(flow + 3 * kl, params)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * float(b.abs().max()))


def test_the_linear_coupling_of_a_gaussian_is_straight() -> None:
    """z = (x - m) / s: the flow is exact with no error left, every sample moves on a straight line and has
    curvature 0; independent pairs bend."""
    m, s = 0.5, 3.0

    def straight(x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, *[1] * (x.dim() - 1))
        z = (x - (1 - t) * m) / ((1 - t) * s + t)
        return z - (m + s * z)

    x0 = m + s * fd.noise.normal((50, 4), 1, dtype=DOUBLE)
    loss_fn = LearnedCoupling(lambda x: ((x - m) / s, torch.full_like(x, -80.0)), weight=0.0)
    assert loss_fn(straight, x0, seeds=0).item() < 1e-30

    def bent(x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, *[1] * (x.dim() - 1))
        V = (1 - t) ** 2 * s**2 + t**2
        return -m + (t - (1 - t) * s**2) / V * (x - (1 - t) * m)

    x_T = fd.noise.normal((50, 4), 2, dtype=DOUBLE)
    process, times = fd.processes.FlowMatching(), [1 - i / 20 for i in range(21)]
    for net, low, high in ((straight, 0.0, 1e-24), (bent, 1e-2, math.inf)):
        denoiser = fd.Denoiser(net, process, predicts="flow")
        run = fd.sample(denoiser, x_T, solver="euler", times=times, trajectory=True)
        assert low <= fd.losses.curvature(run.states).item() < high


def test_errors() -> None:
    with pytest.raises(ValueError, match="unknown kind 'lin'"):
        Interpolant("lin")
    with pytest.raises(ValueError, match="gamma='zero' leaves nothing to learn"):
        Interpolant(gamma="zero", predicts="noise")
    with pytest.raises(ValueError, match=r"t_min=0 and t_max=2 must be increasing in \[0, 1\]"):
        Interpolant(gamma="zero", t_max=2)
    for kind in ALONE:
        with pytest.raises(ValueError, match="has no x1; leave it out"):
            Interpolant(kind)(Net(), data(), data())
    with pytest.raises(ValueError, match=r"x1 must be a tensor \(12, 5\) like x0, got \(3, 5\)"):
        Interpolant()(Net(), data(), data(3))
    with pytest.raises(ValueError, match="encoder must give two tensors"):
        LearnedCoupling(lambda x: (x[:1], x))(Net(), data())
    with pytest.raises(ValueError, match="states must be"):
        fd.losses.curvature([torch.zeros(2)])
    assert set(OWN) < set(ALONE)
