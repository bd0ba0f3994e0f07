"""Bespoke against the exact flow of a mixture, on starts that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.testing import GaussianMixture, order_of, pf_ode
from fastdiff.tune._teacher import Spacing, refined, taught
from fastdiff.tune.bespoke import _lipschitz, _Numbers, _Path

VP, FLOW = fd.processes.VP(), fd.processes.FlowMatching()
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])


def denoiser_of(process: Any) -> fd.Denoiser:
    predicts = "flow" if process is FLOW else "noise"
    return fd.Denoiser(MIXTURE.denoiser(process, predicts), process, predicts=predicts)


def times_of(process: Any, steps: int) -> np.ndarray:
    return np.asarray(process.time_of(np.linspace(-2.5, 2.5, steps + 1)))


def starts(process: Any, seed: int, count: int = 64) -> torch.Tensor:
    return fd.noise.normal((count, 1), seed).double() * float(process.sigma(times_of(process, 1)[0]))


def error(denoiser: fd.Denoiser, plan: fd.Plan) -> float:
    x = starts(denoiser.process, 2, 256)
    exact = pf_ode(MIXTURE, denoiser.process, x, plan.times[0], plan.times[-1])
    return float((fd.Sampler(denoiser, plan)(x) - exact).square().mean().sqrt())


@pytest.mark.parametrize("process", [VP, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("order", [1, 2])
def test_five_steps_halve_the_error(process: Any, order: int) -> None:
    """5 calls of order 1, 10 of order 2; the exact flow by DOP853 to 1e-10."""
    denoiser, times = denoiser_of(process), times_of(process, 5)
    base = fd.plan("bespoke", process, times, order=order, predicts=denoiser.predicts)
    made = fd.tune.bespoke(
        denoiser, starts(process, 1), steps=5, order=order, times=times, iterations=60, rate=1e-2
    )
    assert made.nfe == 5 * order and made.times[0] == times[0] and made.times[-1] == times[-1]
    assert error(denoiser, made) < error(denoiser, base) / 2


def test_the_bound_of_the_paper_lowers_the_error_too() -> None:
    denoiser, times = denoiser_of(FLOW), times_of(FLOW, 5)
    base = fd.plan("bespoke", FLOW, times, order=1, predicts="flow")
    made = fd.tune.bespoke(
        denoiser, starts(FLOW, 1), steps=5, order=1, times=times, iterations=60, rate=2e-2, loss="bound"
    )
    assert error(denoiser, made) < error(denoiser, base) / 2


@pytest.mark.parametrize("order", [1, 2])
def test_before_training_it_is_euler_and_the_midpoint_rule(order: int) -> None:
    """Written out in (x / alpha, sigma / alpha); 1e-14 of the numbers' size, a few roundings a step."""
    denoiser, times = denoiser_of(VP), times_of(VP, 6)
    x = starts(VP, 3)
    made = fd.Sampler(denoiser, fd.plan("bespoke", VP, times, order=order, predicts="noise"))(x)
    if order == 1:
        euler = fd.plan("euler", VP, times, predicts="noise")
        assert (made - fd.Sampler(denoiser, euler)(x)).abs().max() < 1e-14 * x.abs().max()
    for s, t in zip(times[:-1], times[1:], strict=True):
        a, b = (float(VP.sigma(v) / VP.alpha(v)) for v in (s, t))
        y = x / float(VP.alpha(s))
        d = MIXTURE.expectations(x, float(VP.alpha(s)), float(VP.sigma(s)))[1]
        if order == 2:
            middle = (a + b) / 2
            scale = 1 / (1 + middle**2) ** 0.5  # VP: alpha^2 + sigma^2 = 1
            d = MIXTURE.expectations(scale * (y + (middle - a) * d), scale, scale * middle)[1]
        x = float(VP.alpha(t)) * (y + (b - a) * d)
    assert (made - x).abs().max() < 2e-14 * starts(VP, 3).abs().max()


@pytest.mark.parametrize("order", [1, 2])
def test_any_smooth_change_keeps_the_order(order: int) -> None:
    """tau(r) = 0.9 - 0.8 (r + sin(2 pi r) / 16), s(r) = e^{sin(r)}, with their derivatives at the steps'
    beginnings and middles: the published consistency."""
    x, errors, steps = starts(FLOW, 4, 32), [], (40, 80)
    exact = pf_ode(MIXTURE, FLOW, x, 0.9, 0.1)

    def tau(r: np.ndarray) -> np.ndarray:
        return 0.9 - 0.8 * (r + np.sin(2 * np.pi * r) / 16)

    def slope(r: np.ndarray) -> np.ndarray:
        return -0.8 * (1 + np.cos(2 * np.pi * r) * np.pi / 8)

    def scale(r: np.ndarray) -> np.ndarray:
        return np.exp(np.sin(r))

    for n in steps:
        r, h = np.arange(n) / n, 1 / n
        gap = tau(r + h) - tau(r)
        columns = [scale(r + h) / scale(r), h * np.cos(r), h * slope(r) / gap]
        if order == 2:
            m = r + h / 2
            columns += [(tau(m) - tau(r)) / gap, scale(m) / scale(r), h * np.cos(m), h * slope(m) / gap]
        times = tau(np.arange(n + 1) / n)  # on straight paths tau is the time
        table = np.stack(columns, 1).tolist()
        made = fd.plan("bespoke", FLOW, times, predicts="flow", order=order, table=table)
        errors.append(float((fd.Sampler(denoiser_of(FLOW), made)(x) - exact).square().mean()) ** 0.5)
    assert abs(order_of(errors, steps) - order) < 0.1


def test_the_bound_holds_for_slopes_of_lipschitz_1() -> None:
    """The slopes +-y, which have the constant 1: a step of any numbers moves errors by less than L_j."""
    g = torch.Generator().manual_seed(0)
    for order, width in ((1, 3), (2, 7)):
        trained = _Numbers(Spacing(VP, times_of(VP, 4)), order, 4)
        trained.free += torch.randn(4, width, dtype=torch.float64, generator=g) / 2
        for row in trained.table():
            L = float(_lipschitz(row, torch.tensor(0.7, dtype=torch.float64)))
            for sign in (1.0, -1.0):
                scale, rate, speed, *inner = row.tolist()
                if not inner:
                    growth = (1 + rate - 0.7 * speed * sign) / scale
                else:
                    _, _, rate_m, speed_m = inner
                    z = 1 + rate / 2 - 0.35 * speed * sign  # half and 1 / half cancel: y_m = z / half
                    growth = (1 + rate_m * z - 0.7 * speed_m * sign * z) / scale
                assert abs(growth) <= L * (1 + 1e-12)


def test_the_path_between_the_teachers_nodes() -> None:
    """A cubic through exact nodes and slopes: an error of h^4 / 384 of its fourth derivative, here below
    1e-5; at the nodes none; its derivative in tau is the slope there."""
    denoiser, times = denoiser_of(VP), times_of(VP, 5)
    x = starts(VP, 5, 8)
    run = taught(denoiser, x, times, 40, "heun")
    path = _Path.of(denoiser, run, None)
    index = torch.arange(8)
    for k in (0, 17, 200):
        assert (path.at(path.tau[k], index) - path.y[k]).abs().max() < 1e-14 * path.y[k].abs().max()
        tau = torch.tensor(path.tau[k], requires_grad=True)
        (found,) = torch.autograd.grad(path.at(tau, index)[0, 0], tau)
        assert float(found) == pytest.approx(float(path.d[k][0, 0]), rel=1e-9)
    between = refined(VP, times, 80)[1::2]
    for k in (30, 111):
        exact = pf_ode(MIXTURE, VP, run.states[k], run.times[k], between[k])
        n = VP.node(between[k])
        assert (path.at(n.tau, index) * n.scale - exact).abs().max() < 1e-5


def test_saved_and_loaded_it_gives_the_same_bits(tmp_path: Path) -> None:
    denoiser, x = denoiser_of(VP), starts(VP, 1, 16)
    made = fd.tune.bespoke(denoiser, x, steps=3, times=times_of(VP, 3), iterations=10)
    made.save(tmp_path / "plan.json")
    loaded = fd.Plan.load(tmp_path / "plan.json")
    assert torch.equal(fd.Sampler(denoiser, made)(x), fd.Sampler(denoiser, loaded)(x)) and made == loaded
    states = fd.Sampler(denoiser, made)(x, trajectory=True).states
    assert states.shape == (4, 16, 1)


def test_stopped_and_resumed_it_ends_in_the_same_plan(tmp_path: Path) -> None:
    denoiser, x = denoiser_of(VP), starts(VP, 1, 24)
    how: dict[str, Any] = {"steps": 2, "order": 1, "times": times_of(VP, 2), "batch": 8}
    whole = fd.tune.bespoke(denoiser, x, iterations=30, **how)
    file = tmp_path / "search.pt"
    fd.tune.bespoke(denoiser, x, iterations=10, resume=file, **how)
    assert fd.tune.bespoke(denoiser, x, iterations=30, resume=file, **how) == whole
    with pytest.raises(ValueError, match="another search"):
        fd.tune.bespoke(denoiser, x, iterations=30, resume=file, **{**how, "order": 2})


def test_other_shapes_and_ends() -> None:
    """Pictures from a shape in float32, one call, the clean end, conditions of each sample, a bar."""
    seen = []

    def net(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(y.shape[0])
        return x / (1 + y[:, None, None, None])

    denoiser = fd.Denoiser(net, VP, predicts="noise")
    made = fd.tune.bespoke(
        denoiser, (6, 1, 2, 2), steps=1, order=1, final="zero", iterations=3, batch=2, progress=True,
        cond={"y": torch.rand(6)},
    )  # fmt: skip
    assert made.nfe == 1 and made.times[-1] == 0 and 2 in seen and 6 in seen


@pytest.mark.parametrize("bad", [
    {"steps": 0}, {"order": 3}, {"loss": "mse"}, {"iterations": 0}, {"times": [0.5, 0.1]}, {"fine": True},
])  # fmt: skip
def test_says_what_is_wrong(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        fd.tune.bespoke(denoiser_of(VP), (4, 1), **{"steps": 3, **bad})


def test_tables_that_make_no_sense() -> None:
    for table in ([(1, 0)], [(0, 0, 1)], [(1, float("nan"), 1)], [(1, 0, 1)] * 2):
        with pytest.raises(ValueError, match="bespoke"):
            fd.plan("bespoke", VP, times_of(VP, 1), order=1, table=table)
    with pytest.raises(TypeError, match="table"):
        fd.plan("bespoke", VP, times_of(VP, 1), order=1, table=3)
