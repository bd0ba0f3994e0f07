"""gradient="adjoint": orders against the flow's closed form, and against the gradient of the steps taken."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.core.adjoint import AdjointStep, Transposed, adjoint_steps
from fastdiff.runtime.gradients import Adjoint, check

STD = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
SPANS = {"vp": (fd.processes.VP(), 0.9, 0.02), "edm": (fd.processes.EDM(), 20.0, 0.05),
         "flow": (fd.processes.FlowMatching(), 0.95, 0.05)}  # fmt: skip
STEPS = (160, 320)  # coarser ones profit from errors of the two forms that cancel in part


def evenly(process: Any, t0: float, t1: float, n: int) -> np.ndarray:
    times = np.asarray(process.time_of(np.linspace(process.lam(t0), process.lam(t1), n + 1)))
    times[0], times[-1] = t0, t1
    return times


class Gaussian(nn.Module):
    """The exact network for data N(shift, STD^2) by elements; w is 1 and there to be differentiated."""

    def __init__(self, process: Any, predicts: str):
        super().__init__()
        self.process, self.predicts = process, predicts
        self.w = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        a, s = (
            torch.as_tensor(np.asarray(f(t.numpy())))[:, None]
            for f in (self.process.alpha, self.process.sigma)
        )
        V = a * a * STD**2 + s * s
        x0 = shift + a * STD**2 / V * (x - a * shift)
        return self.w * (x0 if self.predicts == "data" else (x - a * x0) / s)


def slope(errors: list[float]) -> float:
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("span, predicts", [*((k, "noise") for k in SPANS), ("vp", "data")])
def test_order(span: str, predicts: str, order: int) -> None:
    """dL/dx_T = sqrt(V_0 / V_T) in each direction; and of a shift of the data, whose flow is carried along:
    x_0 - alpha_0 shift = sqrt(V_0 / V_T) (x_T - alpha_T shift)."""
    process, t0, t1 = SPANS[span]
    V = [process.alpha(t) ** 2 * STD**2 + process.sigma(t) ** 2 for t in (t0, t1)]
    flow = (V[1] / V[0]).sqrt()
    den = fd.Denoiser(Gaussian(process, predicts), process, predicts=predicts)
    errors: dict[str, list[float]] = {"x": [], "shift": []}
    for n in STEPS:
        x = torch.randn(
            4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        ).requires_grad_()
        shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        times = evenly(process, t0, t1, n)
        out = fd.sample(den, x, solver="dpm-3m", times=times, cond={"shift": shift[None]}, cond_grad=True,
                        gradient=Adjoint(order=order, memory=None))  # fmt: skip
        gx, gs = torch.autograd.grad(out.sum(), [x, shift])
        errors["x"].append(float((gx - flow).norm() / (2 * flow.norm())))
        want = 4 * (process.alpha(t1) - process.alpha(t0) * flow)
        errors["shift"].append(float((gs - want).norm() / want.norm()))
    for name, e in errors.items():
        assert slope(e) > order - 0.25, (name, e)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_to_sigma_zero_and_from_alpha_zero(order: int) -> None:
    """The steps beside the ends are transposed as they stand, so the rest keeps its order; at each n against
    the gradient of the steps that a solver of order 3 took, through the same ends."""
    process = fd.processes.FlowMatching()
    den = fd.Denoiser(Gaussian(process, "data"), process, predicts="data")
    errors = []
    for n in STEPS:
        times = np.array([1.0, *evenly(process, 0.97, 0.02, n), 0.0])
        sampler = fd.Sampler(den, fd.plan("dpmpp-3m", process, times, predicts="data"))
        x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        errors.append(check(sampler, x, gradient=Adjoint(order=order, memory=None))[0])
    assert slope(errors) > order - 0.25, errors


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(5, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x) + t[:, None] + y[:, None])) + 0.8 * x


Y, U = torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
X = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def errors_of(solver: str, how: Adjoint, counts: tuple[int, ...], **options: Any) -> np.ndarray:
    """Rows: steps; columns: x, the condition, each parameter."""
    net, process = Net().double(), fd.processes.VP()
    y, rows = Y.clone().requires_grad_(), []
    for n in counts:
        plan = fd.plan(solver, process, evenly(process, 0.9, 0.02, n), predicts="noise",
                       guidance=fd.guidance.CFG(1.5, uncond={"y": U}), **options)  # fmt: skip
        sampler = fd.Sampler(fd.Denoiser(net, process, predicts="noise"), plan)
        rows.append(check(sampler, X, gradient=how, parameters=[y, *net.parameters()], seeds=0, cond={"y": y},
                          cond_grad=True))  # fmt: skip
    return np.array(rows)


@pytest.mark.parametrize("solver, options, order", [
    ("unipc", {"order": 3}, 1), ("unipc", {"order": 3}, 2), ("unipc", {"order": 3}, 3), ("heun", {}, 2),
    ("dpm-3m", {}, 2),
])  # fmt: skip
def test_a_network_with_guidance(solver: str, options: dict[str, Any], order: int) -> None:
    """x, condition and parameters, against the gradient of the steps taken, which is itself off by the
    solver's order."""
    errors = errors_of(solver, Adjoint(order=order, memory=None), (80, 160), **options)
    assert (np.log2(errors[0] / errors[1]) > order - 0.35).all(), errors


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp-2m-sde", "er-sde"])
def test_an_sde_along_its_path(solver: str) -> None:
    """The states of the very run: order 1, or better."""
    first = errors_of(solver, Adjoint(order=1, memory=None), (40, 160))
    assert (np.log2(first[0] / first[1]) / 2 > 0.6).all(), first
    second = errors_of(solver, Adjoint(order=2, memory=None), (160,))
    assert (second < 0.5 * first[1]).all(), (first, second)


def test_along_another_path_it_is_wrong() -> None:
    """What replay is for: the same adjoint along states of other seeds does not come nearer with more
    steps."""
    process, net = fd.processes.VP(), Net().double()
    found = []
    for n in (40, 240):
        plan = fd.plan("ddpm", process, evenly(process, 0.9, 0.02, n), predicts="noise")
        sampler = fd.Sampler(fd.Denoiser(net, process, predicts="noise"), plan)
        slopes = []
        for seeds, mode in ((0, "checkpoint"), (0, Adjoint(memory=None)), (1, Adjoint(memory=None))):
            x = X.clone().requires_grad_()
            y = sampler(x, seeds=seeds, gradient=mode, cond={"y": Y})
            slopes.append(torch.autograd.grad(y, x, torch.ones_like(y))[0])
        found.append([float((g - slopes[0]).norm() / slopes[0].norm()) for g in slopes[1:]])
    (own, other), (own_fine, other_fine) = found
    assert own_fine < own / 4 and other_fine > other / 2 and other_fine > 5 * own_fine, found


def test_memory_changes_nothing() -> None:
    want = errors_of("ddpm", Adjoint(memory=None), (24,))
    for memory in (0, 3, 16):
        assert np.array_equal(errors_of("ddpm", Adjoint(memory=memory), (24,)), want)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("tau2", [0.0, 1.0])
def test_the_weights_of_parameters_sum_to_the_whole_integral(order: int, tau2: float) -> None:
    """With a constant product the polynomials are exact: sum_i W_i / alpha-weighted = the integral of
    -kappa e^{-lambda} over the noise-form steps, and of kappa e^{kappa lambda} over the others."""
    process = fd.processes.VP()
    nodes = [process.node(float(t)) for t in evenly(process, 0.9, 0.02, 12)]
    steps = adjoint_steps(nodes, [tau2] * 12, order, "noise")
    kappa = 1 + tau2
    for step, correction in steps:
        final = correction or step
        assert isinstance(final, AdjointStep)
        s, t = nodes[final.end], nodes[final.end + 1]
        if s.lam + t.lam < 0:
            total = 0.0
            for j, w in final.thetas.items():  # x0 = (x - sigma eps) / alpha
                n = nodes[j]
                total += w / (n.sigma * math.exp(-tau2 * n.lam) * (-n.sigma / n.alpha))
            want = math.exp(kappa * t.lam) - math.exp(kappa * s.lam)
        else:
            total = sum(w / nodes[j].alpha for j, w in final.thetas.items())
            want = -kappa * (math.exp(-s.lam) - math.exp(-t.lam))
        assert total == pytest.approx(want, rel=1e-10)


def test_explicit_first_order_is_the_published_step() -> None:
    """Blasingame & Liu, the noise-prediction first-order solver: a_s = alpha_t / alpha_s a_t
    + kappa sigma_s (e^{-h} - 1) alpha_t^2 / alpha_s^2 V, parameters the same less alpha_t / alpha_s."""
    process = fd.processes.VP()
    nodes = [process.node(t) for t in (0.2, 0.1, 0.05)]
    for kappa in (1, 2):
        (step, _), _ = adjoint_steps(nodes, [kappa - 1.0] * 2, 1, "noise")
        assert isinstance(step, AdjointStep)
        t, s = nodes[2], nodes[1]
        r, g = t.alpha / s.alpha, kappa * s.sigma * math.expm1(s.lam - t.lam)
        assert step.own == pytest.approx({2: r}) and step.products == pytest.approx({2: r * r * g})
        assert step.thetas == pytest.approx({2: r * g})


def test_what_it_does_not_do_it_says() -> None:
    process = fd.processes.VP()
    den = fd.Denoiser(lambda x, t: torch.tanh(x), process, predicts="noise")
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    class Bound(fd.Hook):
        def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
            return xhat.clamp(-1, 1)

    for more, match in (
        ({"hooks": [Bound()]}, "Bound"),
        ({"solver": "heun", "churn": 4.0}, "no network call|makes none"),
        ({"gradient": "adjoint", "trajectory": True}, None),
    ):
        run = {"solver": "ddim", "steps": 4, "gradient": "adjoint"} | more
        if match is not None:
            with pytest.raises(ValueError, match=match):
                fd.sample(den, x, **run)
        else:
            t = fd.sample(den, x, **run)
            with pytest.raises(ValueError, match="trajectory"):
                t.states[2].sum().backward()
    for bad in (0, 4, True, "2"):
        with pytest.raises(ValueError, match="order must be 1, 2 or 3"):
            Adjoint(order=bad)  # type: ignore[arg-type]
    y = fd.sample(den, x, solver="ddim", steps=4, gradient="adjoint")
    with pytest.raises(ValueError, match="second derivative"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
    assert Transposed(0, 1.0, 0.0, 0.0).end == 0
