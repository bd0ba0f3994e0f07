"""fd.losses.Denoising against the loss written out in torch, in float64 with autograd, and against closed
forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import Denoising, weightings
from fastdiff.noise import Seeds

DOUBLE = torch.float64
PREDICTIONS = ("noise", "data", "velocity", "flow", "score")
PROCESSES = [fd.processes.VP(), fd.processes.FlowMatching(), fd.processes.EDM()]


class Net(torch.nn.Module):
    """Small, smooth, in need of x and t, and of a condition where one is given."""

    def __init__(self, dtype: torch.dtype = DOUBLE):
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(3, 3, dtype=dtype) / 2)

    def forward(self, x: Tensor, t: Tensor, shift: Tensor | None = None) -> Tensor:
        y = torch.einsum("ij,bjhw->bihw", self.w, torch.tanh(x)) + torch.cos(t).reshape(-1, 1, 1, 1).to(
            x.dtype
        )
        return y if shift is None else y + shift.reshape(-1, 1, 1, 1)


def data(dtype: torch.dtype = DOUBLE, batch: int = 5) -> Tensor:
    return torch.randn(batch, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).to(dtype)


def column(v: Tensor) -> Tensor:
    return v.reshape(-1, 1, 1, 1)


def written_out(
    process, predicts: str, net, x0: Tensor, t: Tensor, eps: Tensor, rho: str = "l2", c: float = 0.0
):
    """Per-sample losses, as papers write them."""
    a, s, da, ds = (column(f(t)) for f in (process.alpha, process.sigma, process.dalpha, process.dsigma))
    out = net(a * x0 + s * eps, t)
    target = {
        "noise": eps,
        "data": x0,
        "velocity": a * eps - s * x0,
        "flow": da * x0 + ds * eps,
        "score": -eps / s,
    }[predicts]
    d = out - target
    if rho == "pseudo_huber":
        return (d.square().sum((1, 2, 3)) + c * c).sqrt() - c
    huber = torch.where(d.abs() < c, d * d / 2, c * (d.abs() - c / 2))
    return {"l2": d * d, "l1": d.abs(), "huber": huber}[rho].mean((1, 2, 3))


SNR = lambda a, s: (a / s) ** 2  # noqa: E731
WX = {  # the weight of an error of the data prediction, options at their defaults
    "noise": lambda a, s, da, ds: SNR(a, s),
    "data": lambda a, s, da, ds: torch.ones_like(a),
    "velocity": lambda a, s, da, ds: ((a**2 + s**2) / s) ** 2,
    "flow": lambda a, s, da, ds: (da - a * ds / s) ** 2,
    "min-snr": lambda a, s, da, ds: SNR(a, s).clamp(max=5.0),
    "soft-min-snr": lambda a, s, da, ds: 5 * SNR(a, s) / (SNR(a, s) + 5),
    "truncated-snr": lambda a, s, da, ds: SNR(a, s).clamp(min=1),
    "p2": lambda a, s, da, ds: SNR(a, s) / (1 + SNR(a, s)),
    "edm": lambda a, s, da, ds: ((s / a) ** 2 + 0.25) / (s / a * 0.5) ** 2,
    "sigmoid": lambda a, s, da, ds: SNR(a, s) / (1 + SNR(a, s) * math.e),
    "warmup-clamp": lambda a, s, da, ds: (((s / a) ** 2 + 0.25) / (s / a * 0.5) ** 2).clamp(max=5.0),
    "elbo": lambda a, s, da, ds: -(da / a - ds / s) * SNR(a, s),
}


def weight_written_out(key: str, process, predicts: str, t: Tensor) -> Tensor:
    a, s, da, ds = (f(t) for f in (process.alpha, process.sigma, process.dalpha, process.dsigma))
    if key == "constant":
        return torch.ones_like(t)
    factor = {
        "noise": SNR(a, s),
        "data": torch.ones_like(a),
        "velocity": ((a**2 + s**2) / s) ** 2,
        "flow": (da - a * ds / s) ** 2,
        "score": a**2 / s**4,
    }[predicts]
    if key != "diffusion-ts":
        return WX[key](a, s, da, ds) / factor
    before = (t - process.t_max / 1000).clamp(min=0)  # of a step of 1000; all processes here start clean at 0
    ratio = a / process.alpha(before)
    gone = torch.where(before > 0, ratio * process.sigma(before), 0)
    return ratio * s / (100 * (s - gone) * (s + gone)) / factor


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.key)
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_every_prediction_and_weighting(predicts: str, process) -> None:
    """Value to 1e-12, gradient to 1e-10: both sides are float64 sums of 360 squares. The weights of the
    oracle are their tables' w_x over the factor from an error of x0_hat to that of the prediction, both from
    alpha, sigma and their slopes alone."""
    x0, net = data(), Net()
    assert set(weightings.names()) == {*WX, "constant", "diffusion-ts"}
    for key in weightings.names():
        loss_fn = Denoising(process, predicts, weighting=key, t_min=1e-3)
        loss = loss_fn(net, x0, seeds=7)
        (slope,) = torch.autograd.grad(loss, net.w)
        terms = loss_fn.per_sample(net, x0, seeds=7)
        _, eps = process.perturb(x0, terms.t, seeds=7)
        weight = weight_written_out(key, process, predicts, terms.t)
        want = (weight * written_out(process, predicts, net, x0, terms.t, eps)).mean()
        (want_slope,) = torch.autograd.grad(want, net.w)
        torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
        torch.testing.assert_close(terms.weighted.mean(), want, rtol=1e-12, atol=0)
        torch.testing.assert_close(slope, want_slope, rtol=1e-10, atol=1e-12 * float(want_slope.abs().max()))


@pytest.mark.parametrize("rho, c", [("l1", None), ("huber", 0.7), ("pseudo_huber", 0.3)])
def test_every_rho(rho: str, c: float | None) -> None:
    process, x0, net = PROCESSES[0], data(), Net()
    loss_fn = Denoising(process, "noise", weighting="min-snr", rho=rho, c=c)
    terms = loss_fn.per_sample(net, x0, seeds=3)
    _, eps = process.perturb(x0, terms.t, seeds=3)
    want = written_out(process, "noise", net, x0, terms.t, eps, rho, c or 0.0)
    torch.testing.assert_close(terms.loss, want, rtol=1e-12, atol=0)


def test_preconditioned_network_is_karras_loss() -> None:
    """weighting="edm", precondition="edm" and the lognormal law are the loss of Karras et al. in terms of
    D = c_skip x + c_out F(c_in x, c_noise): (sigma^2 + sd^2) / (sigma sd)^2 ||D - x0||^2."""
    process, x0, net, sd = fd.processes.EDM(), data(), Net(), 0.5
    loss_fn = Denoising(process, precondition="edm", weighting="edm", time_sampler="edm")
    terms = loss_fn.per_sample(net, x0, seeds=2)
    sigma = column(terms.t)
    x, _ = process.perturb(x0, terms.t, seeds=2)
    r = (sigma**2 + sd**2).sqrt()
    D = sd**2 / r**2 * x + sigma * sd / r * net(x / r, terms.t.log() / 4)
    want = ((r / (sigma * sd)) ** 2 * (D - x0) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(terms.weighted, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_the_posterior_mean_has_the_least_loss(predicts: str) -> None:
    """Gaussian data N(m, c): the optimal data prediction's squared error is c sigma^2 / (alpha^2 c +
    sigma^2), whatever the prediction it is given as. 2e5 numbers, 5 standard errors."""
    process, m, c = fd.processes.VP(), 0.4, 1.6
    x0 = m + math.sqrt(c) * fd.noise.normal((200, 1000), 5, dtype=DOUBLE)
    t = torch.linspace(0.05, 0.95, 200, dtype=DOUBLE)

    def optimal(x: Tensor, t: Tensor) -> Tensor:
        n = process.node(t[:, None])
        a, s = n.alpha, n.sigma
        hat = m + a * c / (a * a * c + s * s) * (x - a * m)
        eps = (x - a * hat) / s
        return {
            "noise": eps,
            "data": hat,
            "velocity": a * eps - s * hat,
            "flow": n.dalpha * hat + n.dsigma * eps,
            "score": -eps / s,
        }[predicts]

    terms = Denoising(process, predicts, weighting="data").per_sample(optimal, x0, seeds=1, t=t)
    a, s = process.alpha(t), process.sigma(t)
    ratio = terms.weighted / (c * s * s / (a * a * c + s * s))
    assert abs(ratio.mean().item() - 1) < 5 * math.sqrt(2 / x0.numel())  # each is chi-square over its number


def test_dtypes_and_networks_that_see_indices() -> None:
    """float32 and bf16 stay beside float64 by their own rounding; a discrete process trains on its own
    steps."""
    process = fd.processes.VP()
    ref = Denoising(process, "velocity")(Net(), data(), seeds=0).item()
    for dtype, rtol in (
        (torch.float32, 1e-6),
        (torch.bfloat16, 2e-2),
    ):  # 360 terms of relative error 2^-24, 2^-8
        loss = Denoising(process, "velocity")(Net(dtype), data(dtype), seeds=0)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(ref, rel=rtol)
    seen = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return x

    steps = Denoising(fd.processes.DiscreteVP.linear(), "noise", time=("index", 1000))
    terms = steps.per_sample(net, data(torch.float32, 64), seeds=0)
    assert seen[-1].dtype == torch.int64 and 0 <= seen[-1].min() and seen[-1].max() <= 999
    assert torch.equal((terms.t * 1000).round().long() - 1, seen[-1])


def test_a_sample_depends_on_itself_alone() -> None:
    loss_fn, net = Denoising(fd.processes.VP(), "noise", drop={"shift": 0.0}, p_drop=0.5), Net(torch.float32)
    x0, shift = data(torch.float32, 8), torch.arange(8.0)
    whole = loss_fn.per_sample(net, x0, cond={"shift": shift}, seeds=4)
    part = loss_fn.per_sample(net, x0[[6, 1]], cond={"shift": shift[[6, 1]]}, seeds=Seeds(4, ids=[6, 1]))
    assert torch.equal(whole.x_t[[6, 1]], part.x_t) and torch.equal(whole.loss[[6, 1]], part.loss)


def test_dropped_conditions() -> None:
    """A coin of probability p for each sample, one for all names; the value is the null, the rest
    untouched."""
    n, p, seen = 20_000, 0.2, {}

    def net(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        seen.update(cond)
        return x

    label, vector = torch.arange(1, n + 1), torch.ones(n, 2)
    loss_fn = Denoising(
        fd.processes.VP(), "noise", drop={"label": 0, "vector": torch.tensor([3.0, 4])}, p_drop=p
    )
    loss_fn(net, torch.zeros(n, 1), cond={"label": label, "vector": vector, "other": label}, seeds=0)
    gone = seen["label"] == 0
    assert torch.equal(seen["label"][~gone], label[~gone]) and torch.equal(seen["other"], label)
    assert torch.equal(gone, (seen["vector"] == torch.tensor([3.0, 4])).all(1))
    assert abs(gone.double().mean().item() - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_offset_noise() -> None:
    """x_t - alpha x0 over sigma has variance 1 + o^2 and covariance o^2 within a channel, none between
    two."""
    process, o = fd.processes.VP(), 0.5
    x0 = torch.zeros(4000, 2, 3, 3, dtype=DOUBLE)
    t = torch.full((4000,), 0.5, dtype=DOUBLE)
    terms = Denoising(process, "noise", offset_noise=o).per_sample(lambda x, t: x, x0, seeds=0, t=t)
    eps = (terms.x_t / process.sigma(0.5)).reshape(4000, 18)
    cov = eps.T @ eps / 4000
    want = torch.block_diag(*[o * o * torch.ones(9, 9, dtype=DOUBLE)] * 2) + torch.eye(18, dtype=DOUBLE)
    assert (cov - want).abs().max() < 5 * (1 + o * o) * math.sqrt(2 / 4000)
    want_loss = (
        (terms.x_t - eps.reshape(x0.shape)).square().mean((1, 2, 3))
    )  # the net gives x_t, the target is eps
    torch.testing.assert_close(terms.loss, want_loss, rtol=1e-12, atol=0)


def test_noise_of_ones_own() -> None:
    """Coloured noise goes into x_t and the target alike; a wrong shape is refused."""
    process, x0 = fd.processes.VP(), data()
    noise = torch.linspace(-1, 1, x0.numel(), dtype=DOUBLE).reshape(x0.shape)
    loss_fn = Denoising(process, "velocity", noise=lambda like, rng: noise)
    net = Net()
    terms = loss_fn.per_sample(net, x0, seeds=0)
    want = written_out(process, "velocity", net, x0, terms.t, noise)
    torch.testing.assert_close(terms.loss, want, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"noise\(like, rng\) must give a tensor \(5, 3, 4, 6\), got \(1,\)"):
        Denoising(process, "velocity", noise=lambda like, rng: torch.zeros(1))(net, x0)


@pytest.mark.parametrize("predicts", ("noise", "data", "flow"))
def test_a_process_with_a_const(predicts: str) -> None:
    """x_t = alpha x0 + sigma eps + offset mu; the flow moves with mu too."""
    process, x0, net = fd.processes.MeanReverting(), data(), Net()
    mu = data().flip(0)
    terms = Denoising(process, predicts).per_sample(net, x0, seeds=1, consts={process.const: mu})
    t = terms.t
    x_t, eps = process.perturb(x0, t, seeds=1, consts={process.const: mu})
    torch.testing.assert_close(terms.x_t, x_t, rtol=1e-13, atol=1e-13)
    flow = column(process.dalpha(t)) * x0 + column(process.dsigma(t)) * eps + column(process.doffset(t)) * mu
    target = {"noise": eps, "data": x0, "flow": flow}[predicts]
    want = (net(x_t, t) - target).square().mean((1, 2, 3))
    torch.testing.assert_close(terms.loss, want, rtol=1e-12, atol=0)


def test_importance_sampling_learns_from_its_own_losses() -> None:
    law = fd.losses.times.registry.make("loss-second-moment", bins=2, history=1)
    loss_fn = Denoising(fd.processes.VP(), "noise", time_sampler=law)
    net = Net(torch.float32)
    for seed in range(4):
        loss_fn(net, data(torch.float32, 32), seeds=seed)
    assert law.probabilities()[0] != law.probabilities()[1]
    before = law.probabilities()
    with torch.no_grad():
        loss_fn(net, data(torch.float32, 32), seeds=9)  # a look at held-out data teaches nothing
    assert torch.equal(law.probabilities(), before)


def test_errors() -> None:
    vp = fd.processes.VP()
    with pytest.raises(ValueError, match="unknown prediction"):
        Denoising(vp, "epsilon")
    with pytest.raises(ValueError, match="t_min=0.5 and t_max=0.2 must be increasing"):
        Denoising(vp, "noise", t_min=0.5, t_max=0.2)
    with pytest.raises(ValueError, match="rho='huber' needs its c"):
        Denoising(vp, "noise", rho="huber")
    with pytest.raises(ValueError, match=r"p_drop must lie in \[0, 1\], got 2"):
        Denoising(vp, "noise", p_drop=2)
    loss_fn = Denoising(vp, "noise", drop={"label": 0})
    with pytest.raises(TypeError, match="net must be callable"):
        loss_fn(3, data())
    with pytest.raises(TypeError, match="x0 must be float32"):
        loss_fn(Net(), data().long())
    with pytest.raises(ValueError, match="holds no samples"):
        loss_fn(Net(), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="drop names 'label', which must be a tensor"):
        loss_fn(Net(), data())
    with pytest.raises(ValueError, match=r"t must be a tensor \(5,\), got float"):
        Denoising(vp, "noise").per_sample(Net(), data(), t=0.5)
    with pytest.raises(ValueError, match="the network returned shape"):
        Denoising(vp, "noise")(lambda x, t: x[:, :1], data())
    with pytest.raises(ValueError, match=r"weighting\(t, process\) must give a tensor \(5,\), got int"):
        Denoising(vp, "noise", weighting=lambda t, p: 1)(Net(), data())
