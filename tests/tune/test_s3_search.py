"""The search over solver schedules: never behind the solvers it starts from, nor behind chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.testing import GaussianMixture, pf_ode
from fastdiff.tune.s3_search import _judge, _Space

VP = fd.processes.VP()
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
DENOISER = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")
TIMES = np.asarray(VP.time_of(np.linspace(-2.5, 2.5, 6)))
SMALL: dict[str, Any] = {"steps": 5, "initial": 24, "population": 40, "rounds": 2, "top": 6}


def starts(seed: int, count: int = 96) -> torch.Tensor:
    return fd.noise.normal((count, 1), seed).double() * float(VP.sigma(TIMES[0]))


def error(plan: fd.Plan, seed: int) -> float:
    """The search's J against the exact flow."""
    x = starts(seed)
    exact = pf_ode(MIXTURE, VP, x, TIMES[0], TIMES[-1])
    return float((fd.Sampler(DENOISER, plan)(x) - exact).abs().mean())


def test_not_behind_the_best_named_solver() -> None:
    """J to the teacher's own error of 1e-3 on the probes; on other starts still ahead of 2M."""
    other = np.asarray(VP.time_of(np.linspace(-2.5, 2.5, 6) + [0, 0.2, 0.3, 0.2, 0.1, 0]))
    other[[0, -1]] = TIMES[[0, -1]]
    made = fd.tune.s3_search(DENOISER, starts(1), times=[TIMES, other], fine=12, **SMALL)
    named = [fd.plan(k, VP, TIMES) for k in ("ddim", "dpmpp-2m", "unipc")]
    assert error(made, 1) < min(error(p, 1) for p in named) + 1e-3
    assert error(made, 2) < error(named[1], 2)
    assert made.nfe == 5 and (made.times[[0, -1]] == TIMES[[0, -1]]).all()


def test_without_a_round_it_is_the_best_of_the_first_population() -> None:
    """All unmixed schedules of two choices, tried one by one."""
    few = {"prediction": ("data", "noise"), "order": (1, 2), "corrector": (0,), "estimator":
           ("interpolation",), "scaling": ("exact",)}  # fmt: skip
    probes = starts(1, 16)
    made = fd.tune.s3_search(
        DENOISER, probes, steps=5, times=[TIMES], choices=few, initial=4, rounds=0, fine=12
    )
    wanted = fd.sample(DENOISER, probes, solver="heun", times=VP.time_of(np.linspace(-2.5, 2.5, 61)))
    plans = [fd.plan("usf", VP, TIMES, schedule=[{"prediction": p, "order": q}] * 5)
             for p in ("data", "noise") for q in (1, 2)]  # fmt: skip
    cost = [float((fd.Sampler(DENOISER, p)(probes) - wanted).abs().mean()) for p in plans]
    assert all(map(np.array_equal, made.coeffs, plans[int(np.argmin(cost))].coeffs))


def test_the_judge_ranks_what_it_has_not_seen() -> None:
    """A cost that adds up over genes: of 60 new schedules it orders more than 80 of 100 pairs rightly
    (chance: 50)."""
    space = _Space({"order": (1, 2, 3), "corrector": (0, 2, 3)}, [TIMES], 5)
    rng = np.random.default_rng(0)
    price = [rng.normal(size=n) for n in space.sizes]

    def cost(genes: Any) -> float:
        return float(sum(p[g] for p, g in zip(price, genes, strict=True)))

    many = [tuple(int(rng.integers(n)) for n in space.sizes) for _ in range(180)]
    judge = _judge(space, {g: cost(g) for g in many[:120]}, 0)
    found, true = judge(many[120:]), np.array([cost(g) for g in many[120:]])
    i, j = np.triu_indices(60, 1)
    assert ((found[i] < found[j]) == (true[i] < true[j])).mean() > 0.8


def test_a_metric_saving_and_resuming(tmp_path: Path) -> None:
    """By a metric of the samples alone; the same search stopped in its middle ends alike."""
    calls = []

    def metric(x: torch.Tensor) -> float:
        calls.append(1)
        return float((x.mean() - 0.75).abs()) if len(calls) != 3 else float("nan")

    small = {**SMALL, "initial": 8, "rounds": 1, "top": 3}
    file = tmp_path / "search.pt"
    made = fd.tune.s3_search(
        DENOISER, starts(1), times=[TIMES], metric=metric, resume=file, progress=True, **small
    )
    assert len(calls) == 11
    held = torch.load(file)
    torch.save({**held, "known": held["known"][:9]}, file)
    again = fd.tune.s3_search(DENOISER, starts(1), times=[TIMES], metric=metric, resume=file, **small)
    assert len(calls) == 13 and again == made
    made.save(tmp_path / "plan.json")
    x, loaded = starts(3, 8), fd.Plan.load(tmp_path / "plan.json")
    assert torch.equal(fd.Sampler(DENOISER, made)(x), fd.Sampler(DENOISER, loaded)(x))


@pytest.mark.parametrize("bad", [
    {"steps": 0}, {"mutation": 0.0}, {"rounds": -1}, {"top": 0}, {"choices": {"order": (7,)}},
    {"choices": {"order": ()}}, {"choices": {"tau": (1.0,)}}, {"times": [TIMES[:3]]}, {"grids": []},
    {"times": [TIMES, TIMES * 0.9]},
])  # fmt: skip
def test_says_what_is_wrong(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        fd.tune.s3_search(DENOISER, starts(1, 4), **{**SMALL, **bad})
    with pytest.raises(TypeError, match="grids"):
        fd.tune.s3_search(DENOISER, starts(1, 4), grids="karras", **SMALL)
