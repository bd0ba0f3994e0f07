"""fd.distill.Consistency and ConsistencyModel: written out in torch, and on Gaussian data, whose consistency
function is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.distill import Consistency, ConsistencyModel, curriculum

DOUBLE = torch.float64
M, C = 0.4, 1.6  # of the data: N(M, C)
PROCESSES = [fd.processes.EDM(), fd.processes.VP()]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.w = nn.Parameter(torch.randn(3, 3, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.einsum("ij,bjh->bih", self.w, torch.tanh(x)) + torch.cos(t).reshape(-1, 1, 1).to(x.dtype)


def data(batch: int = 6) -> Tensor:
    return torch.randn(batch, 3, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def column(v: Tensor) -> Tensor:
    return v.reshape(-1, 1, 1)


def node(process, t: Tensor):
    return column(process.alpha(t)), column(process.sigma(t))


def exact(process, t_min: float):
    """The end at t_min, over alpha, of the flow line through (x, t): the standardised position stays."""

    def f(x: Tensor, t: Tensor) -> Tensor:
        a, s = node(process, t.double())
        b, r = float(process.alpha(t_min)), float(process.sigma(t_min))
        return (b * M + math.sqrt(b * b * C + r * r) * (x - a * M) / (a * a * C + s * s).sqrt()) / b

    return f


def gaussian_denoiser(process, net=None) -> fd.Denoiser:
    def eps(x: Tensor, t: Tensor) -> Tensor:
        a, s = node(process, t.double())
        return s * (x - a * M) / (a * a * C + s * s)

    return fd.Denoiser(eps, process, predicts="noise")


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.key)
@pytest.mark.parametrize("predicts", [None, "noise", "velocity"])
def test_model_is_its_formula_and_x_at_the_end(process, predicts) -> None:
    """1e-12: a few float64 operations on numbers of order one."""
    net, x, d = Net(), data(), 0.5
    f = ConsistencyModel(net, process, predicts=predicts, time="t")
    t = torch.linspace(float(process.t_min), float(process.t_max) * 0.9, 6, dtype=DOUBLE)
    a, s = node(process, t)
    z, level = x / a, s / a
    off = level - process.sigma(process.t_min) / process.alpha(process.t_min)
    skip = d * d / (off**2 + d * d)
    if predicts is None:
        want = skip * z + off * d / (level**2 + d * d).sqrt() * net(z / (level**2 + d * d).sqrt(), t)
    else:
        raw = net(x, t)
        x0 = (x - s * raw) / a if predicts == "noise" else (a * x - s * raw) / (a * a + s * s)
        want = skip * z + off / (off**2 + d * d).sqrt() * x0
    torch.testing.assert_close(f(x, t), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(f(x, t)[0], z[0], rtol=1e-12, atol=0)


def test_model_holds_at_pure_noise() -> None:
    f = ConsistencyModel(Net(), fd.processes.FlowMatching(), time="t")
    at = f(data(), torch.ones(6, dtype=DOUBLE))
    torch.testing.assert_close(at, f(data(), torch.full((6,), 1 - 1e-10, dtype=DOUBLE)), rtol=1e-8, atol=1e-8)


def written_out(process, loss, x0: Tensor, seeds: int):
    """(t, s, x_t, x_s of the same noise) as drawn: by the law of the intervals and process.perturb."""
    ends = np.asarray(fd.grid("karras", process, steps=loss.steps, final="sigma_min"))
    level = process.sigma(ends) / process.alpha(ends)
    cdf = [0.5 * (1 + math.erf((math.log(v) + 1.1) / (2 * math.sqrt(2)))) for v in level]
    p = -np.diff(cdf)
    u = fd.noise.uniform((len(x0),), seeds, stream=3, dtype=DOUBLE)
    i = [int((np.cumsum(p / p.sum()) <= float(v)).sum()) for v in u]
    t, s = torch.tensor(ends[i]), torch.tensor(ends[[k + 1 for k in i]])
    return t, s, process.perturb(x0, t, seeds=seeds)[0], process.perturb(x0, s, seeds=seeds)[0]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.key)
def test_training_written_out(process) -> None:
    """Pseudo-Huber and 1 / (s_i - s_{i+1}); value 1e-12, slope 1e-10: float64 sums of 12 elements."""
    net, x0 = Net(), data()
    f, loss = ConsistencyModel(net, process), Consistency(process, 12)
    t, s, x_t, x_s = written_out(process, loss, x0, 5)
    levels = [process.sigma(v) / process.alpha(v) for v in (t, s)]
    with torch.no_grad():
        aim = f(x_s, s)
    c = 0.00054 * math.sqrt(12)
    each = ((f(x_t, t) - aim).square().sum((1, 2)) + c * c).sqrt() - c
    want = (each / (levels[0] - levels[1])).mean()
    got = loss(f, x0, seeds=5)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    slopes = [torch.autograd.grad(v, net.w)[0] for v in (got, want)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weighting", ["uniform", "snr", "snr+1", "karras", "truncated-snr"])
@pytest.mark.parametrize("rho", ["l2", "l1", "huber"])
def test_weightings_and_distances(weighting: str, rho: str) -> None:
    process, x0 = PROCESSES[0], data()
    f, moving = ConsistencyModel(Net(), process), ConsistencyModel(Net(), process)
    with torch.no_grad():
        moving.net.w.mul_(0.9)  # type: ignore[operator, union-attr]
    loss = Consistency(process, 12, weighting=weighting, rho=rho, c=0.3 if rho == "huber" else None)
    t, s, x_t, x_s = written_out(process, loss, x0, 9)
    d = f(x_t, t) - moving(x_s, s)
    huber = torch.where(d.abs() < 0.3, d * d / 2, 0.3 * (d.abs() - 0.15))
    w = {
        "uniform": torch.ones_like(t),
        "snr": t**-2,
        "snr+1": t**-2 + 1,
        "karras": t**-2 + 4,
        "truncated-snr": torch.maximum(t**-2, torch.ones_like(t)),
    }[weighting]
    want = w * {"l2": d * d, "l1": d.abs(), "huber": huber}[rho].mean((1, 2))
    torch.testing.assert_close(loss.per_sample(f, x0, target=moving, seeds=9), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.key)
def test_distillation_steps_are_the_samplers(process) -> None:
    """Each sample's x_s is what a sampler of its own two times gives."""
    x0, f, teacher = data(), ConsistencyModel(Net(), process), gaussian_denoiser(process)
    loss = Consistency(process, 12, teacher=teacher, solver="heun", rho="l2", weighting="uniform")
    t, s, x_t, _ = written_out(process, loss, x0, 5)
    ends = []
    for i in range(len(x0)):
        plan = fd.plan("heun", process, [float(t[i]), float(s[i])], predicts="noise")
        ends.append(fd.Sampler(teacher, plan)(x_t[i : i + 1]))
    want = (f(x_t, t) - f(torch.cat(ends), s).detach()).square().mean((1, 2))
    torch.testing.assert_close(loss.per_sample(f, x0, seeds=5), want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.key)
def test_the_true_function_has_no_distillation_loss(process) -> None:
    """f of Gaussian data is constant along the exact flow, so what is left is the teacher's own local error:
    Heun's is O(h^3), and 4 times as many steps make sqrt(loss) 64 times less, to +-0.25 in the order."""
    x0 = M + math.sqrt(C) * fd.noise.normal((64, 3, 4), 1, dtype=DOUBLE)
    f = exact(process, float(process.t_min))
    found = []
    for steps in (40, 160):
        times = np.geomspace(1.0, 0.1, steps + 1) * process.t_max * (0.02 if process.key == "edm" else 0.9)
        loss = Consistency(
            process,
            times=times,
            teacher=gaussian_denoiser(process),
            solver="heun",
            rho="l2",
            weighting="uniform",
            law="uniform",
        )
        found.append(math.sqrt(float(loss(f, x0, seeds=3))))
    order = math.log(found[0] / found[1]) / math.log(4)
    assert 2.75 < order < 3.25, (order, found)


def test_more_substeps_come_nearer_to_the_flow() -> None:
    """n substeps of a second-order teacher leave n^-2 of the error: 16 for 4, to 25 % (higher orders)."""
    process = PROCESSES[0]
    x0 = M + math.sqrt(C) * fd.noise.normal((64, 3, 4), 1, dtype=DOUBLE)
    f, found = exact(process, float(process.t_min)), []
    for n in (2, 8):
        times = np.geomspace(2.0, 0.1, 10 * n + 1)
        loss = Consistency(
            process,
            times=times,
            substeps=n,
            teacher=gaussian_denoiser(process),
            rho="l2",
            weighting="uniform",
            law="uniform",
        )
        found.append(math.sqrt(float(loss(f, x0, seeds=3))))
    assert 12 < found[0] / found[1] < 20, found


def test_stochastic_teacher_draws_from_the_samples_own_counters() -> None:
    """The loss of a sample does not depend on its batch, and eta = 0 is the deterministic plan bit for
    bit."""
    process, x0 = PROCESSES[1], data()
    f, teacher = ConsistencyModel(Net(), process), gaussian_denoiser(process)

    def loss(eta: float) -> Consistency:
        options = {"eta": eta}
        return Consistency(process, 12, teacher=teacher, solver="ddim", solver_options=options, substeps=3)

    whole = loss(1.0).per_sample(f, x0, seeds=4)
    part = loss(1.0).per_sample(f, x0[2:4], seeds=fd.Seeds(4, ids=[2, 3]))
    assert torch.equal(whole[2:4], part) and not torch.equal(whole, loss(0.0).per_sample(f, x0, seeds=4))
    plain = Consistency(process, 12, teacher=teacher, solver="ddim", substeps=3)
    assert torch.equal(loss(0.0).per_sample(f, x0, seeds=4), plain.per_sample(f, x0, seeds=4))


def test_training_moves_to_the_true_function() -> None:
    """f = z + (s - s_min) k (z - m) with one number k for one interval t -> t_min: the minimiser of the
    training loss is the mean of x_s / alpha given x_t, so k = -cov(x_t - x_s, x_t) / ((s - s_min) var x_t),
    all Gaussian. Its slope in k is 0 there, to 5 standard errors."""
    process, t, s = PROCESSES[0], 0.7, 0.5
    batch = 4000
    x0 = M + math.sqrt(C) * fd.noise.normal((batch, 3), 1, dtype=DOUBLE)
    k = torch.tensor(-(t - s) * t / (C + t * t), dtype=DOUBLE, requires_grad=True)

    def f(x: Tensor, time: Tensor) -> Tensor:
        here = (time > (t + s) / 2).to(x.dtype)[:, None]
        return x + here * k * (x - M)

    loss = Consistency(process, times=[t, s], rho="l2", weighting="uniform", law="uniform")
    each = loss.per_sample(f, x0, seeds=8)
    (slope,) = torch.autograd.grad(each.mean(), k)
    a, b = (process.perturb(x0, v, seeds=8)[0] for v in (t, s))
    slopes = (2 * (a + k.detach() * (a - M) - b) * (a - M)).mean(1)
    assert abs(float(slope)) < 5 * float(slopes.std()) / math.sqrt(batch)
    torch.testing.assert_close(slope, slopes.mean(), rtol=1e-10, atol=0)


def test_curriculum_is_as_published() -> None:
    """Song & Dhariwal: s0 2^floor(k / K') with K' = floor(K / (log2(s1 / s0) + 1)), 10 .. 1280 in 8 stages;
    Song et al.: from s0 to s1."""
    assert [curriculum(v) for v in (0, 0.124, 0.126, 0.5, 0.99, 1)] == [10, 10, 20, 160, 1280, 1280]
    assert curriculum(0, 2, 150, "root") == 1 and curriculum(1, 2, 150, "root") == 150
    assert curriculum(0.5, 2, 150, "root") == math.ceil(math.sqrt((151**2 - 4) / 2 + 4)) - 1


def test_what_is_wrong_is_said() -> None:
    process, f = PROCESSES[1], ConsistencyModel(Net(), PROCESSES[1])
    with pytest.raises(TypeError, match="steps"):
        Consistency(process)
    with pytest.raises(ValueError, match="weighting"):
        Consistency(process, 4, weighting="snrr")
    with pytest.raises(ValueError, match="rho"):
        Consistency(process, 4, rho="l3")
    with pytest.raises(ValueError, match="pure noise"):
        flow = fd.processes.FlowMatching()
        Consistency(flow, 4, teacher=fd.Denoiser(Net(), flow, predicts="flow"))
    with pytest.raises(ValueError, match="process"):
        Consistency(PROCESSES[0], 4, teacher=gaussian_denoiser(process))
    with pytest.raises(ValueError, match="target must return"):
        Consistency(process, 4)(f, data(), target=lambda x, t: x[:1])
    with pytest.raises(ValueError, match="steps"):
        Consistency(process, 4)(f, data(), steps=0)
    with pytest.raises(ValueError, match="sigma_data"):
        ConsistencyModel(Net(), process, sigma_data=0)
    with pytest.raises(ValueError, match="t must be"):
        f(data(), torch.ones(2))
