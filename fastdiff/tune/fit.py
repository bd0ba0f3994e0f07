"""Fitting a plan's own numbers: coefficients and times by gradient, its order conditions kept.

A plan of order q agrees, up to its error, with the exact flow where the data prediction is a polynomial of
degree below q in anything smooth in time. Such problems are linear in the plan's coefficients: q + 1 of them,

    D = 0, x_T = sigma_T        D = phi^k, x_T = 0,  k = 0 .. q - 1,      phi = sigma / (sigma + alpha)

are run along, V holds what they leave in the registers that a stage reads, and its table moves by

    A = A_0 + F (I - V V^+),      F free,      A_0 of the solver's formula at the times of the moment

so that every register, and the result, stay on these problems what the formula makes of them. Rows that the
conditions leave no freedom stay as they are; then times alone are trained.

What is kept is the best on samples held out, the plan itself where nothing is better.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from ..core.plan import Coefficients, Plan
from ..core.plan import plan as make_plan
from ..core.predict import convert, input_scale
from ..core.process import Process
from ..core.solver import Solver
from ..core.stages import frozen
from ..runtime.denoiser import Denoiser
from ..runtime.sampler import Sampler
from ._descent import Notes, chosen, descend, picked
from ._teacher import Spacing, check_fit, halves, taught

FREE = 1e-9  # of 1: a direction of V that is smaller binds nothing


def fit(
    denoiser: Denoiser,
    plan: Plan,
    shape_or_x: Sequence[int] | Tensor,
    *,
    order: int | None = None,
    coefficients: bool = True,
    times: bool = True,
    teacher: str | Solver = "heun",
    fine: int = 8,
    iterations: int = 300,
    batch: int = 64,
    rate: float = 5e-3,
    gradient: Any = "full",
    seeds: Any = 0,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
    resume: str | os.PathLike[str] | None = None,
) -> Plan:
    """The plan with other coefficients and times, as near to a teacher's ends as they bring it.

    plan        of a deterministic solver, its guidance and hooks with it; a loaded one has no formula, so its
                times stay (times=False)
    shape_or_x  starts of the teacher, as in `fd.sample`; one in four is held out to choose by
    order       of the conditions that are kept, by default the plan's own. Rules that their order determines
                (`dpmpp-2m`) have coefficients to train at a lower one only: at few steps order=1 fits best
    coefficients, times    what is trained; both ends of the times stay
    teacher, fine    a solver, and how many of its steps stand for one of these
    gradient    how the run is differentiated: "full" or "checkpoint", as in `fd.Sampler`
    batch, rate, cond, resume    as in `fd.tune.bespoke`

    Where coefficients moved, the plan is like a loaded one: it has tables and no formula, so no trajectory.
    """
    check_fit("fit", denoiser, fine=fine, iterations=iterations, batch=batch)
    if not isinstance(plan, Plan):
        raise TypeError(f"fit: plan must be a fd.Plan (see fd.plan), got {type(plan).__name__}")
    if plan.stochastic or plan.planes is not None or any(k.startswith("const") for k in plan.kinds):
        raise ValueError(f"fit: {plan.solver} draws noise or has coefficients for each element; a "
                         "deterministic plan with one table for a stage is allowed")  # fmt: skip
    if order is not None and (isinstance(order, bool) or order not in range(1, plan.order + 1)):
        raise ValueError(f"fit: order={order!r}; 1 .. {plan.order} (the plan's) are allowed")
    times = times and plan.steps > 1
    if plan.recipe is None and times:
        raise ValueError("fit: a loaded plan has no formula for other times; use times=False")
    if not coefficients and not times:
        raise ValueError("fit: neither coefficients nor times (of two steps or more) are left to train")
    trained = _Tables(denoiser.process, plan, order or plan.order, coefficients, times)
    if not trained.values:
        raise ValueError(f"fit: the conditions of order {order or plan.order} leave the coefficients of "
                         f"{plan.solver} no freedom; train its times, or keep a lower order")  # fmt: skip
    sampler = Sampler(denoiser, trained.plan)
    run = taught(denoiser, shape_or_x, plan.times, fine, teacher, seeds, cond, plan.hooks)
    x, y, count = run.states[0], run.x, run.x.shape[0]
    learnt, held = halves(count)

    def off(index: Tensor, mode: Any) -> Tensor:
        at = index.to(x.device)
        made = sampler(x[at], cond=picked(cond, index, count), coefficients=trained.now(), gradient=mode)
        square = (made - y[at]).flatten(1).double().square().mean(1)
        return square.mean().sqrt()

    what = f"fit {plan.digest} {denoiser!r} order={order} coefficients={coefficients} times={times}"
    descend(
        trained.values, lambda k: off(learnt[chosen(k, len(learnt), batch)], gradient),
        lambda: float(off(held, None)), iterations=iterations, rate=rate, progress=progress,
        notes=Notes(resume, what),
    )  # fmt: skip
    return trained.made()


class _Tables:
    """A plan's numbers as a function of the trained ones, `values`."""

    def __init__(self, process: Process, plan: Plan, order: int, coefficients: bool, times: bool):
        self.process, self.given, self.order = process, plan, order
        self.plan = plan.generic() if times else plan
        self.spacing = Spacing(process, plan.times) if times else None
        stages = self.plan.stages
        self.own = [torch.from_numpy(c.copy()) for c in self.plan.coeffs]
        self.free: list[Tensor] = []
        bases = self._along(self.own, [s.call.t if s.call else None for s in stages], None)
        loose = [len(s.outputs) > 0 and bool(P.abs().max() > FREE) for s, (P, _, _) in _with(stages, bases)]
        if coefficients and any(loose):
            self.free = [torch.zeros_like(c) if ok else c[:0] for c, ok in zip(self.own, loose, strict=True)]
        self.values = [f for f in self.free if f.numel()]
        if self.spacing is not None:
            self.values.append(self.spacing.gaps)

    def now(self) -> Coefficients:
        if self.spacing is None:
            tables: list[Any] = self.own
            clock: list[Any] = [c.t for c in self.plan.calls]
        else:
            tables, clock = self.plan.coefficients(self.spacing.times())
            tables = [_tensor(rows, c) for rows, c in zip(tables, self.own, strict=True)]
        if not self.free:
            return Coefficients(tables, clock)
        left = iter(clock)
        at = [next(left) if s.call else None for s in self.plan.stages]
        moved: list[Tensor] = []
        self._along(tables, at, moved)
        return Coefficients(moved, clock)

    def _along(self, tables: Sequence[Tensor], at: Sequence[Any], moved: list[Tensor] | None) -> list[Any]:
        """Of each stage (I - V V^+, sizes of what it reads, of what it writes); moved: receives the
        tables."""
        first = self.process.node(float(self.given.times[0]))
        start = torch.zeros(self.order + 1, dtype=torch.float64)
        start[0] = max(float(first.sigma), 1e-300)
        memory, bases = {0: start}, []
        for k, s in enumerate(self.plan.stages):
            table, base = tables[k], None
            if s.outputs:
                V = torch.stack([memory[r] for r in s.inputs])
                made = table @ V
                base = _complement(V, made)
                memory.update(zip(s.outputs, made, strict=True))
                if moved is not None and self.free[k].numel():
                    P, reads, writes = base
                    table = table + writes[:, None] * (self.free[k] @ P) / reads
            bases.append(base)
            if moved is not None:
                moved.append(table)
            if s.call is not None:
                outs = [memory[r] for r in s.call.args]
                if s.call.kind == "net":
                    outs = [self._network(outs[0], at[k])] * len(s.call.outs)
                memory.update(zip(s.call.outs, outs, strict=False))
        return bases

    def _network(self, arg: Tensor, t: Any) -> Tensor:
        """What a network says whose data predictions are 0, 1, phi, phi^2, ..."""
        node = self.process.node(t)
        phi = torch.as_tensor(node.sigma / (node.sigma + node.alpha), dtype=torch.float64)
        D = torch.stack([phi * 0, *(phi**k for k in range(self.order))])
        p, q = convert("data", self.plan.predicts, node)
        return p * (arg / input_scale(self.plan.predicts, node)) + q * D

    @torch.no_grad()
    def made(self) -> Plan:
        times = self.given.times if self.spacing is None else self.spacing.plain()
        if all(not f.any() for f in self.free) and self.given.recipe is not None:
            r = self.given.recipe  # the formula itself, in all its digits
            return make_plan(r.solver, r.process, times, predicts=r.predicts, hooks=r.hooks)
        now = self.now()
        clock, stages = iter(now.times), []
        for s, table in zip(self.plan.stages, now.tables, strict=True):
            exact = tuple(tuple(Decimal(float(v)) for v in row) for row in table) if s.outputs else s.exact
            call = s.call if s.call is None else replace(s.call, t=float(next(clock)))
            stages.append(replace(s, exact=exact, call=call))
        return replace(
            self.plan, solver=f"{self.given.solver} fitted", order=self.order, times=frozen(times.copy()),
            stages=tuple(stages), recipe=None, tape=None,
        )  # fmt: skip


def _complement(V: Tensor, made: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The projection off V's columns, in units of what is read and written."""
    reads, writes = (v.abs().amax(1) for v in (V, made))
    reads, writes = (torch.where(v > 0, v, 1.0) for v in (reads, writes))
    U = V / reads[:, None]
    P = torch.eye(len(U), dtype=U.dtype) - U @ torch.linalg.pinv(U, rtol=FREE)
    return P, reads, writes


def _with(stages: Sequence[Any], bases: Sequence[Any]) -> list[Any]:
    none = torch.zeros(1), None, None
    return [(s, none if b is None else b) for s, b in zip(stages, bases, strict=True)]


def _tensor(rows: Any, like: Tensor) -> Tensor:
    if not like.numel():
        return like
    return torch.stack([torch.stack([torch.as_tensor(v, dtype=like.dtype) for v in row]) for row in rows])
