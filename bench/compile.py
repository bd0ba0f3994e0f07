"""The plan compiler: milliseconds of processor time to compile each solver, uncached, and what its plan
moves.

Goal: under 50 ms for 20 steps. A compiled plan is cached, so this is paid once for each solver, process and
grid.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import fastdiff as fd
from fastdiff.core.plan import Recipe, _compile
from fastdiff.core.solver import solvers
from fastdiff.testing.solvers import planned

PREDICTS = ("noise", "data")
MORE = {
    "unipc": ({}, {"order": 3}),
    "dpmpp-2m": ({}, {"startup": "single"}),
    "ddim": ({}, {"eta": 1.0}),
    "heun": ({}, {"churn": 4.0}),
    "dpm2": ({}, {"churn": 4.0}),
}
QUICK = {"repeats": 1}


def run(steps: int = 20, repeats: int = 7) -> list[dict[str, Any]]:
    rows = []
    process = fd.processes.VP()
    times = fd.grid("logsnr", process, steps=steps)
    for key in planned():
        for options in MORE.get(key, ({},)):
            solver = solvers.make(key, **options)
            spent = []
            for predicts in PREDICTS:
                recipe = Recipe(solver, process, tuple(times.tolist()), predicts)
                took = []
                for _ in range(repeats):
                    start = time.process_time()
                    _compile(recipe)
                    took.append((time.process_time() - start) * 1e3)
                spent.append(statistics.median(took))
            plan = fd.plan(solver, process, times, predicts="noise")
            rows.append(
                {
                    "case": solver.describe(),
                    "steps": steps,
                    "ms": max(spent),
                    "nfe": plan.nfe,
                    "carried": plan.carried,
                    "bound": plan.bound,
                    "tensors_per_call": plan.traffic(1),
                }
            )
    return rows


def longer() -> list[dict[str, Any]]:
    return run(steps=200, repeats=1)


ALSO = ("longer",)


if __name__ == "__main__":
    for row in run():
        print("  ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))
