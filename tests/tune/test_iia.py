"""IIA: its numbers against torch's least squares, its plans against the exact flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.testing import GaussianMixture, pf_ode
from fastdiff.tune._greedy import solve
from fastdiff.tune.iia import IIA

VP = fd.processes.VP()
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
DENOISER = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")


def times_of(steps: int) -> np.ndarray:
    return np.asarray(VP.time_of(np.linspace(-2.5, 2.5, steps + 1)))


def starts(seed: int, count: int = 128) -> torch.Tensor:
    return fd.noise.normal((count, 1), seed).double() * float(VP.sigma(times_of(1)[0]))


def error(plan: fd.Plan, seed: int = 2, count: int = 256) -> float:
    x = starts(seed, count)
    exact = pf_ode(MIXTURE, VP, x, plan.times[0], plan.times[-1])
    return float((fd.Sampler(DENOISER, plan)(x) - exact).square().mean().sqrt())


@pytest.mark.parametrize("steps", [5, 8, 12])
def test_half_the_error_of_ddim(steps: int) -> None:
    """On starts that it has not seen."""
    base = fd.plan("ddim", VP, times_of(steps))
    made = fd.tune.iia(DENOISER, base, starts(1))
    assert error(made) < error(base) / 2 and made.nfe == base.nfe


@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("key", ["ddim", "dpmpp-2m", "heun", "unipc", "dpmpp-2s"])
def test_never_raises_the_error(key: str, features: int) -> None:
    """On the starts it was given, against the exact flow; the teacher's own error, 1e-3 of the plan's here,
    may come on top."""
    base = fd.plan(key, VP, times_of(5))
    made = fd.tune.iia(DENOISER, base, starts(1, 64), features=features, fine=12)
    assert error(made, 1, 64) <= error(base, 1, 64) * 1.01


def test_normal_equations_are_least_squares() -> None:
    """torch.linalg.lstsq on the same columns; the ridge of 1e-9 moves a solution of size 1 by 1e-9 times the
    condition number, here below 10."""
    g = torch.Generator().manual_seed(0)
    moved, left = torch.randn(3, 200, generator=g).double(), torch.randn(200, generator=g).double()
    found, rest = solve(moved, left)
    other = torch.linalg.lstsq(moved.T, left[:, None]).solution[:, 0]
    assert (found - other).abs().max() < 1e-8
    assert rest == pytest.approx(float((left - other @ moved).square().sum()), rel=1e-12)
    assert not solve(moved * 0, left)[0].any()


def test_every_step_comes_nearer_to_its_teacher() -> None:
    """Step by step from the states of the fitted plan: with its number the step ends nearer to the teacher of
    the same start than without, summed over the starts that it learnt from."""
    times, x = times_of(5), starts(1, 3)
    made = fd.tune.iia(DENOISER, fd.plan("ddim", VP, times), x)
    assert made.recipe is not None
    rows = made.recipe.solver.rows  # type: ignore[attr-defined]
    assert rows[0] == (0.0,) and all(v for (v,) in rows[1:])
    course = fd.Sampler(DENOISER, made)(x, trajectory=True).states
    for i in range(1, 5):
        without = fd.plan(IIA("ddim", (*rows[:i], (0.0,), *rows[i + 1 :])), VP, times)
        plain = fd.Sampler(DENOISER, without)(x, trajectory=True).states
        assert torch.equal(plain[i], course[i])
        lam = VP.lam(times[i]) + np.linspace(0, 1, 9) * float(VP.lam(times[i + 1]) - VP.lam(times[i]))
        teacher = fd.sample(DENOISER, course[i], solver="heun", times=VP.time_of(lam))
        assert isinstance(teacher, torch.Tensor)
        near, far = ((s[i + 1] - teacher).square().sum() for s in (course, plain))
        assert near < far


def test_without_its_numbers_it_is_the_solver() -> None:
    for key in ("ddim", "unipc", "heun"):
        mended = fd.plan(IIA(key, ((0.0, 0.0),) * 4), VP, times_of(4))
        assert all(map(np.array_equal, mended.coeffs, fd.plan(key, VP, times_of(4)).coeffs))


def test_saved_and_resumed(tmp_path: Path) -> None:
    base, file = fd.plan("dpmpp-2m", VP, np.append(times_of(3), 0.0)), tmp_path / "search.pt"
    how: dict[str, Any] = {"features": 2}
    made = fd.tune.iia(DENOISER, base, starts(1, 16), resume=file, progress=True, **how)
    held = torch.load(file)
    torch.save({**held, "rows": held["rows"][:2]}, file)  # as if it had been stopped after two steps
    assert fd.tune.iia(DENOISER, base, starts(1, 16), resume=file, **how) == made
    with pytest.raises(ValueError, match="another search"):
        fd.tune.iia(DENOISER, base, starts(1, 16), resume=file, features=1)
    made.save(tmp_path / "plan.json")
    x, loaded = starts(3, 8), fd.Plan.load(tmp_path / "plan.json")
    assert torch.equal(fd.Sampler(DENOISER, made)(x), fd.Sampler(DENOISER, loaded)(x))


def test_says_what_is_wrong() -> None:
    base = fd.plan("ddim", VP, times_of(3))
    for bad in ({"features": 0}, {"features": True}, {"fine": 0}):
        with pytest.raises(ValueError):
            fd.tune.iia(DENOISER, base, starts(1, 4), **bad)
