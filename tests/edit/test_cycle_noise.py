"""CycleNoise gives its picture back exactly; RFInversion ends where it is told to; laws in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.core.process import Process, processes
from fastdiff.edit import CycleNoise, RFInversion
from fastdiff.runtime.invert import invert
from fastdiff.testing import GaussianMixture

VP, EDM, FLOW = (processes.get(k)() for k in ("vp", "edm", "flow-matching"))
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
SOLVERS: list[tuple[str, dict[str, Any]]] = [
    ("ddpm", {}),
    ("ddim", {"eta": 0.4}),
    ("dpmpp-2m-sde", {}),
    ("em", {}),
    ("ancestral", {}),
]
every = pytest.mark.parametrize("process", [VP, EDM, FLOW], ids=lambda p: p.key)


def denoiser_of(process: Process, predicts: str = "flow") -> fd.Denoiser:
    return fd.Denoiser(MIXTURE.denoiser(process, predicts), process, predicts=predicts)


def pictures(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return MIXTURE.sample((48, 1), seed=3).to(dtype)


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def replay(denoiser: fd.Denoiser, cycle: CycleNoise, key: str, **options: Any) -> torch.Tensor:
    """Other seeds: what they draw is not used."""
    hooks = [*options.pop("hooks", ()), cycle]
    return fd.sample(denoiser, cycle.start, solver=key, times=cycle.times, hooks=hooks, seeds=7, **options)


@pytest.mark.parametrize("key, options", SOLVERS, ids=lambda v: v if isinstance(v, str) else "")
@every
def test_the_picture_comes_back(process: Process, key: str, options: dict[str, Any]) -> None:
    """To 1e-12 in float64, whatever the network; also in one precision, to the roundings of 20 steps."""
    for path, final in (("chain", "zero"), ("marginal", "sigma_min")):
        for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
            x, denoiser = pictures(dtype), denoiser_of(process)
            cycle = CycleNoise.record(denoiser, x, key, path=path, steps=20, final=final, seeds=1, **options)
            assert off(replay(denoiser, cycle, key, **options), x) <= bound
            assert bool(cycle.remainders) == (final == "zero" or 0 not in cycle.draws)
            if not cycle.remainders:
                how: dict[str, Any] = {"solver": key, "times": cycle.times, **options}
                assert off(fd.sample(denoiser, cycle.start, noise=cycle, **how), x) <= bound


def test_any_network_will_do() -> None:
    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(2 * x) + 0.3 * t[:, None] * x.flip(0)

    denoiser, x = fd.Denoiser(net, VP, predicts="noise"), pictures()
    cycle = CycleNoise.record(denoiser, x, "ddpm", steps=15, seeds=1, grid="uniform-t")
    assert off(replay(denoiser, cycle, "ddpm"), x) <= 1e-12


@every
def test_the_path_has_the_forward_law(process: Process) -> None:
    """start = alpha x0 + sigma z with z of unit variance, both ways; neighbouring states share their noise in
    a chain only. The chain runs from the last node, not from sigma = 0. 4000 normals: 5 standard errors."""
    x = torch.full((4000, 1), 0.8, dtype=torch.float64)
    times = fd.grid(process.default_grid, process, steps=4, final="sigma_min")
    s, t = process.node(times[0]), process.node(times[-1])
    a = s.alpha / t.alpha
    for path in ("chain", "marginal"):
        cycle = CycleNoise.record(denoiser_of(process), x, "ddpm", path=path, times=times, seeds=2)
        z = (cycle.start - a * x) / (s.sigma**2 - (a * t.sigma) ** 2) ** 0.5
        assert abs(float(z.mean())) <= 5 / 4000**0.5 and abs(float(z.var()) - 1) <= 5 * (2 / 4000) ** 0.5


def test_the_draws_are_those_that_were_there() -> None:
    """A sample's own path, recorded, gives back the draws it was made with: here the reverse chain of data at
    one point, which is the forward chain."""
    point = GaussianMixture([1.0], [0.4], [1e-9])
    denoiser = fd.Denoiser(point.denoiser(VP, "data"), VP, predicts="data")
    x = torch.full((4000, 1), 0.4, dtype=torch.float64)
    times = fd.grid("logsnr", VP, steps=6)
    cycle = CycleNoise.record(denoiser, x, "ddpm", times=times, seeds=3)
    w = torch.stack([cycle.draws[i] for i in range(5)]).squeeze(-1)
    assert float((w.mean(1)).abs().max()) <= 5 / 4000**0.5  # white there, and nowhere else
    assert off(w @ w.T / 4000, torch.eye(5, dtype=torch.float64)) <= 5 * (2 / 4000) ** 0.5
    assert off(cycle.remainders[5], torch.zeros_like(x)) <= 1e-8


def test_an_edit_changes_only_what_is_asked() -> None:
    """Another condition for half of the samples: the other half comes back exactly; guidance and chunks."""

    def net(x: torch.Tensor, t: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return MIXTURE.denoiser(VP, "noise")(x - shift, t)

    denoiser, x = fd.Denoiser(net, VP, predicts="noise"), pictures()
    before, after = torch.zeros_like(x), torch.zeros_like(x)
    after[:24] = 0.5
    cycle = CycleNoise.record(denoiser, x, "ddpm", steps=20, seeds=1, cond={"shift": before})
    y = replay(denoiser, cycle, "ddpm", cond={"shift": after})
    assert off(y[24:], x[24:]) <= 1e-12 and float((y[:24] - x[:24]).abs().min()) > 1e-2
    assert torch.equal(y, replay(denoiser, cycle, "ddpm", cond={"shift": after}, chunk=20))

    guidance = fd.guidance.CFG(2.5, uncond={"shift": after})
    cycle = CycleNoise.record(denoiser, x, steps=20, seeds=1, cond={"shift": before}, guidance=guidance)
    y = replay(denoiser, cycle, "ddpm", cond={"shift": before}, guidance=guidance)
    assert off(y, x) <= 1e-12


def test_a_plan_and_a_process_with_a_const() -> None:
    x, reverting = pictures(), processes.get("mean-reverting")()
    denoiser, consts = denoiser_of(reverting, "noise"), {"mu": torch.full_like(x, 0.3)}
    cycle = CycleNoise.record(denoiser, x, "ddim", eta=1.0, steps=12, seeds=1, consts=consts)
    y = replay(denoiser, cycle, "ddim", eta=1.0, consts=consts)
    assert off(y, x) <= 1e-12
    made = fd.plan("ddpm", VP, fd.grid("logsnr", VP, steps=12))
    cycle = CycleNoise.record(denoiser_of(VP, "noise"), x, made, seeds=1)
    assert np.array_equal(cycle.times, made.times)
    assert off(replay(denoiser_of(VP, "noise"), cycle, "ddpm"), x) <= 1e-12


def test_a_seed_gives_one_record_whatever_the_batch() -> None:
    denoiser, x = denoiser_of(VP), pictures()
    one = CycleNoise.record(denoiser, x, steps=6, seeds=5)
    other = CycleNoise.record(denoiser, x[:7], steps=6, seeds=5)
    assert all(torch.equal(one.draws[k][:7], other.draws[k]) for k in one.draws)


def test_what_cannot_be_recorded() -> None:
    denoiser, x = denoiser_of(VP), pictures()
    for wrong, match in (
        ({"solver": "dpmpp-2m"}, "draws no noise"),
        ({"solver": "heun", "churn": 5.0}, "after a draw"),
        ({"solver": "restart", "segments": ((3, 2, 0.1, 1.0),)}, "after a draw"),
        ({"path": "straight"}, "path"),
        ({"steps": 0}, "steps"),
    ):
        with pytest.raises(ValueError, match=match):
            CycleNoise.record(denoiser, x, **wrong)
    with pytest.raises(TypeError, match="x0"):
        CycleNoise.record(denoiser, [1.0])
    cycle = CycleNoise.record(denoiser, x, steps=5, seeds=0)
    with pytest.raises(ValueError, match="no draw of step"):
        fd.sample(denoiser, x, solver="ddpm", steps=9, noise=cycle)


# RF inversion


@pytest.mark.parametrize("steps", [2, 7, 20])
@every
def test_full_strength_ends_where_it_is_told(process: Process, steps: int) -> None:
    """Up: at alpha x0 + sigma y_1; down: at y_0. On any grid, to rounding."""
    denoiser, x = denoiser_of(process), pictures()
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    up = invert(denoiser, x, "euler", steps=steps, hooks=[RFInversion(noise, "noise", 1.0)])
    top = process.node(process.t_max)
    assert off(up, float(top.alpha) * x + float(top.sigma) * noise) <= 1e-12 * max(1.0, float(top.sigma))
    hook = RFInversion(x, "data", 1.0)
    for solver in ("euler", "em"):
        down = fd.sample(denoiser, up, solver=solver, steps=steps, hooks=[hook], seeds=0)
        assert off(down, x) <= 1e-12


def test_the_way_up_and_down_on_flow_matching_is_the_papers() -> None:
    """Y <- Y + dt ((1 - gamma) u + gamma (y_1 - Y) / (1 - t));  X <- X - dt (u + eta ((X - y_0) / t - u))."""
    denoiser, x = denoiser_of(FLOW), pictures()
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    times = fd.grid("uniform-t", FLOW, steps=8, final="sigma_min")

    def u(x: torch.Tensor, t: float) -> torch.Tensor:
        x0, eps = MIXTURE.expectations(x, 1 - t, t)
        return eps - x0

    y = x.clone()
    for t, s in zip(times[::-1], times[-2::-1], strict=False):
        y = y + (s - t) * (0.5 * u(y, t) + 0.5 * (noise - y) / (1 - t))
    up = invert(denoiser, x, "euler", times=times, hooks=[RFInversion(noise, "noise", 0.5)])
    assert off(up, y) <= 1e-12

    for i, (s, t) in enumerate(zip(times, times[1:], strict=False)):
        k = 0.9 * (1 - i / 8) ** 2 if 1 <= i < 5 else 0.0
        y = y - (s - t) * (u(y, s) + k * ((y - x) / s - u(y, s)))
    hook = RFInversion(x, "data", 0.9, start=1, stop=5, decay=2.0)
    assert off(fd.sample(denoiser, up, solver="euler", times=times, hooks=[hook]), y) <= 1e-12


def test_strength_nought_is_plain() -> None:
    denoiser, x = denoiser_of(FLOW), pictures()
    up = invert(denoiser, x, "euler", steps=6, hooks=[RFInversion(x, "noise", 0.0)])
    assert off(up, invert(denoiser, x, "euler", steps=6)) <= 1e-14


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_optimal_control_of_finite_weight(steps: int) -> None:
    """The control is constant, so that Euler is exact: the end minimises T |c|^2 / 2 + weight |x + T c - y|^2
    / 2 with T = 1 - t_min."""
    denoiser, x, weight = denoiser_of(FLOW), pictures(), 4.0
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    times = fd.grid("uniform-t", FLOW, steps=steps, final="sigma_min")
    hook = RFInversion(noise, "noise", 1.0, weight=weight)
    span = 1 - times[-1]
    best = x + span * weight * (noise - x) / (1 + weight * span)
    assert off(invert(denoiser, x, "euler", times=times, hooks=[hook]), best) <= 1e-12


def test_wrong_rf_inversions() -> None:
    x = pictures()
    for wrong, match in (
        (("up",), "toward"),
        (("noise", 1.5), "strength"),
        (("noise", 0.5, {"weight": 0.0}), "weight"),
        (("data", 0.5, {"weight": 2.0}), "weight"),
        (("data", 0.5, {"decay": -1.0}), "decay"),
    ):
        options = wrong[-1] if isinstance(wrong[-1], dict) else {}
        with pytest.raises(ValueError, match=match):
            RFInversion(x, *(v for v in wrong if not isinstance(v, dict)), **options)
    with pytest.raises(TypeError, match="target"):
        RFInversion(1.0, "data")
    with pytest.raises(ValueError, match="straight"):
        invert(denoiser_of(VP), x, "euler", steps=4, hooks=[RFInversion(x, "noise", 1.0, weight=2.0)])
