"""Runs backwards: the state before a network call, made of the state after it and of the call itself.

    S' = P S + Q m + R given,      m = net(a),      a a row of S           one segment of a plan
    a  = l S' - l R given,         l [P Q] = [e_a 0]                       known before the call is made
    S  = r (S' - Q m - R given),   r P = 1                                 known after it

A plan can be run backwards where l and r exist in every segment. That is a fact of its tables, so no solver
is asked: `edict`, `bdia` and `reversible-heun` have them by construction. One network call a step, which is
also the one whose vector-Jacobian product the gradient wants; x at the first call is made of x_T itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..core.number import precision
from ..core.plan import DRAWS, INPUTS, OUTPUTS, Plan
from ..noise.streams import column_stream
from ..ops.linear_step import linear_step
from .replay import Cuts, Pull, Snapshot, Tape, cuts_of, leaf, recorded
from .run import Run

Key = tuple[Any, ...]  # of a tensor: ("r", register), or ("d", step, column) of a draw
Row = dict[Key, Decimal]
TINY = Decimal("1e-25")  # against 60 digits, and the residue of 1e-30 that rows carry


class Rows(NamedTuple):
    """One linear step: keys of what it reads, draws made again, and the registers its outputs are for. A
    register means another tensor before and after a segment, so keys say ("s", r) after it, ("m", r) out of
    the call, ("r", r) given."""

    inputs: tuple[Key, ...]
    draws: tuple[tuple[int, int], ...]
    outputs: tuple[int, ...]
    table: np.ndarray


class Back(NamedTuple):
    """From the state after a segment to its network call's argument, and with its outputs to the rest."""

    args: Rows | None
    rest: Rows | None


class Inverse:
    """The segments 1 .. last - 1 of a plan, run backwards."""

    def __init__(self, plan: Plan):
        cuts, self.solver = cuts_of(plan), plan.solver
        self.back: dict[int, Back] = {}
        if not cuts.linear:
            raise ValueError(
                "gradient='reversible' runs the steps backwards, and not what a hook or an operator did; use "
                "gradient='checkpoint'"
            )
        with precision():
            for j in range(1, cuts.last):
                self.back[j] = self._segment(plan, cuts, j)

    def _segment(self, plan: Plan, cuts: Cuts, j: int) -> Back:
        call = plan.stages[cuts.calls[j - 1]].call
        assert call is not None
        before, after = cuts.live[j], cuts.live[j + 1]
        # an output may take the register of what was there, so it has a name of its own
        forms: dict[int, Row] = {r: {("r", r): Decimal(1)} for r in range(len(plan.kinds))}
        forms |= {r: {("m", r): Decimal(1)} for r in call.outs}
        for s in plan.stages[cuts.calls[j - 1] + 1 : cuts.ends[j] + 1]:
            sources = [*(forms[r] for r in s.inputs), *({("d", *d): Decimal(1)} for d in s.draws)]
            forms |= {
                r: _sum(zip(row, sources, strict=True)) for r, row in zip(s.outputs, s.exact, strict=True)
            }
        rows = [forms[r] for r in after]
        unknown = [("r", r) for r in before]
        outs = [("m", r) for r in call.outs]
        args = [r for r in before if r in call.args]
        first = [self._left(rows, unknown + outs, ("r", r), j) for r in args]
        rest = [r for r in before if r not in args]
        second = [self._left(rows, unknown, ("r", r), j) for r in rest]
        return Back(_rows(rows, after, args, first, outs), _rows(rows, after, rest, second, outs))

    def _left(self, rows: list[Row], columns: list[Key], which: Key, j: int) -> list[Decimal]:
        """l with sum_i l_i rows_i = 1 in column `which` and 0 in the others of `columns`."""
        M = [[row.get(c, Decimal(0)) for row in rows] + [Decimal(c == which)] for c in columns]
        n, pivots = len(rows), []
        scale = max((abs(v) for line in M for v in line[:n]), default=Decimal(1)) or Decimal(1)
        for c in range(n):
            k = len(pivots)
            best = max(range(k, len(M)), key=lambda i: abs(M[i][c]), default=None)
            if best is None or abs(M[best][c]) <= TINY * scale:
                continue
            M[k], M[best] = M[best], M[k]
            M[k] = [v / M[k][c] for v in M[k]]
            for i in range(len(M)):
                if i != k and M[i][c]:
                    M[i] = [a - M[i][c] * b for a, b in zip(M[i], M[k], strict=True)]
            pivots.append(c)
        if any(abs(line[n]) > TINY for line in M[len(pivots) :]):
            raise ValueError(
                f"gradient='reversible': step {j - 1} of {self.solver} has no explicit inverse; edict, bdia "
                "and reversible-heun have one, for others use gradient='checkpoint'"
            )
        found = [Decimal(0)] * n
        for line, c in zip(M, pivots, strict=False):
            found[c] = line[n]
        return found


def _sum(parts: Iterable[tuple[Decimal, Row]]) -> Row:
    total: Row = {}
    for w, row in parts:
        if w:
            for key, v in row.items():
                total[key] = total.get(key, Decimal(0)) + w * v
    return total


def _rows(
    rows: list[Row], after: tuple[int, ...], wanted: list[int], left: list[list[Decimal]], outs: list[Key]
) -> Rows | None:
    """The step left . state - left . (all in rows that the state before has no part in)."""
    if not wanted:
        return None
    mine = {("r", r) for r in wanted}
    more = sorted({k for row in rows for k in row} - mine - set(outs))

    def rest(line: list[Decimal], k: Key) -> Decimal:
        return -sum((w * row.get(k, Decimal(0)) for w, row in zip(line, rows, strict=True)), Decimal(0))

    keys = [*(("s", r) for r in after), *outs, *more]
    table = [[*line, *(rest(line, k) for k in (*outs, *more))] for line in left]
    small = [TINY * max(map(abs, line)) for line in table]
    table = [[v if abs(v) > e else Decimal(0) for v in line] for line, e in zip(table, small, strict=True)]
    made = np.array([[float(v) for v in line] for line in table])
    used = [i for i in range(len(keys)) if made[:, i].any()]
    draws = [i for i in used if keys[i][0] == "d"]
    inputs = [i for i in used if i not in draws]
    if len(inputs) > INPUTS or len(wanted) > OUTPUTS or len(draws) > DRAWS:
        raise ValueError("gradient='reversible': a step reads or writes more tensors than one launch takes")
    drawn = tuple((keys[i][1], keys[i][2]) for i in draws)
    return Rows(tuple(keys[i] for i in inputs), drawn, tuple(wanted), made[:, [*inputs, *draws]])


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def inverse_of(plan: Plan) -> Inverse:
    found = _known.get(plan)
    if found is None:
        found = _known[plan] = Inverse(plan)
    return found


def _run(tape: Tape, rows: Rows | None, known: Mapping[Key, Tensor]) -> dict[int, Tensor]:
    if rows is None:
        return {}
    e = tape.e
    made = linear_step(
        [known[k] for k in rows.inputs],
        torch.tensor(rows.table, dtype=e.arithmetic, device=e.device),
        rng=tape.rng,
        draws=[d for d, _ in rows.draws],
        streams=[column_stream(c) for _, c in rows.draws],
        dtype=e.dtype,
        backend=e.backend,
    )
    return dict(zip(rows.outputs, made, strict=True))


def reversed_run(tape: Tape, warn: float, **look: Any) -> Run:
    """The run, its gradient by states that are made again backwards."""
    e, cuts = tape.e, tape.cuts
    if tape.tables is not None:
        raise ValueError(
            "gradient='reversible' inverts the plan's own coefficients; with coefficients (or a guidance "
            "scale) to train use gradient='checkpoint'"
        )
    if e.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"gradient='reversible': states must be float32 or float64 to come back, got {e.dtype}; cast x, "
            f"and give the Denoiser x_dtype={e.dtype} if the network wants it"
        )
    if tape.source is not None:
        raise ValueError("gradient='reversible' makes draws again by their counters: leave noise out")
    inverse = inverse_of(e.plan)

    def way(tape: Tape, pull: Pull, kept: dict[int, Snapshot]) -> None:
        given = {("r", r): t.detach() for r, t in tape.registers.items()}
        last = cuts.last
        state = pull.segment(last, kept[last]).registers if last else {}
        for j in range(last - 1, 0, -1):
            back, before = inverse.back[j], kept[j]
            known: dict[Key, Tensor] = {**given, **{("s", r): t for r, t in state.items()}}
            if j == 1:  # from x_T itself, and so it shows how far the states have drifted
                start = replace(tape.advance(0, 1, before, False)[1], random=before.random)
                pull.segment(j, start)
                _warn_of_drift(state, pull.reached, warn)
                return
            args = _run(tape, back.args, known)

            def between(run: Run, back: Back = back, j: int = j, known: Any = known) -> Snapshot:
                """The leaves of segment j, once its call has been made."""
                call = e.plan.stages[cuts.calls[j - 1]].call
                assert call is not None
                with torch.no_grad():
                    outs = {("m", r): run.registers[r].detach() for r in call.outs}
                    rest = _run(tape, back.rest, {**known, **outs})
                names = cuts.live[j]
                return Snapshot(names, [leaf(rest[r]) if r in rest else run.registers[r] for r in names])

            start = Snapshot(tuple(args), list(args.values()), random=before.random)
            state = pull.segment(j, start, between).registers

    return recorded(tape, frozenset((cuts.last,)), way, whole=True, **look)


def _warn_of_drift(made: Mapping[int, Tensor], true: Mapping[int, Tensor], limit: float) -> None:
    for r, t in made.items():
        drift = float((t - true[r]).double().norm() / true[r].double().norm().clamp_min(1e-30))
        if not drift <= limit:
            warnings.warn(
                f"gradient='reversible': the state after the first step came back {drift:.1e} off: rounding "
                "grew on the way; fewer steps, float64 or gradient='checkpoint' would do",
                stacklevel=2,
            )
            return
