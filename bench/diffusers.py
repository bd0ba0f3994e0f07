"""FastScheduler against diffusers' schedulers: one `.step()`, the network's output ready made, one thread.

Both sides run the same loop; only the steps are timed on a CPU. Small steps are dominated by Python on both
sides, so the 1 x 4 x 8 x 8 rows show the overhead.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from . import _peers
from ._case import Case, Goal, Scale, Spent, Work

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# name -> the class, its fields, options of FastScheduler
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dpm++ 2m": ("DPMSolverMultistepScheduler", LATENT, {}),
    "unipc 2": ("UniPCMultistepScheduler", LATENT, {}),
    "unipc 3": ("UniPCMultistepScheduler", {**LATENT, "solver_order": 3}, {}),
    "lms": ("LMSDiscreteScheduler", LATENT, {}),
    "deis 2": ("DEISMultistepScheduler", LATENT, {}),
    "ddim": ("DDIMScheduler", {**LATENT, "clip_sample": False}, {}),
    "euler": ("EulerDiscreteScheduler", LATENT, {}),
    "euler ancestral, generator": ("EulerAncestralDiscreteScheduler", LATENT, {}),
    "euler ancestral, seeds": ("EulerAncestralDiscreteScheduler", LATENT, {"seeds": 0}),
    "flow euler": ("FlowMatchEulerDiscreteScheduler", {}, {}),
    "dpm++ sde, known grid": ("DPMSolverSDEScheduler", LATENT, {"seeds": 0}),
    "dpm++ sde, path": ("DPMSolverSDEScheduler", LATENT, {"seeds": 0, "noise": "path"}),
}
QUICK = ("dpm++ 2m", "unipc 2", "lms")
GOALS = {
    "dpm++ 2m": 5.0,
    "unipc 2": 8.0,
    "lms": 30.0,
    "dpm++ sde, known grid": 100.0,
    "dpm++ sde, path": 10.0,
}
SHAPE = (16, 4, 64, 64)
SMALL = ("dpm++ 2m", "unipc 2", "lms", "ddim", "euler", "flow euler")


def loop(scheduler: Any, x: torch.Tensor, m: torch.Tensor, steps: int) -> Work:
    scale = getattr(scheduler, "scale_model_input", None)

    def once() -> Spent | None:
        scheduler.set_timesteps(steps, device=x.device)
        y, spent = x, 0.0
        for t in scheduler.timesteps:
            if scale is not None:
                scale(y, t)  # its state machine wants it; not timed
            start = time.perf_counter()
            y = scheduler.step(m, t, y, return_dict=False)[0]
            spent += time.perf_counter() - start
        return None if x.is_cuda else Spent(spent)

    return once


def made(case: str, shape: tuple[int, ...], scale: Scale, steps: int = 20) -> Case:
    name, fields, options = CASES[case]
    if _peers.schedulers() is None:
        return Case(case, None, {f"diffusers {name}": None}, shape=shape)
    from fastdiff.integrations.diffusers import FastScheduler

    x, m = (torch.randn(shape, device=scale.device) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(_peers.schedulers(), name)(**fields)
        ours = FastScheduler.from_config(theirs, **options)
    ours.set_timesteps(steps)
    return Case(
        case,
        loop(ours, x, m, steps),
        {f"diffusers {name}": loop(theirs, x, m, steps)},
        units=len(ours.timesteps),
        shape=shape,
        dtype=x.dtype,
        goals=(Goal(least=GOALS[case]),) if case in GOALS and shape == SHAPE and not scale.gpu else (),
    )


def cases(scale: Scale) -> Iterator[Case]:
    for case in QUICK if scale.quick else CASES if scale.thorough else {**GOALS, "ddim": 0, "euler": 0}:
        yield made(case, SHAPE, scale)
    for case in SMALL if scale.thorough else ():
        yield made(case, (1, 4, 8, 8), scale)
