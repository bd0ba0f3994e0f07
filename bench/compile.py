"""The plan compiler: time to compile each solver for 20 steps, uncached. Paid once for a solver, process and
grid; the goal is under 50 ms. All solvers from `--budget 1` on."""

from __future__ import annotations

from collections.abc import Iterator

import fastdiff as fd
from fastdiff.core.plan import Recipe, _compile
from fastdiff.core.solver import solvers
from fastdiff.testing.solvers import planned

from ._case import Case, Scale

FEW = ("ddim", "dpmpp-2m", "unipc", "sa-solver")


def made(key: str, steps: int) -> Case:
    process = fd.processes.VP()
    times = fd.grid("logsnr", process, steps=steps)
    solver = solvers.make(key)
    recipe = Recipe(solver, process, tuple(times.tolist()), "noise")
    plan = fd.plan(solver, process, times, predicts="noise")
    facts = {"nfe": plan.nfe, "carried": plan.carried, "bound": plan.bound, "tensors": plan.traffic(1)}
    return Case(solver.describe(), lambda: _compile(recipe), facts=facts)


def cases(scale: Scale) -> Iterator[Case]:
    for key in planned() if scale.thorough else FEW:
        yield made(key, 20)
