"""The compiler: from what a formula recorded to one linear stage per call, carrying the fewest tensors
possible.

Write every later call's argument as a row over what exists when call k is made. The rank of those rows, call
k's own argument among them, bounds from below what any implementation must have in memory across the call
(minimal realisation of a linear system). The compiler meets it:

    backward  needed[k] = a basis of what the segments after k want from the past, over the atoms of that time
    forward   choose a basis of needed[k] among tensors that are cheap to have, write it, and restate
    needed[k] over it

A basis is made of natural tensors: the state, converted predictions, raw outputs that lie in memory anyway.
Noise and constants never count: a draw is made again from its counter. Ranks are decided in 60 digits
(`fastdiff.core.number`). Every look at a value is written on a tape, so that the same choice can be replayed
over trainable scalars and arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from .number import ZERO, precision
from .recorder import CONST, NOISE, Call, Recorder

Row = dict[int, Any]  # atom or tensor -> coefficient

DRAW_PRICE = 3.0  # a normal costs about what moving three float32 numbers costs (bench/noise.py)


class Special(ArithmeticError):
    """A tape does not fit other numbers: something vanishes for the one and not for the other."""


class Tape:
    """Answers of all looks at values: written once in 60 digits, read back for other numbers.

    verify: look all the same, in 60 digits, and raise Special where the answer would be another.
    each: numbers are arrays over elements that may be unlike the one for which the tape was written.
    """

    def __init__(
        self, answers: Iterable[Any] | None, zero: Decimal, one: Any, verify: bool = False, each: bool = False
    ):
        self.log: list[Any] = []
        self.each = each
        self.zero, self.one = zero, one
        self.looks = answers is None or verify
        self._replay: Iterator[Any] | None = None if answers is None else iter(answers)

    def alive(self, v: Any, scale: Any) -> bool:
        answer = abs(v) > self.zero * scale if self.looks else None
        if self._replay is not None:
            given = next(self._replay, None)
            if self.looks and given != answer:
                raise Special("a coefficient vanishes, or is 1, at some of the times only")
            answer = given
        self.log.append(answer)
        return answer  # type: ignore[return-value]

    def choose(self, decide: Callable[[], Any]) -> Any:
        answer = next(self._replay) if self._replay is not None else decide()
        self.log.append(answer)
        return answer

    def clean(self, row: Row, scale: Any) -> Row:
        return {a: v for a, v in row.items() if self.alive(v, scale)}

    def nonzero(self, row: Row) -> Row:
        top = self.scale([row])
        return {a: v for a, v in row.items() if abs(v) > self.zero * top}

    def scale(self, rows: Iterable[Row]) -> Any:
        return 0 if not self.looks else max((abs(v) for row in rows for v in row.values()), default=1)


class Span:
    """A row space by elimination; remembers how each reduced row is made of the added ones."""

    def __init__(self, tape: Tape, rows: Iterable[Row] = ()):
        self.tape, self.size = tape, 0
        self.rows: list[tuple[int, Row, Row]] = []  # pivot, row with 1 there, combination of added rows
        self._added = 0
        self.given: dict[int, Row] = {}  # the added rows as they came, of a tape for each element
        for row in rows:
            self.add(row)

    def _reduce(self, row: Row, combo: Row) -> tuple[Row, Row]:
        if not row:
            return row, combo
        row, scale, touched = dict(row), self.tape.scale([row]), False
        for pivot, base, made in self.rows:
            w = row.pop(pivot, None)
            if w is None:
                continue
            touched = True
            for a, v in base.items():
                if a != pivot:
                    row[a] = row[a] - w * v if a in row else -w * v
            for i, v in made.items():
                combo[i] = combo[i] - w * v if i in combo else -w * v
        return (self.tape.clean(row, scale) if touched else row), combo

    def add(self, row: Row) -> bool:
        """True if the row is new."""
        i, given = self._added, row
        self._added += 1
        row, combo = self._reduce(row, {i: self.tape.one})
        if not row:
            return False
        pivot = self.tape.choose(lambda: max(row, key=lambda a: abs(row[a])))
        w = row[pivot]
        if self.tape.each:  # some elements may have a 0 there: see `solve`
            self.given[i] = given
            w = np.where(w == 0, np.inf, w)
        self.rows.append((pivot, {a: v / w for a, v in row.items()}, {j: v / w for j, v in combo.items()}))
        self.size += 1
        return True

    def solve(self, row: Row) -> Row | None:
        """Coefficients over the added rows; None if the row is outside."""
        rest, combo = self._reduce(row, {})
        if rest:
            return None
        # for the element that the tape is written for; others have it where theirs is not the only solution
        known = self.tape.choose(lambda: {i: -float(v) for i, v in self.tape.nonzero(combo).items()})
        if not self.tape.each:
            return {i: -v for i, v in combo.items()}
        found = _solve_each([self.given[i] for i in known], row, list(known.values()))
        return {**dict.fromkeys(combo, 0.0), **dict(zip(known, found, strict=True))}

    def has(self, row: Row) -> bool:
        return not self._reduce(row, {})[0]


@dataclass
class Linear:
    """A compiled stage: rows over tensors, draws and constants, and the call that follows."""

    rows: dict[int, Row] = field(default_factory=dict)  # tensor written -> row
    call: Call | None = None
    args: list[int] = field(default_factory=list)
    outs: list[int] = field(default_factory=list)
    carried: list[int] = field(default_factory=list)
    rank: int = 0
    emits: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass
class Program:
    """All stages, the tensors' facts, and the tape that led to them."""

    stages: list[Linear]
    input: int
    out: int
    raws: set[int]  # tensors that calls gave (the network's own memory and dtype)
    atoms: dict[int, Any]  # free atoms used: NOISE -> (step, column, segment, span), CONST -> name
    kinds: dict[int, int]
    tape: list[Any]
    given: dict[str, int] = field(default_factory=dict)  # further inputs

    def traffic(self) -> float:
        """Tensors read and written, and draws at their price."""
        total = 0.0
        for s in self.stages:
            used = {a for row in s.rows.values() for a in row}
            draws = sum(self.kinds.get(a) == NOISE for a in used)
            total += len(used) - draws + len(s.rows) + DRAW_PRICE * draws
        return total


def compile_record(
    rec: Recorder,
    tape: Sequence[Any] | None = None,
    *,
    natural: bool = True,
    zero: Decimal = ZERO,
    verify: bool = False,
    each: bool = False,
) -> Program:
    """Compile a recording; with the tape of another one by its decisions.

    natural: converted predictions are candidates for carrying, not the needed rows alone.
    each: see Tape.
    """
    with precision():
        one = Decimal(1) if rec.exact else 1.0
        return _Compiler(rec, Tape(tape, zero, one, verify, each)).run(natural)


class _Compiler:
    def __init__(self, rec: Recorder, tape: Tape):
        self.rec, self.tape = rec, tape
        self.count = len(rec.calls)
        self.free = {a for a, k in enumerate(rec.kinds) if k >= NOISE}
        self.defs = [[(a, self.fresh(row)) for a, row in seg] for seg in rec.segments]
        self.emits = rec.emits
        # the last segment ends in the result, which is named like an argument
        self.targets = [c.args for c in rec.calls]
        result = len(rec.kinds)
        self.defs[-1].append((result, self.fresh(rec.result.c)))
        self.targets.append([result])

    def fresh(self, row: Row) -> Row:
        if self.tape.looks and not all(v.is_finite() for v in row.values()):  # a NaN would count as cancelled
            raise ValueError(
                "a coefficient is not finite; are two times too close, or is alpha or sigma 0 "
                "where the formula divides by it?"
            )
        return self.tape.clean(row, self.tape.scale([row]))

    def bound(self, row: Row) -> Row:
        """The part that needs memory."""
        return {a: v for a, v in row.items() if a not in self.free}

    def rest(self, row: Row) -> Row:
        return {a: v for a, v in row.items() if a in self.free}

    def expand(self, row: Row, k: int) -> Row:
        """The row over what existed before segment k, call k-1's outputs and free atoms."""
        row, touched, scale = dict(row), False, 0
        for a, made in reversed(self.defs[k]):
            w = row.pop(a, None)
            if w is None:
                continue
            touched = True
            for b, v in made.items():
                v = w * v
                if b in row:
                    row[b] = row[b] + v
                else:
                    row[b] = v
                if self.tape.looks:
                    scale = max(scale, abs(v))
        return self.tape.clean(row, scale) if touched else row

    def direction(self, row: Row) -> Row:
        """A multiple of one tensor as that tensor: of some elements the multiple may be 0 and of a row that
        is dropped for this one not. Constants are always there."""
        row = {a: v for a, v in row.items() if self.rec.kinds[a] != CONST}
        return {a: self.tape.one for a in row} if len(row) == 1 else row

    def backward(self) -> list[list[Row]]:
        tape = self.tape
        needed: list[list[Row]] = [[] for _ in range(self.count + 1)]
        for k in range(self.count, 0, -1):
            outs = set(self.rec.calls[k - 1].outs)
            future = {a for a in self.free if self.rec.kinds[a] == NOISE and self.rec.info[a][2] >= k}
            span = Span(self.tape)
            rows = [{a: tape.one} for a in (*self.targets[k], *(a for _, a in self.emits[k]))] + needed[k]
            for row in rows:
                row = {a: v for a, v in self.expand(row, k).items() if a not in outs and a not in future}
                if self.rec.statistics is not None:
                    row = self.direction(row)
                if span.add(self.bound(row)):
                    needed[k - 1].append(row)
        return needed

    def choose(self, candidates: Iterable[Row], wanted: Span) -> tuple[Span, list[Row]]:
        """The first candidates that span what is wanted and nothing else."""
        basis, chosen = Span(self.tape), []
        for f in candidates:
            if len(chosen) == wanted.size:
                break
            b = self.bound(f)
            if b and wanted.has(b) and not basis.has(b):
                basis.add(b)  # so that the basis counts chosen rows only
                chosen.append(f)
        return basis, chosen

    def run(self, natural: bool) -> Program:
        needed, rec, tape, free = self.backward(), self.rec, self.tape, self.free
        stages: list[Linear] = []
        # tensors get numbers above the atoms'; inputs and outputs keep theirs
        names = iter(range(len(rec.kinds) + 1, 10**9))
        raws = {a for c in rec.calls for a in c.outs}
        memory = [rec.input, *rec.given_atoms.values()]
        known, values = ([{a: tape.one} for a in memory] for _ in range(2))
        arg: list[int] = []
        for k in range(self.count + 1):
            new = set(rec.calls[k - 1].outs) if k else set()
            space = Span(tape, map(self.bound, known))
            memory = sorted(new) + memory

            def locate(
                row: Row,
                k: int = k,
                new: set[int] = new,
                space: Span = space,
                known: list[Row] = known,
                values: list[Row] = values,
            ) -> Row | None:
                """A row over atoms as a row over memory, draws and constants; None if memory cannot make
                it."""
                row = self.expand(row, k)
                old = {a: v for a, v in row.items() if a not in new}
                combo = space.solve(self.bound(old))
                if combo is None:
                    return None
                made = {a: v for a, v in row.items() if a in new or a in free}
                scale = tape.scale([row])
                for i, w in combo.items():
                    for a, v in values[i].items():
                        made[a] = made[a] + w * v if a in made else w * v
                    for a, v in known[i].items():
                        if a in free:
                            made[a] = made[a] - w * v if a in made else -w * v
                return tape.clean(made, scale)

            args = [_sure(locate({a: tape.one})) for a in self.targets[k]]
            need = [_sure(locate(row)) for row in needed[k]]
            last = k == self.count
            wanted = Span(tape, map(self.bound, need))
            every = Span(tape, [self.bound(f) for f in need] + [self.bound(f) for f in args])
            rank = every.size
            candidates: list[Row] = [] if last else list(args)
            candidates += [{t: tape.one} for t in memory]
            if natural:
                skip = set(self.targets[k])
                atoms = [a for a, _ in self.defs[k] if a not in skip]
                atoms += [a for row in needed[k] for a in row if a not in free]
                candidates += [f for f in (locate({a: tape.one}) for a in dict.fromkeys(atoms)) if f]
            candidates += need
            basis, chosen = self.choose(candidates, wanted)
            held = {id(f) for f in chosen}
            if len(args) > 1 and len(chosen) + sum(id(f) not in held for f in args) > rank:
                # what is needed is made of several arguments, which are there anyway
                basis, chosen = self.choose([*args, *candidates], every)

            stage = Linear(rank=rank)

            def place(f: Row, own: bool = False, stage: Linear = stage) -> int:
                """The tensor in memory that f is, else a row of this stage. own: it must not be a call's own
                output."""
                if len(f) == 1:
                    ((a, v),) = f.items()
                    if a not in free and not (own and a in raws) and not tape.alive(v - 1, 1):
                        return a
                name = next(names)
                stage.rows[name] = f
                return name

            arg = [place(f, own=True) for f in args]
            written = {id(f): t for f, t in zip(args, arg, strict=True)}
            carried = [written[id(f)] if id(f) in written else place(f) for f in chosen]
            for name, a in self.emits[k]:
                stage.emits[name] = place(_sure(locate({a: tape.one})), own=True)
            combos = [_sure(basis.solve(self.bound(f))) for f in need]
            known, values = needed[k], []
            for f, combo in zip(need, combos, strict=True):
                v = {carried[i]: w for i, w in combo.items()}
                scale = tape.scale([f, v])
                for a, w in f.items():
                    if a in free:
                        v[a] = v[a] + w if a in v else w
                for i, w in combo.items():
                    for a, u in chosen[i].items():
                        if a in free:
                            v[a] = v[a] - w * u if a in v else -w * u
                values.append(tape.clean(v, scale))
            memory = [t for t in dict.fromkeys(carried) if any(t in v for v in values)]
            stage.carried = list(memory)
            if not last:
                stage.call, stage.args, stage.outs = rec.calls[k], arg, list(rec.calls[k].outs)
            stages.append(stage)
        info, kinds = {a: rec.info[a] for a in free}, {a: rec.kinds[a] for a in free}
        return Program(stages, rec.input, arg[0], raws, info, kinds, tape.log, rec.given_atoms)


def _solve_each(rows: Sequence[Row], target: Row, near: Sequence[float]) -> list[Any]:
    """c near `near` with sum_i c_i rows_i = target, for each element of the arrays; NaN where there is none.
    Complete pivoting, every element by itself: the order that a tape knows suits the element it was written
    for."""
    if not rows:
        return []
    columns = list(dict.fromkeys(a for row in (*rows, target) for a in row))
    full = np.broadcast_arrays(*(np.asarray(r.get(a, 0.0), float) for r in (*rows, target) for a in columns))
    M = np.stack([v.ravel() for v in full]).reshape(len(rows) + 1, len(columns), -1)
    scale = np.abs(M).max(1)
    scale[scale == 0] = 1
    M = M / scale[:, None]
    R, left, each = M[:-1], M[-1], np.arange(M.shape[2])
    found, order = np.array(near)[:, None] * scale[:-1] / scale[-1], []
    size = 1 + np.abs(found).max(0)
    left = left - np.einsum("ig,iag->ag", found, R)
    made = np.zeros((len(rows), *R.shape[::2]))  # R[i] as a combination of the rows
    made[np.arange(len(rows)), np.arange(len(rows))] = 1
    free = np.ones(R.shape[:1] + each.shape, bool)
    for _ in rows:
        top = (np.abs(R) * free[:, None]).reshape(-1, len(each)).argmax(0)
        i, a = top // R.shape[1], top % R.shape[1]
        pivot = R[i, a, each]
        pivot = np.where(np.abs(pivot) > 1e-13, pivot, np.inf)
        row, combo = R[i, :, each].T / pivot, made[i, :, each].T / pivot
        free[i, each] = False
        order.append((a, row, combo))
        w = R[:, a, each] * free
        R = R - w[:, None] * row
        made = made - w[:, None] * combo
    for a, row, combo in order:
        w = left[a, each]
        left = left - w * row
        found = found + w * combo
    found[:, np.abs(left).max(0) > 1e-9 * size] = np.nan
    return list(found * scale[-1] / scale[:-1])


def _sure(row: Row | None) -> Row:
    if row is None:
        raise ArithmeticError(
            "the carried tensors cannot express what a later stage needs; please report "
            "the solver and its times"
        )
    return row
