"""Stages: what a plan is made of, and how a compiled program is given its registers."""
from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np

from .compile import Linear, Program
from .math import plain
from .recorder import CONST, NOISE, Call, Recorder, Span

OUTPUTS, INPUTS, DRAWS = 4, 12, 4  # what one launch of the kernel takes


@dataclass(frozen=True)
class PlanCall:
    """A run of the network (kind "net"), of hook number `hook` at its point (kind), or of the operator
    "call:name" with its `params`."""

    kind: str
    t: float
    step: int
    args: tuple[int, ...]
    outs: tuple[int, ...]
    branches: tuple[int, ...] = (0,)
    hook: int = -1
    params: tuple[float, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One pass: reads `inputs`, writes `outputs`, draws `draws` = (step, column); then the call.

    spans: of each draw (time from, time to, clock), what it is the Brownian increment of; None: of nothing
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    exact: tuple[tuple[Decimal, ...], ...]
    draws: tuple[tuple[int, int], ...] = ()
    call: PlanCall | None = None
    carried: tuple[int, ...] = ()
    rank: int = 0
    drop: tuple[int, ...] = ()  # registers that nobody reads after this stage and its call
    emits: tuple[tuple[str, int, int], ...] = ()  # (what, step, register)
    spans: tuple[Span | None, ...] = ()

    @cached_property
    def coeffs(self) -> np.ndarray:
        table = np.array([[float(v) for v in row] for row in self.exact], dtype=np.float64)
        return frozen(table.reshape(len(self.outputs), len(self.inputs) + len(self.draws)))

    @property
    def alive(self) -> int:
        return len({*self.carried, *(self.call.args if self.call else ())})


@dataclass(frozen=True, eq=False)
class Planes:
    """Coefficients for each group of elements: tables (groups, outputs, inputs + draws), one per stage.

    shape: of the groups, () or a sample's axes, each of its size or 1
    """

    shape: tuple[int, ...]
    tables: tuple[np.ndarray, ...]

    def to_json(self) -> dict[str, Any]:
        packed = [base64.b64encode(t.astype("<f8").tobytes()).decode() for t in self.tables]
        return {"shape": self.shape, "sizes": [t.shape for t in self.tables], "tables": packed}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Planes:
        pairs = zip(data["tables"], data["sizes"], strict=True)
        tables = (np.frombuffer(base64.b64decode(t), "<f8").reshape(size) for t, size in pairs)
        return Planes(tuple(data["shape"]), tuple(map(frozen, tables)))


def assemble(
    program: Program, number: Callable[[Any], Any] | None = None
) -> tuple[list[Stage], list[str], int]:
    """The program's stages on registers, the registers' kinds, and the one of the result.

    A register is taken again when its tensor has been read for the last time. number: what coefficients
    become, by default Decimals.
    """
    stages, never = program.stages, 2 * len(program.stages) + 2
    last: dict[int, int] = {program.input: never}  # tensor -> tick of its last use
    for k, s in enumerate(stages):  # stage k's launch is tick 2k, its call 2k + 1
        for a in (a for row in s.rows.values() for a in row):
            last[a] = max(last.get(a, 0), 2 * k)
        for a in s.args:
            last[a] = max(last.get(a, 0), 2 * k + 1)
    emitted = {t for s in stages for t in s.emits.values()}
    last.update(dict.fromkeys((*emitted, program.out), never))
    kinds, owner = ["input"], [program.input]
    for name, a in program.given.items():
        kinds.append(f"const:{name}")
        owner.append(a)
    register = {a: r for r, a in enumerate(owner)}
    constants = {a: n for a, n in program.atoms.items() if program.kinds[a] == CONST}

    def take(tensor: int, kind: str, tick: int) -> int:
        """A register of this kind whose tensor was last read before `tick`, or a new one."""
        for r, k in enumerate(kinds):
            if k == kind and kind in ("state", "raw") and last.get(owner[r], -1) < tick:
                owner[r] = tensor
                break
        else:
            r = len(kinds)
            kinds.append(kind)
            owner.append(tensor)
        register[tensor] = r
        return r

    def columns(s: Linear) -> tuple[list[int], list[int]]:
        """Inputs in the one order that every backend sums in (state and history newest first, raw outputs,
        constants), and draws."""
        atoms = {a for row in s.rows.values() for a in row}
        draws = [a for a in atoms if program.kinds.get(a) == NOISE]
        consts = sorted(a for a in atoms if a in constants)
        raws = sorted((a for a in atoms if a in program.raws), reverse=True)
        state = sorted((a for a in atoms if a not in program.kinds and a not in program.raws), reverse=True)
        return [*state, *raws, *consts], sorted(draws, key=lambda a: program.atoms[a][:2])

    def call_of(s: Linear, tick: int) -> PlanCall | None:
        c = s.call
        if c is None:
            return None
        args = tuple(register[t] for t in s.args)
        outs = tuple(take(t, "raw", tick) for t in s.outs)
        return PlanCall(c.kind, plain(c.node.t), c.step, args, outs, tuple(c.branches), c.hook, c.params)

    done = []
    for k, s in enumerate(stages):
        inputs, draws = columns(s)
        for a in inputs:
            if a in constants and a not in register:
                take(a, f"const:{constants[a]}", 0)
        ins = tuple(register[a] for a in inputs)
        # one launch reads each element before it writes it, so a row may take the place of an input read for
        # the last time
        fits = len(s.rows) <= OUTPUTS and len(inputs) <= INPUTS and len(draws) <= DRAWS
        outs = tuple(take(t, "emit" if t in emitted else "state", 2 * k + fits) for t in s.rows)
        table = [[row.get(a, 0) for a in (*inputs, *draws)] for row in s.rows.values()]
        exact = tuple(tuple(map(number or _decimal, row)) for row in table)
        counters = tuple(program.atoms[a][:2] for a in draws)
        spans = tuple(program.atoms[a][3] for a in draws)
        call = call_of(s, 2 * k + 1)
        raws = [r for r, kind in enumerate(kinds) if kind == "raw"]
        drop = tuple(r for r in raws if last.get(owner[r], -1) in (2 * k, 2 * k - 1))
        emits = tuple((name, step, register[t]) for (name, step), t in s.emits.items())
        carried = tuple(register[t] for t in s.carried)
        done.append(Stage(ins, outs, exact, counters, call, carried, s.rank, drop, emits, spans))
    return done, kinds, register[program.out]


def adjoint(stages: Iterable[Stage], kinds: Iterable[str], out: int) -> Recorder:
    """A recording of the adjoint: stages in reverse order, each with its table transposed."""
    kinds = list(kinds)
    rec = Recorder("data", exact=True)
    bar: dict[int, Any] = {out: rec.x}
    for s in reversed(list(stages)):
        if s.call is not None:
            c = s.call
            seeds = [rec._name(bar.pop(r)) if r in bar else rec._name(rec.x * 0) for r in c.outs]
            node: Any = _At(c.t)
            back = rec._call(Call(c.kind, node, c.step, seeds, [], c.hook, c.branches, c.params), len(c.args))
            for r, g in zip(c.args, back, strict=True):
                bar[r] = bar[r] + g if r in bar else g
        given = {r: bar.pop(r) for r in s.outputs if r in bar}
        for j, r in enumerate(s.outputs):
            if r in given:
                for i, source in enumerate(s.inputs):
                    if s.exact[j][i] != 0 and not kinds[source].startswith("const"):
                        g = given[r] * s.exact[j][i]
                        bar[source] = bar[source] + g if source in bar else g
        bar = {r: f if kinds[r] == "raw" else rec.keep(f) for r, f in bar.items()}
    rec.x = bar[0]
    return rec


@dataclass(frozen=True)
class _At:
    """All that a recorded call wants of a node."""

    t: float


def frozen(a: np.ndarray) -> np.ndarray:
    a.setflags(write=False)
    return a


def _decimal(v: Any) -> Decimal:
    return v if isinstance(v, Decimal) else Decimal(float(v))
