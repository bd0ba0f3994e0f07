"""invert: from data back to the noise that a sampler makes them of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.errors import check_options
from ..core.hook import Hook
from ..core.plan import Plan
from ..core.plan import plan as make_plan
from ..core.solver import Solver, solvers
from ..solvers._inverse import Inverse
from ..solvers._reversible import Reversible
from .checks import check_consts, check_run, check_x
from .denoiser import Denoiser
from .executor import Executor
from .run import Run
from .sample import _times

SECOND = "second"  # the const under which a pair's second tensor goes in


class Pair(NamedTuple):
    """The state of an exactly invertible solver at one end of its times."""

    x: Tensor
    second: Tensor


def invert(
    denoiser: Denoiser,
    x0: Tensor | Pair,
    solver: str | Solver | Plan = "ddim",
    *,
    steps: int = 50,
    grid: str | None = None,
    grid_options: Mapping[str, Any] | None = None,
    times: Any = None,
    final: str = "zero",
    iterations: int = 0,
    cond: Mapping[str, Any] | None = None,
    guidance: Hook | None = None,
    hooks: Sequence[Hook] = (),
    consts: Mapping[str, Tensor] | None = None,
    backend: str | None = None,
    **solver_options: Any,
) -> Tensor | Pair:
    """The x at times[0] from which the solver leads to x0 (B, *) at times[-1].

    solver      a key with its options, a Solver, or a Plan, whose solver, times and hooks are taken; it must
                draw no noise. Steps are explicit, on the nodes in reverse: an error of the solver's own order
    iterations  of a fixed-point iteration after each step, that many calls (of each stage) more: x goes to
                what the solver's step takes to x0 exactly. One-step solvers only
    steps, grid, grid_options, times, final, cond, guidance, hooks, consts    as in `fd.sample`

    Of `edict`, `bdia` and `reversible-heun` the result is a Pair, exact to rounding; the way back is
    `fd.sample(denoiser, pair.x, solver=key, second="second", consts={"second": pair.second}, times=times)`.
    A Pair as x0 (of `carry`) brings the second tensor at the data; from x0 alone it is made.

    Raises ValueError or TypeError before anything runs.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"iterations must be a whole number >= 0, got {iterations!r}")
    x, second = x0 if isinstance(x0, Pair) else (x0, None)
    check_x(x, "x0")
    how = times, steps, grid, grid_options, final
    made, points, every = take("invert", denoiser, solver, solver_options, how, guidance, hooks)
    if made.stochastic:
        raise ValueError(f"{made.describe()} draws noise: no x leads to x0; see fd.edit.CycleNoise")
    reversible = isinstance(made, Reversible)
    if reversible and iterations:
        raise ValueError(f"{made.key} is inverted exactly: leave iterations at 0")
    if second is not None and not reversible:
        raise ValueError(f"{made.key} has one state: x0 must be a tensor, got a Pair")
    if reversible:
        made = replace(made, second=None)
    inverse = Inverse(made, iterations, SECOND if second is not None else None)
    try:
        plan = make_plan(inverse, denoiser.process, points, predicts=denoiser.predicts, hooks=every)
    except ArithmeticError as e:  # so contracting that x and what it is compared with are one in 60 digits
        why = f"{iterations} iterations of {made.key} on {len(points) - 1} steps are beyond exact arithmetic"
        raise ValueError(f"{why}; ask for fewer, or for ddim") from e
    held = dict(consts or {}) | ({} if second is None else {SECOND: second})
    out, second = carry(denoiser, plan, x, cond=cond, consts=held, backend=backend)
    return out if second is None else Pair(out, second)


def take(
    who: str,
    denoiser: Denoiser,
    solver: str | Solver | Plan,
    options: Mapping[str, Any],
    how: tuple[Any, ...],
    guidance: Hook | None,
    hooks: Sequence[Hook],
) -> tuple[Solver, np.ndarray, tuple[Hook, ...]]:
    """Solver, times and hooks: of a Plan, or of the arguments that would make one."""
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"{who}: denoiser must be a fd.Denoiser, got {type(denoiser).__name__}")
    if isinstance(solver, Plan):
        if solver.recipe is None:
            raise ValueError(f"{who}: a loaded plan has no formula; compile it with fd.plan(...)")
        if options or how[0] is not None or how[2] is not None or guidance is not None or hooks:
            raise ValueError(f"{who}: a Plan has its own times, hooks and options; leave the others out")
        if (solver.recipe.process, solver.predicts) != (denoiser.process, denoiser.predicts):
            made = f"{solver.process} and {solver.predicts!r}"
            raise ValueError(f"{who}: the plan is for {made}, the denoiser is {denoiser!r}")
        return solver.recipe.solver, solver.times, solver.hooks
    if isinstance(solver, Solver):
        check_options(f"{who} (the solver is already made)", options, ())
    else:
        solver = solvers.make(solver, **options)
    every = tuple(hooks) if guidance is None else (guidance, *hooks)
    return solver, _times(denoiser.process, *how), every


def carry(
    denoiser: Denoiser,
    plan: Plan,
    x: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    consts: Mapping[str, Tensor] | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The result of a plan without draws, and the second tensor where the plan gives one out."""
    check_x(x)
    check_run(plan, cond, None, None)
    registers = {0: x.contiguous(), **check_consts(plan, consts, x)}
    run = Run(Executor(denoiser, plan, x, backend), registers, None, dict(cond or {}))
    with torch.no_grad():
        run.go(0, len(plan.stages))
    given = [r for s in plan.stages for what, _, r in s.emits if what == SECOND]
    return run.registers[plan.out], run.registers[given[0]] if given else None
