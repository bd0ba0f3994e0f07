"""noise="path": a sampler's draws as increments of one Brownian motion per sample."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.core.grid import grids
from fastdiff.core.process import processes
from fastdiff.noise.seeds import resolve
from fastdiff.runtime.noise import Source, Walk, draws_of, walk_of
from fastdiff.testing import GaussianMixture
from fastdiff.testing.solvers import planned

VP = fd.processes.VP()
MIXTURE = GaussianMixture([0.3, 0.7], [-0.5, 0.7], [0.6, 0.5])  # smooth: no path jumps to another mode
DENOISER = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")
PATHS = 512


def even(steps: int, low: float = -2.5, high: float = 2.5) -> np.ndarray:
    return np.asarray(VP.time_of(np.linspace(low, high, steps + 1)))


@lru_cache
def ends(solver: str, steps: int, noise: str | None) -> Tensor:
    x = fd.noise.normal((PATHS, 4), 5).double()
    made = fd.sample(DENOISER, x, solver=solver, times=even(steps), seeds=11 if noise else steps, noise=noise)
    assert isinstance(made, Tensor)
    return made


def between(solver: str, steps: int, noise: str | None) -> float:
    """RMS difference of runs of N and 2 N steps."""
    return float((ends(solver, steps, noise) - ends(solver, 2 * steps, noise)).square().mean().sqrt())


@pytest.mark.parametrize("solver", ["em", "dpmpp-sde", "ddpm", "dpmpp-2m-sde", "euler-a"])
def test_strong_convergence(solver: str) -> None:
    """Additive noise: strong order 1 of all of them (specification 5.1 and 5.3; slopes within 0.25, O6). With
    draws of their own, runs of N and 2 N steps stay as far apart as two samples are, here the spread of 2,048
    numbers: the ratio is 1 to 10 %."""
    near, far = between(solver, 40, "path"), between(solver, 80, "path")
    assert abs(np.log2(near / far) - 1) <= 0.25
    assert far < 0.1
    apart = between(solver, 40, None), between(solver, 80, None)
    assert 0.9 < apart[1] / apart[0] < 1.1 and apart[1] > 5 * near


def increments(plan: fd.Plan, batch: int, elements: int = 4, seeds: Any = 3) -> Tensor:
    """Every draw of a plan from paths, (draws, batch * elements)."""
    like = torch.empty(batch, elements)
    source = Source(plan, "path", walk_of(plan, VP), like, resolve(seeds, batch), None)
    found = {}
    for k, s in enumerate(plan.stages):
        for d, xi in zip(s.draws, source.of(k, s.draws, s.spans), strict=True):
            found[d] = xi.clone()
    return torch.stack([found[d].flatten() for d in draws_of(plan)])


@pytest.mark.parametrize("tau2", [0.25, 1.0, 2.0])
def test_coarse_increments_are_sums_of_fine_ones(tau2: float) -> None:
    """In the measure that the solver integrates (O6), where the nodes are the tree's own; float32 rounding of
    some twenty additions: 1e-5."""
    fine, coarse = (fd.plan("dpmpp-2m-sde", VP, even(n, -2, 2), eta=tau2) for n in (32, 16))
    xi, got = increments(fine, 8), increments(coarse, 8)
    h = 4 / 16
    late = np.sqrt(-np.expm1(-tau2 * h))
    want = (np.exp(-tau2 * h / 2) * late * xi[0::2] + late * xi[1::2]) / np.sqrt(-np.expm1(-2 * tau2 * h))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("solver", ["ddpm", "em", "dpmpp-sde", "dpmpp-2m-sde"])
def test_increments_are_independent_normals(solver: str) -> None:
    """Means, variances and correlations of 40,000 within 5 standard errors, any two steps."""
    plan = fd.plan(solver, VP, fd.grid("karras", VP, steps=12))
    xi = increments(plan, 10_000).double()
    n = xi.shape[1]
    assert xi.mean(1).abs().max() < 5 / n**0.5
    off = xi @ xi.T / n - torch.eye(len(xi), dtype=torch.float64)
    assert off.diagonal().abs().max() < 5 * (2 / n) ** 0.5
    assert (off - off.diagonal().diag()).abs().max() < 5 / n**0.5


def test_a_sample_walks_its_own_path() -> None:
    """Whatever its batch, chunk, order, or where it is resumed: the same bits."""

    def run(seeds: Any, batch: int, **options: Any) -> Tensor:
        return fd.sample(
            fd.Denoiser(lambda x, t: x / (1 + x * x), VP, predicts="noise"),
            (batch, 5), solver="ddpm", steps=9, seeds=seeds, noise="path", **options,
        )  # fmt: skip

    whole = run(7, 6)
    for i in range(6):
        assert torch.equal(run(fd.Seeds(7, ids=[i]), 1)[0], whole[i])
    assert torch.equal(run(7, 6, chunk=4), whole)
    order = [3, 0, 5]
    assert torch.equal(run(fd.Seeds(7, ids=order), 3), whole[order])


def steps_of(times: np.ndarray, clock: float | str) -> Any:
    """What a walk reads of a plan: one draw a step, the last to zero left out."""
    pairs = [(float(a), float(b)) for a, b in pairwise(times) if b > 0]
    stages = [SimpleNamespace(draws=((k, 0),), spans=((*ab, clock),)) for k, ab in enumerate(pairs)]
    return SimpleNamespace(stages=stages, solver="any")


FREE = [k for k in processes.names(kind="gaussian") if processes.get(k)().const is None]


@pytest.mark.parametrize("process", FREE)
def test_no_step_gets_nothing(process: str) -> None:
    """Every grid, 1 to 1000 steps, four clocks: cells apart, measures positive and finite."""
    made = processes.make(process)
    for i, key in enumerate(grids.names()):
        for steps in (1, 2, 5, 20, 50, (100, 1000)[i % 8 == 0]):
            for final in ("zero", "sigma_min"):
                try:
                    times = grids.make(key).times(made, steps, final)
                except ValueError:
                    continue  # a table or a discrete grid that this process has not
                for clock in (1.0, 0.3, -1.0, "t") if steps < 100 else (1.0,):
                    if clock == -1.0 and made.node(float(times[0])).pure:
                        continue  # noise without end
                    plan = steps_of(times, clock)
                    walk = Walk(plan, made)
                    assert len(walk.where) == len(plan.stages)
                    for at, coefs, scale in walk.pieces:
                        assert (at.diff() > 0).all()
                        assert torch.isfinite(coefs).all() and (coefs[1:] > 0).all()
                        assert torch.isfinite(scale).all() and (scale > 0).all()


# fresh noise at each level, sweeps; noise over a part of each step, another one for other steps
NO_WALK = ("lcm", "tcd", "ddbm-heun")


@pytest.mark.parametrize("key", [k for k in planned() if fd.solvers.make(k).stochastic and k not in NO_WALK])
def test_every_stochastic_solver_walks(key: str) -> None:
    """Each draw of each solver is an increment, and 40 steps on a path come nearer to 80 on it than draws of
    their own do."""
    plan = fd.plan(key, VP, even(12))
    assert len(walk_of(plan, VP).where) == len(draws_of(plan)) > 0
    assert between(key, 40, "path") < 0.2 * between(key, 40, None)


def test_churn_stays_independent() -> None:
    """Noise that goes back up is no increment: by a path or not, the same draws."""
    x = torch.linspace(-1, 1, 12).view(3, 4)
    plan = fd.plan("heun", VP, fd.grid("karras", VP, steps=6), churn=3.0)
    sampler = fd.Sampler(fd.Denoiser(lambda x, t: x / 2, VP, predicts="noise"), plan)
    assert torch.equal(sampler(x, seeds=1, noise="path"), sampler(x, seeds=1))


def test_times_that_are_too_close_are_said() -> None:
    times = [1.0, 0.5, 0.5 - 1e-10, 0.1]
    plan = fd.plan("ddpm", VP, times)
    with pytest.raises(ValueError, match="lambda"):
        walk_of(plan, VP)
