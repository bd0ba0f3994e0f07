"""Legs: a Plan cut at its network calls, so that a caller's loop may run it.

    leg k   from the output of call k and the sample that the caller has, to the sample it shows the network
            at call k + 1

The caller's sample is x / alpha or x by its own custom, and the network's argument is made of it by the
caller; so a plan's argument of call k is sample / kappa_k, and the factors go into the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.plan import DRAWS, INPUTS, OUTPUTS, Plan
from ...core.predict import convert, input_scale
from ...core.process import Process
from ...noise.streams import column_stream
from ...solvers.lcm import LCM
from ...solvers.tcd import TCD

Key = tuple[int, int]  # step and column of a draw


@dataclass(frozen=True)
class Pass:
    """One linear step: registers read and written, the table (outputs, inputs + draws), and the draws; or a
    call of `act` ("hook", its number; "call:...", with t and params) on registers."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    table: np.ndarray | None = None
    draws: tuple[Key, ...] = ()
    spans: tuple[Any, ...] = ()
    stage: int = 0
    act: tuple[str, int, float, tuple[float, ...]] | None = None

    @cached_property
    def counters(self) -> list[int]:
        return [d for d, _ in self.draws]

    @cached_property
    def streams(self) -> list[int]:
        return [column_stream(c) for _, c in self.draws]


@dataclass(frozen=True)
class Leg:
    """sample, output, further: the registers that take what the caller gives (further: -1, or a second half
    of the network's channels). result: of the next sample. x0: weights of sample and output in the data
    prediction, or the register it lies in. new, last: draws first and last read here. held: earlier outputs
    of the network that are still to be read; drop: registers that are not, after this leg. opens: a step
    begins with it. spends: it takes a draw of a generator even if it does not need one."""

    t: float
    step: int
    sample: int
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
    """All of a plan. Tables on devices are made once and shared by every run."""

    def __init__(self, plan: Plan, process: Process, scaled: bool, sign: float, spends: bool):
        self.plan, self.process = plan, process
        nets = [k for k, s in enumerate(plan.stages) if s.call is not None and s.call.kind == "net"]
        kappa = [_kappa(process.node(plan.stages[k].call.t), plan.predicts, scaled) for k in nets]  # type: ignore[union-attr]
        end = process.node(float(plan.end_of(plan.visits - 1)))
        final = 1 / float(end.alpha) if scaled else 1.0
        unit = dict.fromkeys(range(len(plan.kinds)), 1.0)
        head = plan.stages[0]
        if nets[0] != 0 or head.draws or any(i != 0 for i in head.inputs):
            raise ValueError(
                f"{plan.solver} changes x before its first network call, which no scheduler can; set churn=0"
            )
        self.first = plan.stages[0].call.args[0]  # type: ignore[union-attr]
        unit[0] = kappa[0][1]
        made: list[Leg] = []
        reads: dict[Key, int] = {}
        for i, k in enumerate(nets):
            call = plan.stages[k].call
            assert call is not None
            if call.branches != (0,):
                raise ValueError("guidance belongs to the pipeline; a scheduler's plan has none")
            arg, raw = call.args[0], call.outs[0]
            unit[arg], unit[raw] = kappa[i][0], sign
            further = call.outs[1] if len(call.outs) > 1 else -1
            stop = nets[i + 1] if i + 1 < len(nets) else len(plan.stages) - 1
            after = plan.stages[stop].call
            out = after.args[0] if after is not None else plan.out
            factor = kappa[i + 1][0] if after is not None else final
            passes: list[Pass] = []
            bent = -1
            for j in range(k + 1, stop + 1):
                s = plan.stages[j]
                if s.outputs:
                    rows = s.coeffs.copy()
                    for c, r in enumerate(s.inputs):
                        rows[:, c] /= unit[r]
                    for row, r in enumerate(s.outputs):
                        unit[r] = factor if j == stop and r == out else 1.0
                        rows[row] *= unit[r]
                    passes.append(Pass(s.inputs, s.outputs, rows, s.draws, s.spans, j))
                    for d in s.draws:
                        reads[d] = i
                if s.call is not None and j != stop:
                    c = s.call
                    kind = c.kind if c.kind.startswith("call:") else "hook"
                    passes.append(Pass(c.args, c.outs, act=(kind, c.hook, c.t, c.params)))
                    unit.update(dict.fromkeys(c.outs, 1.0))
                    bent = c.outs[0] if c.kind == "predict" else bent
            if unit[out] != factor or not any(out in p.outputs for p in passes if p.table is not None):
                table = np.array([[factor / unit[out]]])
                passes.append(Pass((out,), (out,), table, stage=stop))
                unit[out] = factor
            node = process.node(call.t)
            p, q = (float(v) for v in convert(plan.predicts, "data", node))
            x0 = bent if bent >= 0 else (p / kappa[i][1], q * sign)
            made.append(Leg(call.t, call.step, arg, raw, further, tuple(passes), out, x0, spends=spends))
        self.legs = _finished(made, reads, {plan.stages[k].call.outs[0] for k in nets})  # type: ignore[union-attr]
        for leg in self.legs:
            for p in leg.passes:
                wide = len(p.inputs) > INPUTS or len(p.outputs) > OUTPUTS or len(p.draws) > DRAWS
                if p.table is not None and (wide or not p.inputs):
                    raise ValueError(f"{plan.solver} reads more tensors in one step than a scheduler can")
        # the network's input over the caller's sample
        self.shown = [1 / _kappa_seen(process.node(leg.t), plan.predicts, scaled) for leg in self.legs]
        self._tables: dict[tuple[torch.dtype, torch.device], list[list[Tensor | None]]] = {}
        self._rows: dict[Any, Tensor] = {}

    def tables(self, dtype: torch.dtype, device: torch.device) -> list[list[Tensor | None]]:
        """By leg and pass, rounded once."""
        found = self._tables.get((dtype, device))
        if found is None:
            found = [
                [None if p.table is None else torch.tensor(p.table, dtype=dtype).to(device) for p in leg.passes]
                for leg in self.legs
            ]
            self._tables[dtype, device] = found
        return found

    def row(self, weights: tuple[float, float], dtype: torch.dtype, device: torch.device) -> Tensor:
        key = weights, dtype, device
        if key not in self._rows:
            self._rows[key] = torch.tensor([weights], dtype=dtype).to(device)
        return self._rows[key]

    def jump(self, leg: Leg) -> tuple[float, float] | None:
        """Weights of the sample and of x0 in what a distilled network jumps to; None: x0 itself."""
        solver = self.plan.recipe.solver if self.plan.recipe else None
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
                    table[i, 0, 0 if r == leg.sample else 1] = p.table[0, c]
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
            and set(leg.passes[0].inputs) <= {leg.sample, leg.output}
            for leg in self.legs
        )


def _kappa(node: Any, predicts: str, scaled: bool) -> tuple[float, float]:
    """sample / (the plan's argument), sample / x."""
    x = 1 / float(node.alpha) if scaled else 1.0
    return x / float(input_scale(predicts, node)), x


def _kappa_seen(node: Any, predicts: str, scaled: bool) -> float:
    """sample / (the network's input): a scaled sample's is x unless the network is Karras' raw one."""
    if predicts == "edm":
        return _kappa(node, predicts, scaled)[0]
    return 1 / float(node.alpha) if scaled else 1.0


def _finished(made: Sequence[Leg], reads: dict[Key, int], raws: set[int]) -> list[Leg]:
    """The legs with what only the whole run tells."""
    seen: set[Key] = set()
    legs, steps = [], set()
    alive: list[set[int]] = [set()]  # registers read after a leg before they are written, last leg first
    for leg in reversed(made):
        later = set(alive[-1])
        for p in reversed(leg.passes):
            later = (later - set(p.outputs)) | set(p.inputs)
        alive.append(later - {leg.sample, leg.output, leg.further})
    alive.reverse()
    for i, leg in enumerate(made):
        here = list(dict.fromkeys(d for p in leg.passes for d in p.draws))
        new = tuple(d for d in here if d not in seen)
        seen.update(new)
        used = {leg.sample, leg.output, leg.further, *(r for p in leg.passes for r in (*p.inputs, *p.outputs))}
        legs.append(
            replace(
                leg,
                new=new,
                last=tuple(d for d in here if reads[d] == i),
                held=tuple(sorted(alive[i] & raws)),
                drop=tuple(sorted((used | alive[i]) - alive[i + 1])),
                opens=leg.step not in steps,
            )
        )
        steps.add(leg.step)
    return legs
