"""Attempt: a formula over rows, with coefficients for each sample.

A row is a combination of a few tensors: x, the network's outputs, noise. It becomes a tensor by one linear
step with a table per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.predict import convert, input_scale
from ..core.process import Node
from ..ops.linear_step import linear_step
from .run import version

REGISTERS = 12  # what a linear step reads


class Row:
    """A combination of registers; coefficients c (B, REGISTERS), of which `used` may differ from 0."""

    __slots__ = ("c", "used")

    def __init__(self, c: Tensor, used: frozenset[int]):
        self.c, self.used = c, used

    def __add__(self, o: Any) -> Row:
        if isinstance(o, Row):
            return Row(self.c + o.c, self.used | o.used)
        return self if type(o) is int and o == 0 else NotImplemented  # so that sum() works

    __radd__ = __add__

    def __mul__(self, w: Any) -> Row:
        return Row(self.c * (w[:, None] if isinstance(w, Tensor) else w), self.used)

    __rmul__ = __mul__

    def __truediv__(self, w: Any) -> Row:
        return Row(self.c / (w[:, None] if isinstance(w, Tensor) else w), self.used)

    def __neg__(self) -> Row:
        return Row(-self.c, self.used)

    def __sub__(self, o: Row) -> Row:
        return Row(self.c - o.c, self.used | o.used)


class Attempt:
    """`p` of a formula: the tensors it speaks of, and what they are made into.

    x, v0, v1   the state, and the solver's coordinate of both ends
    outputs     of the network, with their versions: nobody may write over them
    calls       of the network, one for each branch of guidance
    """

    def __init__(self, run: Any, x: Tensor, v0: Any = None, v1: Any = None):
        self.run, self.v0, self.v1 = run, v0, v1
        self.registers = [x]
        self.unit = run.unit[: x.shape[0]]
        self.x: Any = self._row(0)
        self.start = self.x
        self.made: dict[int, tuple[Row, Tensor]] = {id(self.x): (self.x, x)}
        self.const = self._push(run.const) if run.const is not None else None
        self.calls = 0
        self.outputs: list[tuple[Tensor, int]] = []

    def _row(self, register: int) -> Row:
        return Row(self.unit[..., register], frozenset((register,)))

    def _push(self, t: Tensor) -> Row:
        if len(self.registers) == REGISTERS:
            raise ValueError(f"an adaptive formula may use {REGISTERS} tensors")
        self.registers.append(t)
        return self._row(len(self.registers) - 1)

    def model(self, row: Row, node: Node, kind: str | None = None) -> Row:
        run, process = self.run, self.run.process
        predicts = run.denoiser.predicts
        p, q = convert(predicts, kind or run.solver.predicts, node, check=False)
        kept = run.kept if not self.outputs and row is self.start else None
        if kept is None:
            seen = row if self.const is None else row + process.offset(node.t) * self.const
            scale = input_scale(predicts, node)
            (y,) = self.tensors(seen if isinstance(scale, int) else seen * scale)
            out = run.network(y, run.clock.told(node))
            self.calls += run.branches
        else:
            out = kept
        m = self._push(out)
        self.outputs.append((out, version(out)))
        if self.const is not None and predicts == "flow":
            m = m - process.doffset(node.t) * self.const
        if not (isinstance(q, int) and q == 1):
            m = q * m
        return m if isinstance(p, int) and p == 0 else p * row + m

    def noise(self) -> Row:
        """The increment of a Brownian motion in the solver's coordinate over the step."""
        run = self.run
        assert run.motion is not None
        return run.way**0.5 * self._push(run.motion.increment(run.cell(self.v0), run.cell(self.v1)))

    def table(self, rows: Sequence[Row]) -> tuple[list[Tensor], Tensor]:
        """The tensors that the rows use and their coefficients (B, len(rows), n)."""
        used = sorted(frozenset().union(*(r.used for r in rows)))
        T = [self.registers[k] for k in used]
        c = torch.stack([r.c for r in rows], 1)
        if len(used) == used[-1] - used[0] + 1:
            c = c[..., used[0] : used[-1] + 1]
        else:  # a list as an index would be copied to the device, a wait
            c = torch.stack([c[..., k] for k in used], -1)
        wide = torch.float64 in (self.run.dtype, *(t.dtype for t in T))
        return T, c.to(torch.float64 if wide else torch.float32)

    def tensors(self, *rows: Row) -> list[Tensor]:
        missing = [r for r in rows if id(r) not in self.made]
        if missing:
            T, A = self.table(missing)
            made = linear_step(T, A.contiguous(), dtype=self.run.dtype, backend=self.run.backend)
            self.made.update((id(r), (r, t)) for r, t in zip(missing, made, strict=True))
        return [self.made[id(r)][1] for r in rows]

    def check(self) -> None:
        """Nobody wrote over what the network had returned."""
        if any(version(t) != came for t, came in self.outputs):
            raise ValueError(
                "the network wrote one of its outputs over an earlier one that is still needed; "
                "let it return a new tensor (out.clone())"
            )
