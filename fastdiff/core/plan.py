"""Plan: a compiled solver. Data only: no state, no tensors, safe to share between threads.

    y_j = sum_i A[j, i] T_i + sum_c A[j, n_in + c] xi_c          one linear stage, then one call of the
    network (or a hook)

Registers are numbered. `kinds` says what lies in each: the input, a state buffer, memory that the network
owns, a constant, or an output for a trajectory. Coefficients are kept in 60 digits, so that saving, loading
and transposing lose nothing; `coeffs` are the float64 tables that run.
"""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property, lru_cache, partial
from math import prod
from operator import is_
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .compile import Program, Special, compile_record
from .errors import check_options
from .grid import check_times
from .hook import Hook
from .linear import LinearProcess
from .linear_recorder import LinearRecorder
from .number import Real, precision
from .predict import check_prediction
from .process import Process
from .recorder import NOISE, Recorder
from .solver import Solver, check_kind, solvers
from .stages import DRAWS, INPUTS, OUTPUTS, PlanCall, Planes, Stage, adjoint, assemble, frozen

__all__ = ["DRAWS", "INPUTS", "OUTPUTS", "Coefficients", "Plan", "PlanCall", "Planes", "Recipe", "Stage",
           "plan"]

FORMAT = 1
SAVED = ("inputs", "outputs", "draws", "carried", "rank", "drop", "emits", "spans")  # of a stage, as they are


@dataclass(frozen=True, eq=False)
class Plan:
    """See the module. Made by `fd.plan`, run by `fd.Sampler`."""

    solver: str
    process: str
    predicts: str
    order: int
    times: np.ndarray
    stages: tuple[Stage, ...]
    kinds: tuple[str, ...]
    out: int
    hooks: tuple[Hook, ...] = ()
    recipe: Recipe | None = field(default=None, repr=False)
    tape: Tape | None = field(default=None, repr=False)
    planes: Planes | None = None  # coefficients that differ between elements; the stages hold typical ones

    # facts, read off the stages
    @cached_property
    def calls(self) -> tuple[PlanCall, ...]:
        return tuple(s.call for s in self.stages if s.call is not None)

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    @cached_property
    def nfe(self) -> int:
        """Network calls; a guided step counts one for each branch."""
        return sum(len(c.branches) for c in self.calls if c.kind == "net")

    @cached_property
    def carried(self) -> int:
        """The most tensors alive across a call, its own argument included; constants cost nothing."""
        return max((s.alive for s in self.stages if s.call), default=0)

    @cached_property
    def bound(self) -> int:
        """The fewest that any implementation can do with: the largest rank of the later rows."""
        return max((s.rank for s in self.stages if s.call), default=0)

    @cached_property
    def visits(self) -> int:
        """Steps taken, those of a hook's route counted each time."""
        return len(self._route) - 1

    @cached_property
    def _route(self) -> tuple[int, ...]:
        straight = range(len(self.times))
        if self.recipe is None:
            return tuple(straight)
        return tuple(self.recipe.route([self.recipe.process.node(float(t)) for t in self.times]) or straight)

    def end_of(self, step: int) -> float:
        """The time at which a step ends."""
        return float(self.times[self._route[step + 1]])

    @property
    def stochastic(self) -> bool:
        return any(s.draws for s in self.stages)

    @cached_property
    def coeffs(self) -> tuple[np.ndarray, ...]:
        """float64 tables, one (outputs, inputs + draws) per stage."""
        return tuple(s.coeffs for s in self.stages)

    def traffic(self, dtype_bytes: int = 4) -> float:
        """Bytes per element that the linear stages move, per network call, when every tensor has
        `dtype_bytes`."""
        moved = sum(len(s.inputs) + len(s.outputs) for s in self.stages)
        return dtype_bytes * moved / max(1, self.nfe)

    # the same plan in other forms
    def with_trajectory(self) -> Plan:
        """This plan with outputs for every state and data prediction."""
        if self.recipe is None:
            raise ValueError("a loaded plan has no trajectory outputs; compile it with fd.plan(...)")
        return compiled(replace(self.recipe, trajectory=True))

    def coefficients(self, times: Sequence[Any]) -> Coefficients:
        """The tables at other times, laid out as `coeffs` is.

        A time may be a float, an array (one time per sample, so a table per sample) or a torch scalar: with
        requires_grad the coefficients are differentiable in the times, and a schedule can be learned. What is
        carried, read and drawn stays as it is; first and last time must stay where alpha or sigma is 0.
        """
        if self.recipe is None or self.tape is None:
            raise ValueError("a loaded plan has no formula; compile it with fd.plan(...) on this machine")
        if len(times) != len(self.times):
            raise ValueError(f"coefficients: got {len(times)} times for a plan of {len(self.times)}")
        if self.planes is not None:
            raise ValueError("coefficients: this plan's are planes over elements, of its own times alone")
        if not self._is_generic:
            raise ValueError("coefficients: a coefficient happens to be 0 or 1 at just the times of this "
                             "plan, so the tables have no place for its derivative; use plan.generic()")
        rec = self.recipe.record(times=times, exact=False, answers=self.tape.recorder)
        program = compile_record(rec, self.tape.compiler, natural=self.tape.natural)
        stages, _, _ = assemble(program, lambda v: v)
        return Coefficients([s.exact for s in stages], [c.node.t for c in rec.calls])

    def generic(self) -> Plan:
        """This plan, or the one with the structure of nearby times where these are special.

        At special times (evenly spaced ones on a straight path, say) a coefficient can happen to be 0 or 1,
        so that its derivative has no place in the tables. The generic plan gives the same samples and keeps
        every entry.
        """
        if self.recipe is None or self.tape is None:
            raise ValueError("a loaded plan has no formula; compile it with fd.plan(...) on this machine")
        if self._is_generic:
            return self
        _, tape = _compile(self._nearby, self.tape.natural)
        rec = self.recipe.record(answers=tape.recorder)
        program = compile_record(rec, tape.compiler, natural=tape.natural)
        made = _with_stages(replace(self, tape=tape, planes=_planes(self.recipe, rec, tape)), program)
        if not all(np.isfinite(c).all() for c in made.coeffs):
            raise ValueError("generic: the structure of nearby times divides by 0 at these; shift them")
        return made

    @property
    def _nearby(self) -> Recipe:
        """The recipe at times a little off, 0 and pure noise kept."""
        assert self.recipe is not None
        t, rng = self.times.copy(), np.random.default_rng(0)
        gap = -np.diff(self.times)
        t[1:-1] += rng.uniform(-0.02, 0.02, len(t) - 2) * np.minimum(gap[:-1], gap[1:])
        first, last = (self.recipe.process.node(float(v)) for v in self.times[[0, -1]])
        t[0] -= 0 if first.pure else 0.01 * gap[0]
        t[-1] += 0 if last.clean else 0.01 * gap[-1]
        return replace(self.recipe, times=tuple(t.tolist()))

    @cached_property
    def _is_generic(self) -> bool:
        assert self.tape is not None
        try:
            rec = self._nearby.record()
            compile_record(rec, self.tape.compiler, natural=self.tape.natural, verify=True)
        except Special:
            return False
        return tuple(rec.asked) == self.tape.recorder

    def transpose(self) -> Plan:
        """The adjoint: from the gradient of the result to the gradient of the input.

        Each network call becomes its vector-Jacobian product, in reverse order: the argument is the cotangent
        of the output, the output the cotangent of the argument. Draws vanish; what is carried has the same
        rank.
        """
        if self.planes is not None:
            raise ValueError("transpose: this plan's coefficients are planes over elements; ask for "
                             "gradients by gradient='full' or 'checkpoint'")
        with precision():
            rec = adjoint(self.stages, self.kinds, self.out)
        # a compiled plan's rows carry the residue of their own elimination, up to 1e-30 of their scale
        for digits in (35, 28, 22):
            try:
                program = compile_record(rec, zero=Decimal(f"1e-{digits}"))
                break
            except ArithmeticError:
                if digits == 22:
                    raise
        name = f"{self.solver} transposed"
        return _with_stages(replace(self, hooks=(), recipe=None, tape=None, solver=name), program)

    # saving, comparing
    def to_json(self) -> str:
        stages = [
            {**{k: getattr(s, k) for k in SAVED}, "exact": [[str(v) for v in row] for row in s.exact],
             "call": None if s.call is None else vars(s.call)}
            for s in self.stages
        ]
        head = {"format": FORMAT, **{k: getattr(self, k) for k in ("solver", "process", "predicts", "order")},
                "times": [float(t).hex() for t in self.times], "kinds": self.kinds, "out": self.out,
                "hooks": [type(h).__name__ for h in self.hooks]}
        if self.planes is not None:
            head["planes"] = self.planes.to_json()
        return json.dumps({**head, "stages": stages})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, all digits kept. Hooks are named, not saved."""
        path = Path(path)
        part = path.with_name(path.name + ".part")  # an interruption leaves the old file whole
        part.write_text(self.to_json())
        part.replace(path)

    @staticmethod
    def load(path: str | os.PathLike[str], hooks: Sequence[Hook] = ()) -> Plan:
        """Read a saved plan; `hooks` must be of the kinds it was compiled with."""
        data = json.loads(Path(path).read_text())
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"{path}: not a plan of format {FORMAT}")
        if [type(h).__name__ for h in hooks] != data["hooks"]:
            names = [type(h).__name__ for h in hooks]
            raise ValueError(f"{path}: compiled with hooks {data['hooks']}, got {names}")

        def tuples(v: Any) -> Any:
            return tuple(tuples(i) for i in v) if isinstance(v, list) else v

        stages = []
        for s in data["stages"]:
            call = None if s["call"] is None else PlanCall(**{k: tuples(v) for k, v in s["call"].items()})
            exact = tuple(tuple(Decimal(v) for v in row) for row in s["exact"])
            stages.append(Stage(exact=exact, call=call, **{k: tuples(s[k]) for k in SAVED}))
        times = frozen(np.array([float.fromhex(t) for t in data["times"]]))
        return Plan(data["solver"], data["process"], data["predicts"], data["order"], times, tuple(stages),
                    tuple(data["kinds"]), data["out"], tuple(hooks),
                    planes=Planes.from_json(data["planes"]) if "planes" in data else None)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Plan) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        draws = sum(len(s.draws) for s in self.stages)
        tensors = f"{self.carried} tensor{'s' * (self.carried != 1)}"
        head = [
            f"{self.solver} on {self.process}: {self.steps} steps, {self.nfe} network calls ({self.predicts})"
            f", order {self.order}",
            f"carries {tensors} across a call (the bound is {self.bound}); "
            f"moves {self.traffic(1):.3g} tensors a call = {self.traffic(4):.3g} bytes an element in float32"
            + (f"; {draws} draws" if draws else "")
            + (f"; planes over {self.planes.shape}" if self.planes else ""),
        ]
        rows: list[tuple[str, ...]] = [("stage", "reads", "writes", "draws", "then")]
        for i, s in enumerate(self.stages):
            then = "the result"
            if s.call is not None:
                times = f" x{len(s.call.branches)}" if len(s.call.branches) > 1 else ""
                then = f"{s.call.kind} at t={s.call.t:.6g}{times}"
            drawn = _list(f"{a}.{b}" for a, b in s.draws)
            rows.append((str(i), _list(s.inputs), _list(s.outputs), drawn, then))
        if len(rows) > 14:
            rows[8:-4] = [("...",) * 5]
        widths = [max(len(r[c]) for r in rows) for c in range(5)]
        lines = ["  ".join(v.ljust(w) for v, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        return "\n".join(head + lines)

    def __repr__(self) -> str:
        facts = f"{self.steps} steps, nfe={self.nfe}, carried={self.carried}"
        return f"<Plan {self.solver} on {self.process}, {facts}>"


class Coefficients(NamedTuple):
    """What `Plan.coefficients` gives: rows of numbers for each stage, and the time of each call."""

    tables: list[Any]
    times: list[Any]


@dataclass(frozen=True)
class Tape:
    """Every decision that was taken on a value: what it takes to make the same plan over other numbers."""

    recorder: tuple[bool, ...]
    compiler: tuple[Any, ...]
    natural: bool


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a plan; the key of its cache."""

    solver: Solver
    process: Process
    times: tuple[float, ...]
    predicts: str
    hooks: tuple[Hook, ...] = field(default=(), compare=False)
    trajectory: bool = False
    hook_keys: tuple[Any, ...] = field(init=False, repr=False)  # hooks that compile alike share stages

    def __post_init__(self) -> None:
        object.__setattr__(self, "hook_keys", tuple(h.plan_key() for h in self.hooks))

    def record(
        self, number: Callable[[float], Any] = lambda t: Real(t), exact: bool = True,
        times: Sequence[Any] | None = None, answers: Sequence[bool] | None = None,
    ) -> Recorder:
        """Run the formula over nodes made of `number`s (or of `times` as they are)."""
        with precision():
            nodes = [self.process.node(t) for t in (times if times is not None else map(number, self.times))]
            make: Any = Recorder
            if self.process.kind == "linear":
                make = partial(LinearRecorder, registers=self.process.registers)  # type: ignore[attr-defined]
            rec = make(self.predicts, self.hooks, wanted=self.solver.predicts, exact=exact,
                       emitting=self.trajectory, answers=answers)
            self.solver.record(rec, nodes, self.route(nodes))
        return rec

    def route(self, nodes: Sequence[Any]) -> Sequence[int] | None:
        routes = [r for r in (h.route(nodes) for h in self.hooks) if r is not None]
        if len(routes) > 1:
            raise ValueError("only one hook may give a route")
        if not routes:
            return None
        visits = list(routes[0])
        end = len(nodes) - 1
        if not visits or visits[0] != 0 or visits[-1] != end or any(not 0 <= v <= end for v in visits):
            raise ValueError(f"a route must lead from node 0 to node {end} over those between, got {visits}")
        return visits


def plan(
    solver: str | Solver,
    process: Process,
    times: Any,
    *,
    predicts: str = "noise",
    guidance: Hook | None = None,
    hooks: Sequence[Hook] = (),
    **options: Any,
) -> Plan:
    """Compile a solver for a process and its times.

    solver    a key of `fd.solvers.names()` with its options as keywords, or a Solver
    times     strictly decreasing float64 sequence, e.g. from `fd.grid`; the last may be the process's zero
    predicts  what the network gives: "noise" | "data" | "velocity" | "flow" | "score" (or "edm", raw)
    hooks     in the order in which they act; `guidance` comes first

    Raises ValueError for unknown keys and options, times out of order or range, and conversions that do not
    exist at a node; TypeError for arguments of the wrong kind.
    """
    if isinstance(solver, Solver):
        check_options(f"solver {solver.key!r} (already made)", options, ())
    else:
        solver = solvers.make(solver, **options)
    if solver.adaptive:
        raise ValueError(
            f"{solver.describe()} chooses its steps while it runs, so there is no fixed plan of it; "
            f"use fd.sample(denoiser, shape, solver={solver.key!r}, ...)"
        )
    if not isinstance(process, Process):
        raise TypeError(f"process must be a Process (see fd.processes), got {type(process).__name__}")
    check_kind(solver, process)
    check_prediction(predicts)
    if isinstance(hooks, Hook):
        raise TypeError(f"hooks must be a list of Hooks, got one {type(hooks).__name__}")
    hooks = ((guidance,) if guidance is not None else ()) + tuple(hooks)
    for h in hooks:
        if not isinstance(h, Hook):
            raise TypeError(f"hooks must be Hooks, got {type(h).__name__}")
    if isinstance(process, LinearProcess):
        process.check(predicts, hooks)
    times = check_times(times, process)
    return compiled(Recipe(solver, process, tuple(times.tolist()), predicts, hooks))


def compiled(recipe: Recipe) -> Plan:
    """The plan of a recipe: from the cache where one with the same key was compiled before."""
    try:
        made = _compiled(recipe)
    except TypeError as e:
        if "unhashable" not in str(e):
            raise
        return _compiled.__wrapped__(recipe)
    same = len(made.hooks) == len(recipe.hooks) and all(map(is_, made.hooks, recipe.hooks))
    return made if same else replace(made, hooks=recipe.hooks, recipe=recipe)


def _compile(recipe: Recipe, natural: bool | None = None) -> tuple[Program, Tape]:
    """natural: see compile_record; None: what is cheaper."""
    return _compile_record(recipe.record(), natural)


def _compile_record(rec: Recorder, natural: bool | None) -> tuple[Program, Tape]:
    program = compile_record(rec, natural=natural is not False)
    if natural is None and any(k == NOISE for k in rec.kinds):
        # a row may hold its draw, or leave it to be drawn again
        other = compile_record(rec, natural=False)
        if other.traffic() < program.traffic():
            program, natural = other, False
    return program, Tape(tuple(rec.asked), tuple(program.tape), natural is not False)


@lru_cache(maxsize=256)
def _compiled(recipe: Recipe) -> Plan:
    rec = recipe.record()
    program, tape = _compile_record(rec, None)
    solver = recipe.solver
    order = int(-(-solver.order // 1)) if isinstance(solver.order, (int, float)) else 1
    times = frozen(np.array(recipe.times))
    empty = Plan(solver.describe(), repr(recipe.process), recipe.predicts, order, times, (), (), 0,
                 recipe.hooks, recipe, tape, _planes(recipe, rec, tape))
    made = _with_stages(empty, program)
    for i, s in enumerate(made.stages):
        if not np.isfinite(s.coeffs).all():
            where = f"step {s.call.step} (t={s.call.t:g})" if s.call else "the last step"
            raise ValueError(f"{solver.key}: a coefficient of stage {i}, before {where}, is not finite; are "
                             "two times too close, or is alpha or sigma 0 where the formula divides by it?")
    return made


def _planes(recipe: Recipe, rec: Recorder, tape: Tape) -> Planes | None:
    """The tables of every group of elements, by the decisions that were taken for a typical one."""
    groups = 1 if rec.statistics is None else prod(rec.statistics.shape)
    if rec.statistics is None or groups == 1:
        return None
    again = recipe.record(times=recipe.times, exact=False, answers=tape.recorder)
    program = compile_record(again, tape.compiler, natural=tape.natural, each=True)
    stages, _, _ = assemble(program, lambda v: v)
    tables = []
    for stage in stages:
        table = np.zeros((groups, len(stage.outputs), len(stage.inputs) + len(stage.draws)))
        for j, row in enumerate(stage.exact):
            for i, v in enumerate(row):
                table[:, j, i] = v
        tables.append(frozen(table))
    if not all(np.isfinite(table).all() for table in tables):
        raise ValueError(f"{recipe.solver.key}: no plan fits all elements alike; are two times close? "
                         "Some have l of exactly 1, others not, which none with a trajectory takes: "
                         "move it a little, or take statistics of larger groups of elements")
    return Planes(rec.statistics.shape, tuple(tables))


def _with_stages(plan: Plan, program: Program) -> Plan:
    stages, kinds, out = assemble(program)
    return replace(plan, stages=tuple(stages), kinds=tuple(kinds), out=out)


def _list(items: Iterable[Any]) -> str:
    return " ".join(map(str, items)) or "-"
