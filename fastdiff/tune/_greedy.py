"""Numbers of a plan's steps fitted one step after the other, each by least squares against a teacher.

With x(r) the state after a step whose numbers are r, e_k = x(unit k) - x(0) and the teacher's state x*,

    G r = b,    G_kl = <e_k, e_l> + 1e-9 tr(G) / K [k = l],    b_k = <e_k, x* - x(0)>

which is the minimum where x(r) is linear (one call in the step); else it is a Gauss-Newton step, taken again
from where it led and halved while it does not help.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.plan import Plan
from ..core.plan import plan as make_plan
from ..core.process import Node
from ..core.solver import Past, Solver
from ..runtime.denoiser import Denoiser
from ..runtime.sample import sample
from ..runtime.sampler import Sampler
from ..runtime.state import Trajectory
from ..solvers._wrapper import Wrapper
from ._descent import Notes, bar, picked
from ._teacher import check_fit, halves, refined, taught

Rows = tuple[tuple[float, ...], ...]
RIDGE, PASSES, LINEAR = 1e-9, 4, 1e-6


class Watched:
    """`p` of a formula, every prediction of which passes through `change`."""

    def __init__(self, p: Any, change: Callable[[Any, str], Any]):
        self.__dict__.update(_p=p, _change=change)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._p, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._p, name, value)

    def model(self, x: Any, node: Node, kind: str | None = None) -> Any:
        return self._change(self._p.model(x, node, kind), kind or self._p.wanted)


@dataclass(frozen=True)
class Mended(Wrapper):
    """The inner solver with a row of numbers for each step. Its history: [the inner one's, the outputs of the
    network that came before, newest first, each with its kind]."""

    rows: Rows = ()

    name = "mended"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kinds", self.made.kinds)

    def describe(self) -> str:
        return f"{self.name}({self.made.describe()})"

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        return self.made.limit(step, steps, clean)

    def move(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        inner, before = past or ([], [])
        inner, found = self.mend(p, s, t, list(inner), list(before), q)
        return [inner, found]

    def mend(
        self, p: Any, s: Node, t: Node, inner: Past, before: list[Any], q: int
    ) -> tuple[Past, list[Any]]:
        raise TypeError(f"{type(self).__name__} does not define mend")


def greedy(
    name: str,
    denoiser: Denoiser,
    plan: Plan,
    shape_or_x: Sequence[int] | Tensor,
    build: Callable[[Solver, Rows], Mended],
    width: int,
    *,
    teacher: str | Solver,
    fine: int,
    restart: bool,
    seeds: Any,
    cond: Mapping[str, Any] | None,
    progress: bool,
    resume: str | os.PathLike[str] | None,
) -> Plan:
    check_fit(name, denoiser, fine=fine)
    if not isinstance(plan, Plan):
        raise TypeError(f"{name}: plan must be a fd.Plan (see fd.plan), got {type(plan).__name__}")
    if plan.recipe is None:
        raise ValueError(f"{name}: a loaded plan has no formula to change; compile it with fd.plan(...)")
    if plan.stochastic or plan.visits != plan.steps:
        raise ValueError(f"{name}: {plan.solver} draws noise; a deterministic plan is allowed")
    recipe, steps = plan.recipe, plan.steps
    run = taught(denoiser, shape_or_x, plan.times, fine, teacher, seeds, cond, plan.hooks)
    x, wanted, count = run.states[0], run.states[::fine], run.x.shape[0]
    learnt, held = halves(count)

    def of(rows: Sequence[Sequence[float]]) -> Plan:
        solver = build(recipe.solver, tuple(map(tuple, rows)))
        return make_plan(solver, recipe.process, plan.times, predicts=recipe.predicts, hooks=recipe.hooks)

    def states(rows: Sequence[Sequence[float]], index: Tensor = learnt) -> Tensor:
        made = Sampler(denoiser, of(rows))(
            x[index.to(x.device)], cond=picked(cond, index, count), trajectory=True
        )
        assert isinstance(made, Trajectory)
        return made.states

    def aim(i: int, now: Tensor) -> Tensor:
        if not restart:
            return wanted[i + 1][learnt.to(x.device)]
        sub = refined(recipe.process, plan.times[i : i + 2], fine)
        made = sample(denoiser, now, solver=teacher, times=sub, cond=picked(cond, learnt, count),
                      hooks=list(plan.hooks))  # fmt: skip
        assert isinstance(made, Tensor)
        return made

    what = f"{name} {plan.digest} {denoiser!r} width={width} restart={restart}"
    notes = Notes(resume, what)
    rows = notes.read().get("rows", [])
    first = len(rows)
    rows = [list(r) for r in rows] + [[0.0] * width for _ in range(steps - first)]
    course = states(rows)
    for i in bar(range(first, steps), progress, name):
        rows[i], course = _step(rows, i, course, aim(i, course[i]), states)
        notes.write(rows=rows[: i + 1])

    def ends(share: float) -> tuple[float, float]:
        """Mean square distances of all samples, and of those held out."""
        found = states([[share * v for v in row] for row in rows], torch.arange(count))[-1]
        away = (found - wanted[-1]).flatten(1).double().square().mean(1)
        return float(away.mean()), float(away[held.to(x.device)].mean())

    own = ends(0.0)
    tried = {share: ends(share) for share in (0.5, 1.0)}
    better = [share for share, (a, b) in tried.items() if a < own[0] and b < own[1]]
    share = min(better, key=lambda v: tried[v][0], default=0.0)
    return of([[share * v for v in row] for row in rows]) if share else plan


def _step(
    rows: list[list[float]], i: int, course: Tensor, aim: Tensor, states: Callable[..., Tensor]
) -> tuple[list[float], Tensor]:
    """The row of step i and the states it leads to."""

    def trial(row: Sequence[float]) -> Tensor:
        return states([*rows[:i], list(row), *rows[i + 1 :]])

    row = list(rows[i])
    for _ in range(PASSES):
        left = (aim - course[i + 1]).flatten().double()
        moved = []
        for k in range(len(row)):
            unit = [v + (j == k) for j, v in enumerate(row)]
            moved.append((trial(unit)[i + 1] - course[i + 1]).flatten().double())
        move, predicted = solve(torch.stack(moved), left)
        if not bool(move.any()):
            break
        for halved in range(5):
            tried = [v + float(m) / 2**halved for v, m in zip(row, move, strict=True)]
            found = trial(tried)
            after = float((aim - found[i + 1]).double().square().sum())
            if after < float(left @ left):
                row, course = tried, found
                break
        else:
            break
        if abs(after - predicted) <= LINEAR * float(left @ left):
            break
    return row, course


def solve(moved: Tensor, left: Tensor) -> tuple[Tensor, float]:
    """(the numbers, what is then left in square) of effects (K, n) on what is left (n,), both float64."""
    G, b = moved @ moved.T, moved @ left
    trace = float(G.trace())
    if not trace > 0 or not bool(torch.isfinite(G).all()):
        return torch.zeros_like(b), float(left @ left)
    G = G + torch.eye(len(b), dtype=G.dtype, device=G.device) * (RIDGE * trace / len(b))
    found = torch.linalg.solve(G, b)
    rest = left - found @ moved
    return found, float(rest @ rest)
