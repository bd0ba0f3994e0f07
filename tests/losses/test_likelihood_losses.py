"""VelocityML, SecondOrder, FokkerPlanck and LocalDSM against identities of Gaussians and mixtures, and
against themselves written out in float64 with autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import fastdiff as fd
from fastdiff.losses import (
    Denoising,
    FokkerPlanck,
    LocalDSM,
    SecondOrder,
    VelocityML,
    fokker_planck_residual,
)
from fastdiff.noise import resolve
from fastdiff.ops import noise, normal

DOUBLE = torch.float64
VP = fd.processes.VP()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(4, 4, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) @ self.w + t[:, None] ** 2


def data(n: int = 6) -> Tensor:
    return 0.3 + torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def same_slope(loss: Tensor, want: Tensor, net: Net) -> None:
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(v, net.w) for v in (loss, want))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12 * float(theirs.abs().max()))


def test_velocity_ml_is_flat() -> None:
    """Its weights: one constant on the unit circle, Z / 2 of the density's normalisation over the
    interval."""
    loss_fn = VelocityML(VP, t_min=1e-3)
    weight = loss_fn.per_sample(Net(), data(500), seeds=0).weight
    lam = VP.lam(torch.tensor([1e-3, 1.0], dtype=DOUBLE))
    # the law is tabulated on 4096 levels, and d log alpha^2 / d lam is 2 at most, half a cell to either side
    assert (weight / weight.mean() - 1).abs().max() < (lam[0] - lam[1]).item() / 4095
    softplus = torch.nn.functional.softplus
    g = -2 * lam
    Z = (softplus(-g[0]) - softplus(-g[1])).item()
    assert weight.mean().item() == pytest.approx(Z / 2 / (1 - 1e-3), rel=1e-3)
    plain = Denoising(VP, "velocity", weighting="elbo", time_sampler="likelihood", t_min=1e-3)
    assert torch.equal(loss_fn(Net(), data(), seeds=1), plain(Net(), data(), seeds=1))


@pytest.mark.parametrize("seed", (3, 4, 5))
@pytest.mark.parametrize("predicts", ("velocity", "noise", "data", "score"))
def test_second_order_written_out(predicts: str, seed: int) -> None:
    """First order plus 0.1 w / n (sigma^2 div s + n - |eps - eps_hat|^2)^2, by the same probe. Value to
    1e-12, gradient to 1e-10. The oracle's bracket may cancel: what that costs it is worked out, and small."""
    x0, net = data(), Net()
    loss_fn = SecondOrder(VP, predicts, t_min=0.05)
    terms = loss_fn.per_sample(net, x0, seeds=seed)
    t, n = terms.t, 4
    a, s = VP.alpha(t)[:, None], VP.sigma(t)[:, None]
    rng = resolve(seed, 6)
    eps, e = normal((6, 4), rng, 0, 2, dtype=DOUBLE), noise("rademacher", (6, 4), rng, 0, 4, dtype=DOUBLE)
    x = (a * x0 + s * eps).requires_grad_()
    out = net(x, t)
    eps_hat = {
        "noise": out,
        "data": (x - a * out) / s,
        "velocity": a * out + s * x,
        "score": -s * out,
    }[predicts]
    target = {"noise": eps, "data": x0, "velocity": a * eps - s * x0, "score": -eps / s}[predicts]
    (pulled,) = torch.autograd.grad(-(eps_hat / s * e).sum(), x, create_graph=True)
    div = (pulled * e).sum(1)
    residual = (eps - eps_hat).square().sum(1).detach()
    bracket = s[:, 0] ** 2 * div + n - residual
    slope = {"noise": 1 + 0 * s, "data": s / a, "velocity": 1 / a, "score": 1 / s}[predicts][:, 0]
    want = (out - target).square().mean(1) + 0.1 * slope**2 * bracket**2 / n
    second = 0.1 * slope**2 * bracket**2 / n
    lost = 2 * second / want * (s[:, 0] ** 2 * div.abs() + n + residual) / bracket.abs()
    assert lost.max() * 2**-53 * 10 < 1e-12  # ten roundings of the terms
    torch.testing.assert_close(terms.loss, want, rtol=1e-12, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(v.mean(), net.w) for v in (terms.loss, want))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12 * float(theirs.abs().max()))


def test_the_trace_of_the_true_score_leaves_nothing() -> None:
    """sigma^2 div s + n = E|eps - eps*|^2: on a Gaussian the bracket has mean 0, and for a scalar its
    square's mean is the variance of |eps - eps*|^2 = 2 r^2, r = 1 - sigma^2 / V. 1e5 draws, 5 standard
    errors."""
    c, n = 0.5, 100_000
    x0 = math.sqrt(c) * fd.noise.normal((n, 1), 5, dtype=DOUBLE)
    t = torch.full((n,), 0.3, dtype=DOUBLE)
    node = VP.node(0.3)
    V = node.alpha**2 * c + node.sigma**2

    def net(x: Tensor, t: Tensor) -> Tensor:
        return node.sigma * x / V

    first = Denoising(VP, "noise").per_sample(net, x0, seeds=0, t=t).loss
    both = SecondOrder(VP, "noise", coefficient=1.0).per_sample(net, x0, seeds=0, t=t).loss
    square = both - first
    r = 1 - node.sigma**2 / V
    assert abs(first.mean().item() / r - 1) < 5 * math.sqrt(2 / n)
    want = 2 * r * r  # of a chi-square times r
    assert abs(square.mean().item() - want) < 5 * square.std().item() / math.sqrt(n)


def mixture(t: Tensor) -> MixtureSameFamily:
    """The law at times t of two normals in the plane under VP."""
    a, s = VP.alpha(t)[:, None, None], VP.sigma(t)[:, None, None]
    means = torch.tensor([[1.0, -0.5], [-1.5, 0.7]], dtype=DOUBLE)
    roots = torch.tensor([[[0.6, 0.0], [0.2, 0.3]], [[0.4, 0.0], [-0.1, 0.5]]], dtype=DOUBLE)
    cov = a[..., None] ** 2 * (roots @ roots.mT) + s[..., None] ** 2 * torch.eye(2, dtype=DOUBLE)
    weights = torch.tensor([0.3, 0.7], dtype=DOUBLE).expand(len(t), 2)
    return MixtureSameFamily(
        Categorical(weights, validate_args=False),
        MultivariateNormal(a * means, scale_tril=torch.linalg.cholesky(cov), validate_args=False),
        validate_args=False,
    )


def true_score(x: Tensor, t: Tensor) -> Tensor:
    with torch.enable_grad():
        y = x if x.requires_grad else x.detach().requires_grad_()
        (g,) = torch.autograd.grad(mixture(t).log_prob(y).sum(), y, create_graph=True)
    return g


def places(n: int = 20) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = 1.5 * torch.randn(n, 2, generator=g, dtype=DOUBLE)
    return x, 0.05 + 0.9 * torch.rand(n, generator=g, dtype=DOUBLE)


def test_fokker_planck_of_the_true_score() -> None:
    """A mixture of normals: 0 to 1e-10 of terms of up to 1e3; of (1 + c) s it is c (g^2 / 2) grad |s|^2 to
    first order, so halving c halves it."""
    x, t = places()

    def residual(c: float) -> Tensor:
        return fokker_planck_residual(
            lambda x, t: (1 + c) * true_score(x, t), x, t, VP, probes="exact", dt="central", eps_t=1e-4
        )

    # central differences of a function whose third derivative in t is up to 1e4: eps^2 / 6 of it
    assert residual(0.0).abs().max() < 1e-3
    halves = residual(2e-2) - residual(0.0), residual(1e-2) - residual(0.0)
    torch.testing.assert_close(halves[0], 2 * halves[1], rtol=0.05, atol=1e-6)


def gaussian_score(x: Tensor, t: Tensor) -> Tensor:
    """Of data N(m, diag c), in closed form, so that forward mode goes through."""
    m = torch.tensor([0.4, -1.0], dtype=DOUBLE)
    c = torch.tensor([0.3, 2.0], dtype=DOUBLE)
    a, s = VP.alpha(t)[:, None], VP.sigma(t)[:, None]
    return -(x - a * m) / (a * a * c + s * s)


def mixture_score(x: Tensor, t: Tensor) -> Tensor:
    """Of two round normals of one width, by their posterior weights."""
    means = torch.tensor([[1.0, -0.5], [-1.5, 0.7]], dtype=DOUBLE)
    logs = torch.tensor([0.3, 0.7], dtype=DOUBLE).log()
    a, s = VP.alpha(t)[:, None, None], VP.sigma(t)[:, None, None]
    V = a * a * 0.2 + s * s
    d = x[:, None] - a * means
    weights = torch.softmax(logs - (d * d).sum(-1) / (2 * V[..., 0]), -1)
    return -(weights[..., None] * d / V).sum(1)


@pytest.mark.parametrize("score", (gaussian_score, mixture_score))
def test_fokker_planck_by_forward_mode(score) -> None:
    x, t = places()
    exact = fokker_planck_residual(score, x, t, VP, probes="exact")
    assert exact.abs().max() < 1e-10
    scaled = [
        fokker_planck_residual(lambda x, t: (1 + c) * score(x, t), x, t, VP, probes="exact")  # noqa: B023
        for c in (1e-4, 5e-5)
    ]
    torch.testing.assert_close(scaled[0], 2 * scaled[1], rtol=1e-3, atol=1e-9)


def test_fokker_planck_probes_are_unbiased() -> None:
    """2000 probes at one place: 4 standard errors."""
    x, t = (v[:1] for v in places())
    many = fokker_planck_residual(mixture_score, x.expand(2000, 2), t.expand(2000), VP, seeds=1)
    error = many.std(0) / math.sqrt(2000)
    assert (many.mean(0).abs() < 4 * error + 1e-10).all()


@pytest.mark.parametrize("seed", (2, 3, 4))
def test_fokker_planck_loss_written_out(seed: int) -> None:
    """With plain derivatives of a small network, exact divergence: value to 1e-12 and gradient to 1e-10."""
    x0, net = data(), Net()
    loss_fn = FokkerPlanck(VP, "noise", probes="exact", weight=lambda t: t)
    terms = loss_fn.per_sample(net, x0, seeds=seed)
    t, x = terms.t, terms.x_t.detach()

    def score(x: Tensor, t: Tensor) -> Tensor:  # one sample
        return -net(x[None], t[None])[0] / VP.sigma(t)

    def inner(x: Tensor, t: Tensor) -> Tensor:
        s = score(x, t)
        div = torch.func.jacrev(score)(x, t).diagonal().sum()
        return VP.g2(t) / 2 * (div + s @ s) - VP.f(t) * (x @ s)

    R = torch.stack([torch.func.jacrev(score, 1)(a, b) - torch.func.grad(inner)(a, b) for a, b in zip(x, t)])  # noqa: B905
    want = (t * R.square().mean(1)).mean()
    torch.testing.assert_close(terms.output, R, rtol=1e-12, atol=1e-12)
    loss = loss_fn(net, x0, seeds=seed)
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(v, net.w) for v in (loss, want))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12 * float(theirs.abs().max()))


@pytest.mark.parametrize("order", (1, 2))
def test_local_dsm_of_ornstein_uhlenbeck(order: int) -> None:
    """dx = -x dt + sqrt(2) dW from N(0, 1.5): the linear score of least loss is -1 / var of the very chain.
    2e5 samples; the fit's own standard error times 5."""
    n, h, steps, end = 200_000, 0.05, 8, 0.45
    x0 = math.sqrt(1.5) * fd.noise.normal((n, 1), 3, dtype=DOUBLE)
    theta = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    loss_fn = LocalDSM(lambda x, t: -x, math.sqrt(2), h=h, steps=steps, order=order)
    t = torch.full((n,), end, dtype=DOUBLE)
    terms = loss_fn.per_sample(lambda x, t: theta * x, x0, seeds=0, t=t)
    (slope,) = torch.autograd.grad(terms.loss.mean(), theta, create_graph=True)
    (curve,) = torch.autograd.grad(slope, theta)
    fit = -(slope / curve).item()  # quadratic: one step of Newton's
    var, dt = 1.5, (end - h) / steps
    for _ in range(steps):
        var = var * (1 - dt) ** 2 + 2 * dt
    step, L = (1 - h, math.sqrt(2 * h)) if order == 1 else (1 - h + h * h / 2, math.sqrt(2 * h) * (1 - h / 2))
    var = var * step**2 + L**2
    assert terms.x_t.var().item() == pytest.approx(var, rel=5 * math.sqrt(2 / n))
    assert abs(fit + 1 / var) < 5 / (L * math.sqrt(n * var))


def test_local_dsm_written_out() -> None:
    """Order 2 with a drift of space and time: Jacobian, Laplacian and slope in time by plain autograd."""
    x0, net = data(), Net()

    def drift(x: Tensor, t: Tensor) -> Tensor:
        return x * torch.cos(t)[:, None] - x**3 + torch.roll(x, 1, -1)

    h, G = 0.02, lambda t: 1 + t  # noqa: E731
    loss_fn = LocalDSM(drift, G, h=h, steps=3)
    terms = loss_fn.per_sample(net, x0, seeds=5)
    rng, t = resolve(5, 6), terms.t
    s, x = t - h, x0
    for k in range(3):
        dt = (s / 3)[:, None]
        xi = normal((6, 4), rng, k, 23, dtype=DOUBLE)
        x = x + drift(x, s / 3 * k) * dt + G(s / 3 * k)[:, None] * dt.sqrt() * xi
    xi, want, places_ = normal((6, 4), rng, 0, 2, dtype=DOUBLE), [], []
    for b in range(6):

        def F(y: Tensor, u: Tensor) -> Tensor:
            return drift(y[None], u[None])[0]

        J = torch.func.jacrev(F)(x[b], s[b])
        lap = torch.func.jacrev(torch.func.jacrev(F))(x[b], s[b]).diagonal(dim1=1, dim2=2).sum(-1)
        g = G(s[b])
        f = F(x[b], s[b])
        mean = x[b] + f * h + h * h / 2 * (torch.func.jacrev(F, 1)(x[b], s[b]) + J @ f + g * g / 2 * lap)
        L = g * math.sqrt(h) * (torch.eye(4, dtype=DOUBLE) + h / 2 * J)
        places_.append(mean + L @ xi[b])
        out = net(places_[-1][None], t[b : b + 1])[0]
        want.append((L.T @ out + xi[b]).square().mean())
    torch.testing.assert_close(terms.x_t, torch.stack(places_), rtol=1e-12, atol=1e-12)
    same_slope(loss_fn(net, x0, seeds=5), torch.stack(want).mean(), net)


def test_errors() -> None:
    with pytest.raises(ValueError, match="coefficient must be a number >= 0, got -1"):
        SecondOrder(VP, coefficient=-1)
    with pytest.raises(ValueError, match="the trace goes with rho='l2', got 'l1'"):
        SecondOrder(VP, rho="l1")
    with pytest.raises(ValueError, match="no derivative by its input"):
        SecondOrder(VP)(lambda x, t: torch.zeros_like(x), data())
    with pytest.raises(ValueError, match="norm must be 'l2' or 'l1', got 'l3'"):
        FokkerPlanck(VP, "noise", norm="l3")
    with pytest.raises(ValueError, match="dt must be 'jvp' or 'central', got 'fd'"):
        fokker_planck_residual(gaussian_score, *places(), VP, dt="fd")
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        LocalDSM(lambda x, t: x, 1.0, order=3)
    with pytest.raises(ValueError, match=r"h must lie in \(0, t_max / 2 = 0.5\], got 0.7"):
        LocalDSM(lambda x, t: x, 1.0, h=0.7)
