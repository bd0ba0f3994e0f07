"""FastScheduler against diffusers' schedulers: one `.step()`, the network's output ready made, one thread.

Both sides run the same loop in the same process, rounds interleaved; of each round the mean over its steps
(a Brownian path makes several increments at a time), of the rounds the median. Small steps are dominated by
Python on both sides, so the 1 x 4 x 8 x 8 rows show the overhead.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

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
QUICK = {"rounds": 3, "cases": ("dpm++ 2m", "unipc 2", "lms")}


def loop(scheduler: Any, x: torch.Tensor, m: torch.Tensor, steps: int) -> Callable[[], float]:
    scale = getattr(scheduler, "scale_model_input", None)

    def once() -> float:
        scheduler.set_timesteps(steps)
        y, spent = x, 0.0
        for t in scheduler.timesteps:
            if scale is not None:
                scale(y, t)  # its state machine wants it; not timed
            start = time.perf_counter()
            y = scheduler.step(m, t, y, return_dict=False)[0]
            spent += time.perf_counter() - start
        return spent / len(scheduler.timesteps)

    return once


def run(
    shape: tuple[int, ...] = (16, 4, 64, 64),
    steps: int = 20,
    rounds: int = 9,
    cases: tuple[str, ...] = tuple(CASES),
) -> list[dict]:
    try:
        import diffusers

        from fastdiff.integrations.diffusers import FastScheduler
    except ImportError:
        return []
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        x, m = torch.randn(shape), torch.randn(shape)
        for case in cases:
            name, fields, options = CASES[case]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = getattr(diffusers, name)(**fields)
                sides = (
                    loop(FastScheduler.from_config(theirs, **options), x, m, steps),
                    loop(theirs, x, m, steps),
                )
                seen: tuple[list[float], list[float]] = ([], [])
                for k in range((3 if "sde" in case else rounds) + 1):
                    for times, side in zip(seen, sides, strict=True):
                        spent = side()
                        times += [spent] if k else []  # the first makes tables
            ours, peer = map(statistics.median, seen)
            rows.append(
                {
                    "case": case,
                    "shape": list(shape),
                    "ours_us": ours * 1e6,
                    "peer_us": peer * 1e6,
                    "ratio": peer / ours,
                }
            )
    finally:
        torch.set_num_threads(threads)
    return rows


def small() -> list[dict]:
    """Where Python is what takes the time."""
    return run(shape=(1, 4, 8, 8), cases=("dpm++ 2m", "unipc 2", "lms", "ddim", "euler", "flow euler"))


ALSO = ("small",)
