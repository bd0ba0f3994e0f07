"""Legs: a Plan cut at its network calls, so that a caller's loop may run it.

    leg k   from the output of call k and the sample that the caller has, to the sample it shows the network
            at call k + 1

The caller's sample is x / alpha or x by its own custom, and the network's argument is made of it by the
caller; so a plan's argument of call k is sample / kappa_k, and the factors go into the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.math import plain
from ...core.number import ZERO, precision
from ...core.plan import INPUTS, Plan, Recipe, compiled
from ...core.predict import convert, input_scale
from ...core.process import Process
from ...core.recorder import INPUT, NAME, NOISE
from ...noise.streams import column_stream
from ...ops._checks import MAX_OUT
from ...solvers.lcm import LCM
from ...solvers.tcd import TCD

HOOK_ARGS = 4
NEXT, DATA, JUMP = range(3)  # what `step` returns besides the next sample: nothing, x0, what x0 leads to
Row = dict[int, Any]
Key = tuple[int, int]  # step and column of a draw


@dataclass(frozen=True)
class Pass:
    """One linear step: registers read and written, the table (outputs, inputs + draws), and the draws; or a
    call of `act` ("hook", its number; "call:...", with t and params) on registers. over: for each output an
    input that is read here for the last time and in whose place it may be written, or -1."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    table: np.ndarray | None = None
    draws: tuple[Key, ...] = ()
    spans: tuple[Any, ...] = ()
    act: tuple[str, int, float, tuple[float, ...]] | None = None
    over: tuple[int, ...] = ()

    @cached_property
    def counters(self) -> list[int]:
        return [d for d, _ in self.draws]

    @cached_property
    def streams(self) -> list[int]:
        return [column_stream(c) for _, c in self.draws]


@dataclass(frozen=True)
class Leg:
    """samples, output, further: the registers that take what the caller gives (further: -1, or a second half
    of the network's channels). result: of the next sample. x0: weights of sample and output in the data
    prediction, or the register it lies in. new, last: draws first and last read here. held: earlier outputs
    of the network that are still to be read; drop: registers that are not, after this leg. opens: a step
    begins with it. spends: it takes a draw of a generator even if it does not need one."""

    t: float
    step: int
    samples: tuple[int, ...]
    output: int
    further: int
    passes: tuple[Pass, ...]
    result: int
    x0: tuple[float, float] | int
    new: tuple[Key, ...] = ()
    last: tuple[Key, ...] = ()
    held: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()
    opens: bool = False
    spends: bool = False


class Legs:
    """All legs of a recipe. Tables on devices are made once and shared by every run.

    scaled  the caller's sample is x / alpha
    sign    -1: the network's output is the negative of a prediction
    spends  every leg above this time takes a draw of a generator; None: those that need one
    early   the solver asks its network at the end of a step, so that its own state is not the sample
    extra   what a step returns besides the next sample: NEXT, DATA, JUMP
    """

    def __init__(
        self, recipe: Recipe, scaled: bool, sign: float, spends: float | None, early: bool, extra: int
    ):
        self.recipe, self.process, self.predicts = recipe, recipe.process, recipe.predicts
        self.solver, self.hooks = recipe.solver.describe(), recipe.hooks
        self.units = units = Units(self.process, self.predicts, scaled, sign)
        made = None if early else of_record(recipe, units)
        self.early, self.extra = early, extra
        if made is None:
            made = of_plan(self.plan, units)
        self.legs = finished(made, spends)
        # the network's input over the caller's sample
        self.shown = [1 / units.seen(self.process.node(leg.t)) for leg in self.legs]
        self._tables: dict[tuple[torch.dtype, torch.device], tuple[list[list[Tensor | None]], ...]] = {}
        self._rows: dict[Any, Tensor] = {}

    @cached_property
    def plan(self) -> Plan:
        return compiled(self.recipe)

    def tables(
        self, dtype: torch.dtype, device: torch.device, both: bool = False
    ) -> list[list[Tensor | None]]:
        """By leg and pass, rounded once. both: where a pass reads what the second result is made of, its
        table has one row more."""
        found = self._tables.get((dtype, device))
        if found is None:
            alone = [
                [None if p.table is None else _at(p.table, dtype, device) for p in g.passes]
                for g in self.legs
            ]
            joined = [self._joined(g, some, dtype, device) for g, some in zip(self.legs, alone, strict=True)]
            found = self._tables[dtype, device] = alone, joined
        return found[both]

    def _joined(
        self, leg: Leg, tables: list[Tensor | None], dtype: torch.dtype, device: torch.device
    ) -> list[Tensor | None]:
        if self.extra == NEXT or isinstance(leg.x0, int):
            return tables
        for n, p in reversed([*enumerate(leg.passes)]):
            A, wanted = p.table, (leg.samples[0], leg.output)
            if A is None or len(A) == MAX_OUT or not {*wanted} <= {*p.inputs}:
                continue
            row = np.zeros((1, A.shape[1]))
            row[0, [p.inputs.index(r) for r in wanted]] = self.second(leg, self.extra == JUMP)
            return [*tables[:n], _at(np.concatenate([A, row]), dtype, device), *tables[n + 1 :]]
        return tables

    def second(self, leg: Leg, jump: bool) -> tuple[float, float]:
        """Weights of the sample and of the output (or of the x0 that a hook made) in the data prediction, or
        in what a distilled network jumps to."""
        a, b = leg.x0 if isinstance(leg.x0, tuple) else (0.0, 1.0)
        weights = self.jump(leg) if jump else None
        return (a, b) if weights is None else (weights[0] + weights[1] * a, weights[1] * b)

    def row(self, weights: tuple[float, float], dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.table((weights,), dtype, device)

    def table(self, rows: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        key = rows, dtype, device
        if key not in self._rows:
            self._rows[key] = torch.tensor(rows, dtype=dtype).to(device)
        return self._rows[key]

    def jump(self, leg: Leg) -> tuple[float, float] | None:
        """Weights of the sample and of x0 in what a distilled network jumps to; None: x0 itself."""
        solver: Any = self.recipe.solver
        inner = getattr(solver, "inner", solver)
        if not isinstance(inner, (LCM, TCD)):
            return None
        s = self.process.node(leg.t)
        if isinstance(inner, LCM):
            if not inner.boundary:
                return None
            n, d = inner.timestep_scaling * (inner.train_steps * leg.t - 1), inner.sigma_data
            return d * d / (n * n + d * d), n / (n * n + d * d) ** 0.5
        u = inner.beyond(self.process.node(float(solver.ends[leg.step])))  # type: ignore[union-attr]
        a, b = float(u.alpha), float(u.sigma) / float(s.sigma)
        return b, a - b * float(s.alpha)

    def stacked(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(legs, 1, 2 or 3): of a memoryless plan the weights of sample, output and draw."""
        key = "stacked", dtype, device
        if key not in self._rows:
            wide = 3 if any(leg.passes[0].draws for leg in self.legs) else 2
            table = np.zeros((len(self.legs), 1, wide))
            for i, leg in enumerate(self.legs):
                p = leg.passes[0]
                assert p.table is not None
                for c, r in enumerate(p.inputs):
                    table[i, 0, 0 if r in leg.samples else 1] = p.table[0, c]
                if p.draws:
                    table[i, 0, 2] = p.table[0, -1]
            self._rows[key] = torch.from_numpy(table).to(dtype).to(device)
        return self._rows[key]

    @cached_property
    def memoryless(self) -> bool:
        """Every leg is one pass of what the caller gives."""
        return all(
            len(leg.passes) == 1
            and leg.passes[0].table is not None
            and len(leg.passes[0].outputs) == 1
            and set(leg.passes[0].inputs) <= {*leg.samples, leg.output}
            for leg in self.legs
        )


@lru_cache(maxsize=128)
def legs_of(recipe: Recipe, scaled: bool, sign: float, spends: float | None, early: bool, extra: int) -> Legs:
    return Legs(recipe, scaled, sign, spends, early, extra)


@dataclass(frozen=True)
class Units:
    """What the caller's tensors are worth."""

    process: Process
    predicts: str
    scaled: bool
    sign: float

    def x(self, node: Any) -> float:
        """sample / x"""
        return 1 / float(node.alpha) if self.scaled else 1.0

    def argument(self, node: Any) -> float:
        """sample / (the plan's argument of the network)"""
        return self.x(node) / float(input_scale(self.predicts, node))

    def seen(self, node: Any) -> float:
        """sample / (what the network is shown)"""
        return self.argument(node) if self.predicts == "edm" else self.x(node)

    def x0(self, node: Any) -> tuple[float, float]:
        p, q = (float(v) for v in convert(self.predicts, "data", node))
        return p / self.x(node), q * self.sign


def of_plan(plan: Plan, units: Units) -> list[Leg]:
    """The stages of a compiled plan, which carries the fewest tensors."""
    stages, process = plan.stages, units.process
    nets = [k for k, s in enumerate(stages) if s.call is not None and s.call.kind == "net"]
    nodes = [process.node(stages[k].call.t) for k in nets]  # type: ignore[union-attr]
    assert plan.recipe is not None
    end = process.node(end_of(plan.recipe))
    unit = dict.fromkeys(range(len(plan.kinds)), 1.0)
    made: list[Leg] = []
    if nets[0] != 0 or stages[0].draws or any(stages[0].inputs):
        raise ValueError(CHURNED.format(plan.solver))
    for i, k in enumerate(nets):
        call = stages[k].call
        assert call is not None
        arg, raw = call.args[0], call.outs[0]
        samples = (arg, 0) if i == 0 and arg else (arg,)
        unit[0] = units.x(nodes[0]) if i == 0 else unit[0]
        unit[arg], unit[raw] = units.argument(nodes[i]), units.sign
        passes: list[Pass] = []
        bent, j, out, factor = -1, k + 1, plan.out, units.x(end)
        while True:
            s, c = stages[j], stages[j].call
            stop = c is None or c.kind == "net"
            if c is not None and c.kind == "net":
                out, factor = c.args[0], units.argument(nodes[i + 1])
            if s.outputs:
                rows = s.coeffs.copy()
                for n, r in enumerate(s.inputs):
                    rows[:, n] /= unit[r]
                for row, r in enumerate(s.outputs):
                    unit[r] = factor if stop and r == out else 1.0
                    rows[row] *= unit[r]
                passes.append(Pass(s.inputs, s.outputs, rows, s.draws, s.spans))
            if stop:
                break
            assert c is not None
            kind = c.kind if c.kind.startswith("call:") else "hook"
            passes.append(Pass(c.args, c.outs, act=(kind, c.hook, c.t, c.params)))
            unit.update(dict.fromkeys(c.outs, 1.0))
            bent = c.outs[0] if c.kind == "predict" else bent
            j += 1
        if not any(out in p.outputs for p in passes if p.table is not None):
            passes.append(Pass((out,), (out,), np.array([[factor / unit[out]]])))
            unit[out] = factor
        x0 = bent if bent >= 0 else units.x0(nodes[i])
        further = call.outs[1] if len(call.outs) > 1 else -1
        made.append(Leg(call.t, call.step, samples, raw, further, tuple(passes), out, x0))
    return made


def end_of(recipe: Recipe) -> float:
    """The time at which the last step ends; it may leave the last node out."""
    return float((getattr(recipe.solver, "ends", ()) or recipe.times)[-1])


CHURNED = "{} changes x before a network call, which no scheduler can; set churn=0"


def of_record(recipe: Recipe, units: Units) -> list[Leg] | None:
    """Straight from the formula: whatever the caller hands over as a sample is taken as it is. What later
    legs want of an earlier one is kept as one tensor where it is one combination, else as the tensors they
    were made of. None where a leg would read too many."""
    rec = recipe.record()
    process, calls = recipe.process, rec.calls
    nets = [c for c, call in enumerate(calls) if call.kind == "net"]
    where: dict[int, Row] = {}
    for segment in rec.segments:
        where.update(segment)
    result = len(rec.kinds)
    where[result] = rec.x.c
    # the atom that the caller's sample is: the state, where the argument is nothing but a multiple of it
    samples, worth = [], []
    for c in nets:
        arg, node = calls[c].args[0], process.node(plain(calls[c].node.t))
        (one, *more) = where[arg].items()
        if more or rec.kinds[one[0]] not in (NAME, INPUT):
            samples.append(arg)
            worth.append(units.argument(node))
        else:
            samples.append(one[0])
            worth.append(units.x(node))
    if samples[0] != rec.input or calls[0].kind != "net":
        raise ValueError(CHURNED.format(recipe.solver.describe()))
    opaque = {a: i for i, a in enumerate(samples)}

    def expand(row: Row, top: int = -1) -> Row:
        """Over samples, outputs and draws; `top` is an atom to be opened though it is a sample."""
        found: Row = {}
        todo = list(row.items())
        while todo:
            a, v = todo.pop()
            if rec.kinds[a] == NAME and (a not in opaque or a == top) if a < result else True:
                todo += [(b, v * w) for b, w in where[a].items()]
            else:
                found[a] = found[a] + v if a in found else v
        scale = max((abs(v) for v in found.values()), default=Decimal(1))
        return {a: v for a, v in found.items() if abs(v) > ZERO * scale}

    with precision():
        owner: dict[int, int] = dict(opaque)  # atom -> leg
        targets: list[list[tuple[Any, list[Row]]]] = []  # of a leg: (call or None, rows)
        for i, c in enumerate(nets):
            stop = nets[i + 1] if i + 1 < len(nets) else len(calls)
            owner.update(dict.fromkeys(calls[c].outs, i))
            here: list[tuple[Any, list[Row]]] = []
            for k in range(c + 1, stop):
                here.append((calls[k], [expand({a: Decimal(1)}) for a in calls[k].args[:HOOK_ARGS]]))
                owner.update(dict.fromkeys(calls[k].outs, i))
            goal = samples[i + 1] if i + 1 < len(nets) else result
            here.append((None, [expand(where[goal])]))
            targets.append(here)
        wanted: list[list[Row]] = [[] for _ in nets]  # of a leg's atoms, by later legs
        for i, here in enumerate(targets):
            for _, rows in here:
                for row in rows:
                    for j in {owner[a] for a in row if a in owner} - {i}:
                        if j > i:
                            raise ValueError(CHURNED.format(recipe.solver.describe()))
                        wanted[j].append({a: v for a, v in row.items() if owner.get(a) == j})
        kept = {j: rows[0] for j, rows in enumerate(wanted) if rows and len(rows[0]) > 1 and _parallel(rows)}
        # registers: every atom has its own number, a kept combination those after them
        made: list[Leg] = []
        for i, (c, here) in enumerate(zip(nets, targets, strict=True)):
            call, node = calls[c], process.node(plain(calls[c].node.t))
            unit = {samples[i]: worth[i], call.outs[0]: units.sign}
            unit |= {samples[j]: worth[j] for j in range(i)} | {
                calls[nets[j]].outs[0]: units.sign for j in range(i)
            }
            passes, bent = [], -1
            for k, (inner, rows) in enumerate(here):
                folded = []
                for row in rows:
                    own: Row = {}
                    for a, v in row.items():
                        j = owner.get(a, i)
                        if j == i or j not in kept:
                            own[a] = own.get(a, Decimal(0)) + v / Decimal(unit.get(a, 1.0))
                    for j in {owner[a] for a in row if a in owner} & kept.keys() - {i}:
                        a = next(a for a in kept[j] if a in row)
                        own[result + 1 + j] = row[a] / kept[j][a]
                    folded.append(own)
                if inner is None:
                    after = i + 1 < len(nets)
                    end = process.node(end_of(recipe))
                    outs = [samples[i + 1] if after else result]
                    factor = Decimal(worth[i + 1] if after else units.x(end))
                    folded[0] = {a: v * factor for a, v in folded[0].items()}
                    if i in kept:
                        outs.append(result + 1 + i)
                        folded.append({a: v / Decimal(unit.get(a, 1.0)) for a, v in kept[i].items()})
                else:
                    outs = [result + 1 + len(nets) + 4 * k + n for n in range(len(folded))]
                passes.append(_pass(rec, outs, folded, samples[i], call.outs[0]))
                if inner is not None:
                    kind = inner.kind if inner.kind.startswith("call:") else "hook"
                    act = (kind, inner.hook, plain(inner.node.t), inner.params)
                    passes.append(Pass(tuple(outs), tuple(inner.outs), act=act))
                    bent = inner.outs[0] if inner.kind == "predict" else bent
            x0 = bent if bent >= 0 else units.x0(node)
            further = call.outs[1] if len(call.outs) > 1 else -1
            goal = samples[i + 1] if i + 1 < len(nets) else result
            made.append(
                Leg(
                    plain(call.node.t),
                    call.step,
                    (samples[i],),
                    call.outs[0],
                    further,
                    tuple(passes),
                    goal,
                    x0,
                )
            )
    return None if any(len(p.inputs) > INPUTS for leg in made for p in leg.passes) else made


def _pass(rec: Any, outs: Sequence[int], rows: Sequence[Row], sample: int, output: int) -> Pass:
    """A pass with its columns in order: sample, output, then what is older, newest first; draws."""
    atoms = {a for row in rows for a in row}
    draws = sorted(
        (a for a in atoms if a < len(rec.kinds) and rec.kinds[a] == NOISE), key=lambda a: rec.info[a][:2]
    )
    rest = sorted(atoms - {*draws, sample, output}, reverse=True)
    columns = [a for a in (sample, output) if a in atoms] + rest or [sample]
    table = np.array([[float(row.get(a, 0)) for a in (*columns, *draws)] for row in rows])
    if not np.isfinite(table).all():
        raise ValueError("a coefficient is not finite; are two times too close together?")
    keys = tuple(rec.info[a][:2] for a in draws)
    return Pass(tuple(columns), tuple(outs), table, keys, tuple(rec.info[a][3] for a in draws))


def _parallel(rows: Sequence[Row]) -> bool:
    """Whether all are multiples of the first."""
    first = rows[0]
    top = max(first, key=lambda a: abs(first[a]))
    for row in rows[1:]:
        if row.keys() != first.keys():
            return False
        w = row[top] / first[top]
        if any(abs(row[a] - w * first[a]) > Decimal("1e-30") * abs(w * first[top]) for a in first):
            return False
    return True


def finished(made: Sequence[Leg], spends: float | None) -> list[Leg]:
    """The legs with what only the whole run tells."""
    raws = {leg.output for leg in made}
    reads: dict[Key, int] = {}
    alive: list[set[int]] = [set()]  # registers read after a leg before they are written, last leg first
    for i, leg in reversed([*enumerate(made)]):
        later = set(alive[-1])
        for p in reversed(leg.passes):
            later = (later - set(p.outputs)) | set(p.inputs)
            for d in p.draws:
                reads.setdefault(d, i)
        alive.append(later - {*leg.samples, leg.output, leg.further})
    alive.reverse()
    # a hook may hand back what it was given
    lent = {r for leg in made for p in leg.passes if p.act is not None for r in p.inputs}
    seen: set[Key] = set()
    legs, steps = [], set()
    for i, leg in enumerate(made):
        here = list(dict.fromkeys(d for p in leg.passes for d in p.draws))
        used = {
            *leg.samples,
            leg.output,
            leg.further,
            *(r for p in leg.passes for r in (*p.inputs, *p.outputs)),
        }
        legs.append(
            replace(
                leg,
                passes=_written_over(leg, alive[i + 1], lent),
                new=tuple(d for d in here if d not in seen),
                last=tuple(d for d in here if reads[d] == i),
                held=tuple(sorted(alive[i] & raws)),
                drop=tuple(sorted((used | alive[i]) - alive[i + 1])),
                opens=leg.step not in steps,
                spends=spends is not None and leg.t > spends,
            )
        )
        seen.update(here)
        steps.add(leg.step)
    return legs


def _at(A: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(A, dtype=dtype).to(device)


def _written_over(leg: Leg, after: set[int], lent: set[int]) -> tuple[Pass, ...]:
    """The passes with what each may write over: what it reads and nothing reads later."""
    later, made = after | lent | {leg.output, leg.further, *leg.samples}, []
    for p in reversed(leg.passes):
        if p.table is None:
            made.append(p)
        else:
            last = [r for r in p.inputs if r not in later]
            own = [r for r in p.outputs if r != leg.result]
            over = dict(zip(own, last, strict=False))
            made.append(replace(p, over=tuple(over.get(r, -1) for r in p.outputs)))
        later = later | set(p.inputs)
    return tuple(reversed(made))
