"""Mean reversion is a variance preserving path around mu: with mu = 0 its plans are VP's, a shift of
everything shifts the result, and the published solvers written out step by step give what ours give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff.processes as P
from fastdiff.core.interpret import interpret
from fastdiff.core.number import precision
from fastdiff.core.plan import Plan, plan
from fastdiff.core.process import Process
from fastdiff.processes.mean_reverting import END, START

SOLVERS: list[tuple[str, dict[str, Any]]] = [
    ("ddim", {}),
    ("ddim", {"eta": 0.6}),
    ("ddpm", {}),
    ("heun", {}),
    ("dpmpp-2m", {"weight": "heun"}),
    ("dpmpp-2m-sde", {"weight": "heun"}),
    ("unipc", {"order": 3}),
]
MU = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64)
X = torch.linspace(-2.0, 1.0, 7, dtype=torch.float64).flip(0)


def draw(step: int, column: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([step, column]).standard_normal(7))


def without_const(made: Plan) -> list[np.ndarray]:
    """The tables over everything but mu."""
    kept = [[j for j, r in enumerate(s.inputs) if not made.kinds[r].startswith("const")] for s in made.stages]
    columns = zip(made.stages, kept, strict=True)
    return [s.coeffs[:, k + list(range(len(s.inputs), s.coeffs.shape[1]))] for s, k in columns]


def vp_of(process: P.MeanReverting) -> P.VP:
    """B = 2 Theta."""
    rate = -2 * math.log(process.eps)
    if process.schedule == "const":
        return P.VP(rate, rate)
    return P.VP(rate * START / ((START + END) / 2), rate * END / ((START + END) / 2))


@pytest.mark.parametrize("schedule", ["const", "linear"])
@pytest.mark.parametrize("predicts", ["noise", "data", "velocity"])
@pytest.mark.parametrize("key, options", SOLVERS)
def test_without_mu_it_is_vp(key: str, options: dict[str, Any], predicts: str, schedule: str) -> None:
    """To 1e-12 of a table's scale: VP's betas are rounded to float64."""
    process, times = P.MeanReverting(schedule=schedule), [1.0, 0.7, 0.45, 0.2, 0.06, 0.0]
    made = plan(key, process, times, predicts=predicts, **options)
    reference = plan(key, vp_of(process), times, predicts=predicts, **options)
    assert made.nfe == reference.nfe and made.carried == reference.carried
    for ours, theirs in zip(without_const(made), reference.coeffs, strict=True):
        assert np.abs(ours - theirs).max(initial=0) <= 1e-12 * np.abs(theirs).max(initial=0)


@dataclass(frozen=True)
class Bare(P.MeanReverting):
    """The same path without its const."""

    const = None


@pytest.mark.parametrize("key, options", SOLVERS)
def test_mu_adds_a_column_and_changes_no_bit(key: str, options: dict[str, Any]) -> None:
    times = [1.0, 0.7, 0.45, 0.2, 0.06, 0.0]
    made, bare = (plan(key, process(0.3), times, **options) for process in (P.MeanReverting, Bare))
    for ours, theirs in zip(without_const(made), bare.coeffs, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("predicts", ["data", "noise"])
@pytest.mark.parametrize("key, options", SOLVERS)
@pytest.mark.parametrize("process", [P.MeanReverting(0.3), P.OUVE()], ids=lambda p: p.key)
def test_a_shift_of_all_shifts_the_result(
    process: Process, key: str, options: dict[str, Any], predicts: str
) -> None:
    """x, mu and the data prediction + c: the result + c (to the rounding of numbers as large as c). Noise
    predictions stay as they are."""
    made = plan(key, process, [0.9, 0.6, 0.3, 0.1], predicts=predicts, **options)

    def run(c: float) -> Any:
        def net(x: Any, call: Any, branch: int) -> Any:
            m = torch.sin(3 * (x - c) + call.t)
            return m + c if predicts == "data" else m

        return interpret(made, net, X + c, noise=draw, consts={process.const: MU + c})

    assert torch.allclose(run(3.0), run(0.0) + 3.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("key, options", SOLVERS[:3])
def test_rows_of_data_predictions_sum_to_one(key: str, options: dict[str, Any]) -> None:
    """The same, exactly: in 60 digits the coefficients of x, mu and m of a one-tensor method sum to 1."""
    made = plan(key, P.MeanReverting(0.3), [0.9, 0.6, 0.3, 0.1], predicts="data", **options)
    with precision():
        for s in made.stages:
            for row in s.exact:
                assert abs(sum(row[: len(s.inputs)]) - 1) < 1e-55


def net(x: torch.Tensor, t: float) -> torch.Tensor:
    return torch.tanh(1.3 * x - t) + 0.2 * x


@pytest.mark.parametrize("key", ["mrs-ode-1", "mrs-ode-2", "mrs-sde-1", "mrs-sde-2"])
@pytest.mark.parametrize("process", [P.MeanReverting(), P.MeanReverting(50 / 255, "linear", 0.01)], ids=str)
def test_the_published_solvers(process: P.MeanReverting, key: str) -> None:
    """Li et al. 2025 as printed, data prediction, mu written out: alpha, sigma and lambda from Theta."""
    times = [1.0, 0.75, 0.5, 0.3, 0.1, 0.02]
    alpha = [math.exp(-float(process.Theta(t))) for t in times]
    sigma = [process.s_inf * math.sqrt(1 - a * a) for a in alpha]
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    x, before = X, None
    for i in range(len(times) - 1):
        h, m = lam[i + 1] - lam[i], net(x, times[i])
        slope = 0 if before is None else (m - before[0]) / before[1]
        before = (m, h)
        k = 2 * h if "sde" in key else h  # e^{-k} of the data's part
        y = MU + sigma[i + 1] / sigma[i] * math.exp(h - k) * (x - MU)
        y = y + alpha[i + 1] * (1 - math.exp(-k)) * (m - MU)
        if key.endswith("2"):
            c = h * (k - 1 + math.exp(-k)) / k
            y = y + alpha[i + 1] * c * slope
        if "sde" in key:
            y = y + sigma[i + 1] * math.sqrt(1 - math.exp(-2 * h)) * draw(i, 0)
        x = y
    options = {"lower_order_final": "never"} if key.endswith("2") else {}
    made = plan(key, process, times, predicts="data", **options)
    ours = interpret(made, lambda x, call, b: net(x, call.t), X, noise=draw, consts={"mu": MU})
    assert torch.allclose(ours, x, rtol=1e-12, atol=1e-12)


def test_the_published_first_order_by_noise() -> None:
    """MR ODE-noise-1: mu + alpha_t / alpha_s (x - mu) - sigma_t (e^h - 1) eps."""
    process = P.MeanReverting(0.2)
    s, t = process.node(0.8), process.node(0.3)
    eps = net(X, 0.8)
    want = MU + t.alpha / s.alpha * (X - MU) - t.sigma * math.expm1(t.lam - s.lam) * eps
    made = plan("mrs-ode-1", process, [0.8, 0.3], predicts="noise")
    ours = interpret(made, lambda x, call, b: net(x, call.t), X, consts={"mu": MU})
    assert torch.allclose(ours, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "const"])
def test_the_published_discrete_process(schedule: str) -> None:
    """IR-SDE's optimum step x*_{i-1} and the posterior's deviation, its sums of theta in plain float64:
    `ddpm` on the knots i / T. (1 - A^2 and 1 - B^2 cancel by 1e4 at most.)"""
    T, lam0, eps = 100, 50 / 255, 0.005
    process = P.MeanReverting.irsde(schedule=schedule)
    if schedule == "cosine":
        c = np.cos((np.arange(T + 3) / (T + 2) + 0.008) / 1.008 * np.pi / 2) ** 2
        theta = 1 - c[1:-1] / c[0]
    else:
        theta = np.linspace(1e-4, 0.02, T + 1) * 1000 / (T + 1) if schedule == "linear" else np.ones(T + 1)
    grown = np.cumsum(theta) - theta[0]
    dt = -math.log(eps) / grown[-1]
    for i in (100, 99, 50, 3, 2):
        A, B, C = math.exp(-theta[i] * dt), math.exp(-grown[i] * dt), math.exp(-grown[i - 1] * dt)
        mean = MU + A * (1 - C**2) / (1 - B**2) * (X - MU) + C * (1 - A**2) / (1 - B**2) * (net(X, 0) - MU)
        std = lam0 * math.sqrt((1 - A**2) * (1 - C**2) / (1 - B**2))
        made = plan("ddpm", process, [i / T, (i - 1) / T], predicts="data")
        ours = interpret(made, lambda x, call, b: net(x, 0), X, noise=draw, consts={"mu": MU})
        assert torch.allclose(ours, mean + std * draw(0, 0), rtol=1e-10, atol=1e-11)
        assert process.sigma(i / T) == pytest.approx(lam0 * math.sqrt(1 - B**2), rel=1e-10)
    assert process.alpha(1.0) == pytest.approx(eps, rel=1e-13) and process.t_min == 0.01


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_published_denoising_sde(schedule: str) -> None:
    """Its sums of theta and the drift of its probability flow; and a picture whose noise is known comes back
    in one step, from the time whose sigma is the noise's."""
    T, lam0, eps = 100, 50 / 255, 0.04
    process = P.MeanReverting.denoising(schedule=schedule)
    if schedule == "cosine":
        c = np.cos((np.arange(T + 3) / (T + 2) + 0.008) / 1.008 * np.pi / 2) ** 2
        theta = 1 - c[1:-1] / c[0]
    else:
        theta = np.linspace(1e-4, 0.02, T + 1) * 1000 / (T + 1)
    grown = np.cumsum(theta) - theta[0]
    dt = -math.log(eps) / grown[-1]
    for i in (100, 57, 2):
        A = math.exp(-2 * grown[i] * dt)
        assert process.alpha(i / T) == 1 and process.const is None
        assert process.sigma(i / T) == pytest.approx(lam0 * math.sqrt(1 - A), rel=1e-10)
        # their step of the probability flow is x + lam0^2 theta A dt score, ours x + g^2 / 2 (1 / T) score
        assert process.g2(i / T) / (2 * T) == pytest.approx(lam0**2 * theta[i] * A * dt, rel=1e-10)
    sigma = 25 / 255
    t = process.time_of(-math.log(sigma))
    noisy = torch.cos(X) + sigma * draw(0, 0)
    back = interpret(plan("ddim", process, [t, 0.0]), lambda x, c, b: draw(0, 0), noisy)
    assert torch.allclose(back, torch.cos(X), rtol=0, atol=1e-12)
    assert process.time_of(-math.log(2 * lam0)) == math.inf  # more noise than it ever has


def test_a_known_picture_comes_back() -> None:
    """With the true noise one step of the probability flow is exact, from any time."""
    process, x0 = P.MeanReverting(0.2), torch.cos(X)
    for t in (1.0, 0.4):
        n = process.node(t)
        x = MU + n.alpha * (x0 - MU) + n.sigma * draw(0, 0)
        made = plan("ddim", process, [t, 0.0], predicts="noise")
        back = interpret(made, lambda x, call, b: draw(0, 0), x, consts={"mu": MU})
        assert torch.allclose(back, x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("process", [P.MeanReverting(0.3), P.MeanReverting.irsde(), P.OUVE()], ids=str)
def test_data_at_mu_stay_there(process: Process) -> None:
    for t in (1e-4, 0.3, 1.0):
        assert process.alpha(t) + process.offset(t) == pytest.approx(1, rel=1e-15)
        assert process.doffset(t) == -process.dalpha(t)


@pytest.mark.parametrize("process", [P.MeanReverting(0.3), P.MeanReverting(schedule="linear"), P.OUVE()])
def test_moments_solve_the_sde(process: Any) -> None:
    """dm = theta (c - m) dt and dv = (g^2 - 2 theta v) dt, by DOP853 to 1e-12."""
    solve_ivp = pytest.importorskip("scipy.integrate").solve_ivp

    def slope(t: float, y: np.ndarray) -> list[float]:
        return [-process.f(t) * (2.0 - y[0]), process.g2(t) + 2 * process.f(t) * y[1]]

    m, v = solve_ivp(slope, (0, 0.8), [0.5, 0.0], method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
    assert m == pytest.approx(process.alpha(0.8) * 0.5 + process.offset(0.8) * 2.0, rel=1e-11)
    assert v == pytest.approx(process.sigma(0.8) ** 2, rel=1e-11)
