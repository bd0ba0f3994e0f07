"""fd.losses.HybridVLB against its terms by torch.distributions in float64, and the bound against Gaussian
data's exact likelihood."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import HybridVLB

DOUBLE = torch.float64
DISCRETE = fd.processes.DiscreteVP.linear(50, 1e-3, 0.2)
PROCESSES = {"discrete": (DISCRETE, {}), "vp": (fd.processes.VP(), {"steps": 40})}


class Net(torch.nn.Module):
    """Of 2C channels, the second half within (-1, 1)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(4, 2, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y = torch.einsum("ij,bjn->bin", self.w, torch.tanh(x)) + torch.cos(t).reshape(-1, 1, 1)
        return torch.cat([y[:, :2], torch.tanh(y[:, 2:])], 1)


def pixels(batch: int = 6) -> Tensor:
    """8-bit values, both ends among them."""
    x = torch.randint(0, 256, (batch, 2, 5), generator=torch.Generator().manual_seed(0))
    x[0, 0, 0], x[-1, 0, 1] = 0, 255
    return x.to(DOUBLE) / 127.5 - 1


def column(v: Tensor) -> Tensor:
    return v.reshape(-1, 1, 1)


def written_out(process, N: int, predicts: str, net, x0: Tensor, n: Tensor, eps: Tensor, held: bool):
    """(mean squared error, nats a dimension) of each sample, from betas and their products as papers do.
    Their 1 - abar is sigma^2 here, which keeps the digits that the difference loses where abar is almost
    1."""
    t = torch.arange(N + 1).double() / N
    abar, gone = process.alpha(t) ** 2, process.sigma(t) ** 2
    abar[0], gone[0] = 1, 0
    by_gone, by_left = (gone[1:] - gone[:-1]) / abar[:-1], 1 - abar[1:] / abar[:-1]
    beta = torch.where(abar[1:] > 0.5, by_gone, by_left)  # beta[k]: of step k + 1
    tilde = beta * gone[:-1] / gone[1:]
    tilde = torch.cat([tilde[1:2], tilde[1:]])  # clipped, as published
    a, s = column(abar[n].sqrt()), column(gone[n].sqrt())
    x = a * x0 + s * eps
    pred, v = net(x, n.double() / N).chunk(2, 1)
    target = {"noise": eps, "data": x0, "velocity": a * eps - s * x0, "score": -eps / s}[predicts]
    guess = {
        "noise": lambda p: (x - s * p) / a,
        "data": lambda p: p,
        "velocity": lambda p: a * x - s * p,
        "score": lambda p: (x + s**2 * p) / a,
    }[predicts](pred.detach() if held else pred)
    b, bt, before, was = (column(q) for q in (beta[n - 1], tilde[n - 1], abar[n - 1], gone[n - 1]))
    by_x0, by_x = before.sqrt() * b / s**2, (1 - b).sqrt() * was / s**2
    scale = (((v + 1) / 2 * b.log() + (1 - v) / 2 * bt.log()) / 2).exp()
    normal = torch.distributions.Normal
    model = normal(by_x0 * guess + by_x * x, scale)
    kl = torch.distributions.kl_divergence(normal(by_x0 * x0 + by_x * x, bt.sqrt().expand_as(x)), model)
    off, log_ndtr = x0 - model.mean, torch.special.log_ndtr
    near, far = (-off.abs() + 1 / 255) / scale, (-off.abs() - 1 / 255) / scale  # in the left tail
    inner = log_ndtr(near) + torch.log1p(-(log_ndtr(far) - log_ndtr(near)).exp())
    lowest, highest = log_ndtr((off + 1 / 255) / scale), log_ndtr((1 / 255 - off) / scale)
    log_mass = torch.where(x0 < -0.999, lowest, torch.where(x0 > 0.999, highest, inner))
    nats = torch.where(column(n) == 1, -log_mass, kl)
    return (pred - target).square().mean((1, 2)), nats.mean((1, 2))


@pytest.mark.parametrize("predicts", ("noise", "data", "velocity", "score"))
@pytest.mark.parametrize("name", PROCESSES)
def test_value_and_gradient(name: str, predicts: str) -> None:
    """Value to 1e-12, gradient to 1e-10; torch's divergence is a difference of numbers of order 1, ten
    roundings of which are allowed beside."""
    process, options = PROCESSES[name]
    x0, net = pixels(), Net()
    n = torch.tensor([1, 2, 3, 17, 40, 1])
    for lam in (1e-3, None):
        loss_fn = HybridVLB(process, predicts, lam=lam, **options)
        N = loss_fn.steps
        t = n.double() / N
        _, eps = process.perturb(x0, t, seeds=7)
        terms = loss_fn.per_sample(net, x0, seeds=7, t=t)
        mse, nats = written_out(process, N, predicts, net, x0, n, eps, held=lam is not None)
        want = N * nats / math.log(2) if lam is None else mse + lam * N * nats / math.log(2)
        ten = 10 * 2**-53 * N / math.log(2) * (lam or 1)
        torch.testing.assert_close(terms.loss, want, rtol=1e-12, atol=ten)
        (slope,) = torch.autograd.grad(terms.weighted.mean(), net.w)
        (want_slope,) = torch.autograd.grad(want.mean(), net.w)
        torch.testing.assert_close(slope, want_slope, rtol=1e-10, atol=1e-12 * float(want_slope.abs().max()))


def test_the_bound_is_held_off_the_mean() -> None:
    """With lam > 0 the first half's gradient is the simple loss's, to the bit of a sum with zero."""
    x0, w = pixels(), torch.zeros(2, dtype=DOUBLE, requires_grad=True)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x * w[0], torch.tanh(x) * w[1]], 1)

    both = torch.autograd.grad(HybridVLB(DISCRETE, lam=5.0)(net, x0, seeds=1), w)[0]
    simple = torch.autograd.grad(HybridVLB(DISCRETE, lam=0.0)(net, x0, seeds=1), w)[0]
    assert both[0] == simple[0] and both[1] != 0 and simple[1] == 0


def exact(process, c: float, N: int, learned: bool):
    """The reverse chain of scalar Gaussian data N(0, c): E[x0 | x_t] and, as v, the true log variance."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        t = t.double()
        node, s = process.node(t), process.node((t * N).round().sub(1) / N)
        a, d = column(node.alpha), column(node.sigma)
        pred = a * c / (a * a * c + d * d) * x
        fresh = column(-torch.expm1(2 * (node.lam - s.lam)))
        low, high = 2 * column(s.sigma).log() + fresh.log(), 2 * d.log() + fresh.log()
        var = column(s.sigma) ** 2 * fresh + (column(s.alpha) * fresh) ** 2 * c * d**2 / (a * a * c + d * d)
        v = 2 * (var.log() - low) / (high - low) - 1 if learned else -torch.ones_like(fresh)
        return torch.cat([pred, v.expand_as(x)], 1)

    return net


def bound(process, c: float, N: int, x0: Tensor, learned: bool, after: int = 1) -> Tensor:
    """Sum over after < n <= N of the bound's terms and KL(q(x_T | x0) || N(0, s_T^2)), (B,) nats."""
    loss_fn = HybridVLB(process, "data", steps=N)
    net = exact(process, c, N, learned)
    total = torch.zeros(len(x0), dtype=DOUBLE)
    for n in range(after + 1, N + 1):
        t = torch.full((len(x0),), n / N, dtype=DOUBLE)
        total += loss_fn.bound(net, x0, t, seeds=n)
    a, d = float(process.alpha(1.0)), float(process.sigma(1.0))
    prior = torch.distributions.Normal(0.0, math.sqrt(a * a * c + d * d))
    start = torch.distributions.Normal(a * x0.flatten(), d)
    return total + torch.distributions.kl_divergence(start, prior)


def test_gaussian_data_have_their_exact_likelihood() -> None:
    """With the true reverse kernel the sum is E log q(x_1 | x0) / p(x_1) at any N: with -E log p(x0 | x_1),
    which is Gaussian too, that is -log p(x0) exactly. Allowed: 5 standard errors of 4000 draws."""
    process, c, N = fd.processes.VP(), 0.6, 12
    x0 = torch.full((4000, 1, 1), 0.8, dtype=DOUBLE)
    total = bound(process, c, N, x0, learned=True)
    a, d = float(process.alpha(1 / N)), float(process.sigma(1 / N))
    var = a * a * c + d * d
    # E over x_1 given x0 of log q(x_1 | x0) - log N(x_1; 0, var)
    want = 0.5 * math.log(var / d**2) - 0.5 + ((a * 0.8) ** 2 + d * d) / (2 * var)
    assert abs(total.mean().item() - want) < 5 * total.std().item() / math.sqrt(len(x0))
    rest = c * d * d / var  # of x0 given x_1
    off = 0.8 - a * c / var * a * 0.8  # mean error of E[x0 | x_1]
    recon = 0.5 * math.log(2 * math.pi * rest) + (off**2 + (a * c / var * d) ** 2) / (2 * rest)
    nll = 0.5 * math.log(2 * math.pi * c) + 0.8**2 / (2 * c)
    assert want + recon == pytest.approx(nll, rel=1e-12)


def test_the_gap_of_a_fixed_variance_is_of_order_one_over_steps() -> None:
    """The variance of q in place of the true one, r times as large, costs (r - 1 - log r) / 2 a step: O(1 /
    N) above a fixed time. (Not down to t = 1 / N, where a step's change of log-SNR stays as large as ever.)
    Both chains see the same noise. Allowed: 5 standard errors of 1000 draws."""
    process, c = fd.processes.VP(0.1, 8.0), 0.6
    x0 = c**0.5 * fd.noise.normal((1000, 1, 1), 3, dtype=DOUBLE)
    wants = []
    for N in (30, 60):
        want = 0.0
        for n in range(N // 3 + 1, N + 1):
            t, s = process.node(n / N), process.node((n - 1) / N)
            fresh = -math.expm1(2 * (t.lam - s.lam))
            r = 1 + fresh * (s.alpha / s.sigma) ** 2 * c * t.sigma**2 / (t.alpha**2 * c + t.sigma**2)
            want += (r - 1 - math.log(r)) / 2
        learned, fixed = (bound(process, c, N, x0, k, after=N // 3) for k in (True, False))
        gap = fixed - learned
        assert abs(gap.mean().item() - want) < 5 * gap.std().item() / math.sqrt(len(x0))
        wants.append(want)
    assert 1.9 < wants[0] / wants[1] < 2.1


def test_the_range_is_the_solvers() -> None:
    """The variance that `ddpm` adds with v: from n / N to (n - 1) / N, by its formula for low and high."""
    from fastdiff.core.math import expm1, log

    N, process = 50, DISCRETE
    low, high = HybridVLB(process)._range(torch.arange(1, N + 1).double())
    for n in range(2, N + 1):
        s, t = process.node(n / N), process.node((n - 1) / N)  # the solver's s -> t
        fresh = -expm1(2 * (s.lam - t.lam))
        assert low[n - 1].item() == pytest.approx(2 * log(t.sigma) + log(fresh), rel=1e-12)
        assert high[n - 1].item() == pytest.approx(2 * log(s.sigma) + log(fresh), rel=1e-12)
    assert low[0] == low[1]


def test_importance_sampling_and_float32() -> None:
    law = fd.losses.times.registry.make("loss-second-moment", bins=5, history=1)
    loss_fn = HybridVLB(DISCRETE, lam=None, time_sampler=law)
    for seed in range(3):
        loss = loss_fn(lambda x, t: torch.cat([x, torch.tanh(x)], 1), pixels(32).float(), seeds=seed)
        assert loss.dtype == torch.float32 and loss.isfinite()
    assert law.probabilities().max() > 1.5 * law.probabilities().min()


def test_errors() -> None:
    with pytest.raises(ValueError, match="is continuous: say steps=N"):
        HybridVLB(fd.processes.VP())
    with pytest.raises(ValueError, match=r"must run over \[0, 1\] and pull to nothing"):
        HybridVLB(fd.processes.EDM(), steps=10)
    with pytest.raises(ValueError, match="unknown variance"):
        HybridVLB(DISCRETE, variance="learnt")
    with pytest.raises(ValueError, match="lam must be a number >= 0 or None, got -1"):
        HybridVLB(DISCRETE, lam=-1)
    with pytest.raises(ValueError, match="a noise prediction cannot be turned into data at t=1"):
        HybridVLB(fd.processes.ZeroTerminalSNR(DISCRETE), "noise", steps=10)
    with pytest.raises(ValueError, match=r"the network returned shape \(6, 2, 5\).*need \(6, 4, 5\)"):
        HybridVLB(DISCRETE)(lambda x, t: x, pixels())
