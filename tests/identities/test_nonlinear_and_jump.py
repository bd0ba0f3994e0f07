"""rd-ddim on drifts whose flows are known, analytic-jump on Gaussian data whose flow is closed form."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

import fastdiff as fd
from fastdiff.core.solver import solvers
from fastdiff.testing import order_of

VP = fd.processes.VP()
OU = fd.processes.VP(2.0, 2.0)  # dx = -x dt + sqrt(2) dw
M0, S0 = 0.7, 0.4
X = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]


def gaussian_score(process: Any) -> Any:
    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = (f(t).view(-1, 1) for f in (process.alpha, process.sigma))
        return -(x - a * M0) / (a**2 * S0**2 + s**2)

    return net


def flow(process: Any, x: torch.Tensor, start: float, end: float) -> torch.Tensor:
    s, t = process.node(start), process.node(end)
    scale = math.sqrt((t.alpha**2 * S0**2 + t.sigma**2) / (s.alpha**2 * S0**2 + s.sigma**2))
    return t.alpha * M0 + scale * (x - s.alpha * M0)


# rd-ddim


def test_restoring_to_the_data_is_ddim() -> None:
    denoiser = fd.Denoiser(gaussian_score(VP), VP, predicts="score")
    for steps in (1, 2, 9):
        a, b = (
            fd.sample(denoiser, X, solver=k, steps=steps, **o)
            for k, o in (("rd-ddim", {"span": None}), ("ddim", {}))
        )
        assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("own", [True, False], ids=["a drift", "linear"])
@pytest.mark.parametrize("span", [1.0, 2.0, 4.0])
def test_order_on_an_ornstein_uhlenbeck_process(span: float, own: bool) -> None:
    """Also where b = -x is handed over as a function that nobody knows to be linear."""
    process = fd.processes.NonlinearSDE(OU, (lambda x, t: -x) if own else None)
    denoiser = fd.Denoiser(gaussian_score(OU), process, predicts="score")
    errors = []
    for n in (80, 160):
        y = fd.sample(denoiser, X, solver="rd-ddim", times=np.linspace(1.0, 0.05, n + 1), span=span)
        errors.append(float((y - flow(OU, X, 1.0, 0.05)).abs().max()))
    assert 0.9 <= order_of(errors, (80, 160)) <= 1.1


@cache
def double_well() -> Any:
    """Score of dx = (x - x^3) dt + sqrt(2) dw from N(0.4, 0.25), from a chain of jumps between 301 points
    that has the right stationary law; its generator is symmetric in the right scale, so all times cost one
    eigendecomposition."""
    x = np.linspace(-4, 4, 301)
    d = x[1] - x[0]
    energy = x**4 / 4 - x**2 / 2
    up = np.exp(-(energy[1:] - energy[:-1]) / 2) / d**2
    down = np.exp((energy[1:] - energy[:-1]) / 2) / d**2
    rate = -np.concatenate([up, [0]]) - np.concatenate([[0], down])
    values, Q = np.linalg.eigh(
        np.diag(rate) + np.diag(np.sqrt(up * down), 1) + np.diag(np.sqrt(up * down), -1)
    )
    root = np.exp(-energy / 2)
    start = Q.T @ (np.exp(-((x - 0.4) ** 2) / 0.5) / root)
    inside = np.abs(x) < 3

    @cache
    def score(t: float) -> Any:
        p = root * (Q @ (np.exp(values * t) * start))
        return CubicSpline(x[inside], np.log(np.maximum(p[inside], 1e-300))).derivative()

    return score


def test_a_cubic_drift() -> None:
    score, x = double_well(), np.linspace(-1.4, 1.6, 7)
    process = fd.processes.NonlinearSDE(OU, lambda x, t: x - x**3)

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(score(float(t[0]))(x.numpy()))

    exact = solve_ivp(
        lambda t, v: v - v**3 - score(float(t))(v), (0.8, 0.1), x, rtol=1e-6, atol=1e-7, method="DOP853"
    ).y[:, -1]
    errors = []
    for n in (80, 160):
        y = fd.sample(
            fd.Denoiser(net, process, predicts="score"), torch.from_numpy(x)[:, None], solver="rd-ddim",
            times=np.linspace(0.8, 0.1, n + 1),
        )  # fmt: skip
        errors.append(float(np.abs(y[:, 0].numpy() - exact).max()))
    assert 0.8 <= order_of(errors, (80, 160)) <= 1.2


def test_a_nonlinear_process_at_the_door() -> None:
    process = fd.processes.NonlinearSDE(OU, lambda x, t: x - x**3)
    denoiser = fd.Denoiser(lambda x, t: -x, process, predicts="score")
    for key in ("ddim", "ggf", "restart"):
        with pytest.raises(ValueError, match=f"'{key}' is for gaussian.*nonlinear"):
            fd.sample(denoiser, X, solver=key)
    with pytest.raises(ValueError, match="span=None wants a linear process"):
        fd.sample(denoiser, X, solver="rd-ddim", span=None)
    with pytest.raises(ValueError, match="predicts the score"):
        fd.sample(fd.Denoiser(lambda x, t: x, process, predicts="noise"), X, solver="rd-ddim")
    with pytest.raises(ValueError, match="no hook"):
        fd.sample(denoiser, X, solver="rd-ddim", hooks=[fd.guidance.Clip()])
    with pytest.raises(ValueError, match="no formula"):
        process.perturb(X, 0.5)
    with pytest.raises(ValueError, match="span"):
        solvers.make("rd-ddim", span=0.5)
    with pytest.raises(TypeError, match="drift"):
        fd.processes.NonlinearSDE(OU, 3.0)  # type: ignore[arg-type]


# analytic-jump

SHAPE = (2, 3)
G = torch.Generator().manual_seed(0)
MU = torch.randn(SHAPE, dtype=torch.float64, generator=G)
FACTORS = torch.randn(6, 2, dtype=torch.float64, generator=G)
REST = 0.1
VALUES, VECTORS = torch.linalg.eigh(FACTORS @ FACTORS.T + REST * torch.eye(6, dtype=torch.float64))
START = torch.randn(4, *SHAPE, dtype=torch.float64, generator=G)
TIMES = fd.grid("logsnr", VP, steps=10)
JUMP: dict[str, Any] = {"solver": "analytic-jump", "mean": MU, "factors": FACTORS, "rest": REST}


def known(x: torch.Tensor, gain: Any, a: float, b: float) -> torch.Tensor:
    off = (x - a * MU).flatten(1)
    return b * MU + ((off @ VECTORS * gain) @ VECTORS.T).reshape(x.shape)


def denoiser() -> fd.Denoiser:
    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = float(VP.alpha(float(t[0]))), float(VP.sigma(float(t[0])))
        return known(x, s / (a * a * VALUES + s * s), a, 0.0)

    return fd.Denoiser(net, VP, predicts="noise")


def exact(x: torch.Tensor, start: float, end: float) -> torch.Tensor:
    s, t = VP.node(start), VP.node(end)
    gain = ((t.alpha**2 * VALUES + t.sigma**2) / (s.alpha**2 * VALUES + s.sigma**2)).sqrt()
    return known(x, gain, float(s.alpha), float(t.alpha))


@pytest.mark.parametrize("skip", [1, 6, 9])
@pytest.mark.parametrize("inner", ["dpmpp-2m", "unipc", "ddpm"])
def test_the_jump_is_the_flow_and_the_rest_the_solver(inner: str, skip: int) -> None:
    until = float(TIMES[skip])
    seen = fd.sample(
        denoiser(), START, times=TIMES, **JUMP, inner=inner, until=until, seeds=0, trajectory=True
    )
    middle = exact(START, float(TIMES[0]), until)
    assert (seen.states[1] - middle).abs().max() < 1e-12 and torch.equal(seen.states[1], seen.states[skip])
    assert (seen.data[0] - denoiser()(START, float(TIMES[0]))).abs().max() < 1e-11
    if inner != "ddpm":
        alone = fd.sample(denoiser(), middle, solver=inner, times=TIMES[skip:])
        assert (seen.x - alone).abs().max() < 1e-11
    made = fd.plan(
        solvers.make("analytic-jump", inner=inner, mean=MU, factors=FACTORS, until=until), VP, TIMES
    )
    assert made.nfe == 10 - skip
    how: dict[str, Any] = {**JUMP, "inner": inner, "until": until, "trajectory": True}
    one = fd.sample(denoiser(), START[1:2], times=TIMES, seeds=fd.Seeds(0, [1]), **how)
    # the network of this test multiplies matrices; the jump itself does not depend on the batch
    assert torch.equal(one.states[1, 0], seen.states[1, 1])


def test_jump_in_float32_without_factors_and_with_a_gradient() -> None:
    """Isotropic data; float32 against float64 to 1e-5 of numbers of size 3. The map is linear: its gradient
    is the gain."""
    s, t = VP.node(float(TIMES[0])), VP.node(float(TIMES[9]))
    gain = math.sqrt((t.alpha**2 * 0.5 + t.sigma**2) / (s.alpha**2 * 0.5 + s.sigma**2))
    times = TIMES[:10]
    own: dict[str, Any] = {"solver": "analytic-jump", "mean": MU, "rest": 0.5, "until": float(TIMES[8])}
    x = START.float().requires_grad_(True)

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = (float(f(float(t[0]))) for f in (VP.alpha, VP.sigma))
        return s * (x - a * MU.to(x)) / (a * a * 0.5 + s * s)

    y = fd.sample(fd.Denoiser(net, VP, predicts="noise"), x, times=times, gradient="full", **own)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == torch.float32 and torch.allclose(
        grad, torch.full_like(grad, float(grad[0, 0, 0])), rtol=1e-5
    )
    wide = fd.sample(fd.Denoiser(net, VP, predicts="noise"), START, times=times, **own)
    assert (y.detach() - wide).abs().max() < 1e-5
    assert abs(float(grad[0, 0, 0]) / gain - 1) < 0.05, "but for the one step of dpmpp-2m of order 1 after it"


def test_jump_at_the_door() -> None:
    for options, words in [
        ({"until": 0.5}, "goes with the mean"),
        ({"until": 0.5, "mean": MU, "factors": FACTORS[:5]}, "needs"),
        ({"until": 0.5, "mean": MU * float("nan")}, "finite"),
        ({"rest": -1.0}, "rest"),
    ]:
        with pytest.raises(ValueError, match=words):
            solvers.make("analytic-jump", **options)
    with pytest.raises(ValueError, match="the last step starts"):
        fd.sample(denoiser(), START, times=TIMES, **JUMP, until=1e-5)
    with pytest.raises(ValueError, match="mean is of samples"):
        fd.sample(denoiser(), torch.zeros(2, 6), times=TIMES, **JUMP, until=0.5)
