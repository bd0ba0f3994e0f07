"""LinearRecorder: a Recorder whose state is a Vector, one Form for each register of a linear process.

A network call takes all registers and gives its outputs at once: one call, one linear stage. The registers
besides x are inputs of the plan by their names (`Recorder.given`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .matrix import Matrix, Vector
from .predict import convert
from .process import Node
from .recorder import NOISE, Call, Clock, Form, Recorder, _map


@dataclass
class LinearRecorder(Recorder):
    registers: tuple[str, ...] = ("x",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.x: Any = Vector([self.x, *map(self.given, self.registers[1:])])

    @property
    def result(self) -> Form:
        return self.x[0]

    def model(self, z: Any, node: Node, kind: str | None = None) -> Any:
        """One network call at `node` on all registers, as a prediction of `kind`."""
        weights = self._branches(node)
        args = [self._name(f) for f in self._known(z)]
        named = Vector(map(self._unit, args))
        if z is self.x:
            self.x = named
        count = node.process.outputs(self.predicts)  # type: ignore[attr-defined]
        call = Call("net", node, self.step, args, [], branches=tuple(weights))
        outs = self._call(call, count * len(weights))
        raw = sum(w * Vector(outs[count * i : count * i + count]) for i, w in enumerate(weights.values()))
        self._newest = named, raw, node  # type: ignore[assignment]
        if self.emitting:
            self.data = super().keep(self._estimate(node))
        return self.keep(self.unbent(kind or self.wanted))

    def unbent(self, kind: str) -> Any:
        z, raw, node = self._newest
        p, q = convert(self.predicts, kind, node)
        made: Any = raw if isinstance(q, int) else q * raw
        return made if isinstance(p, int) else p * z + made

    def _estimate(self, node: Any) -> Form:
        """The data prediction; where the network's output gives none, x at the end of one step there."""
        process = node.process
        if self.predicts == "data" or len(process.scored) == len(process.registers):
            return self.unbent("data")[0]
        P, W = process.hold(node.host, process.t_zero)
        return (Matrix(P) * self._newest[0] + Matrix(W) * self.unbent("noise"))[0]

    def further(self) -> Form:
        raise ValueError("a network of several registers has no learned variance")

    def keep(self, form: Any) -> Any:
        return form.map(super().keep) if isinstance(form, Vector) else super().keep(form)

    def noise(self, s: Node | None = None, t: Node | None = None, clock: Clock = 1) -> Any:
        """A fresh N(0, I) for each register: the columns of one step."""
        made = []
        for _ in self.registers:
            where = (self.step, self.column, len(self.calls), self._span(s, t, clock))
            made.append(self._unit(self._atom(NOISE, where)))
            self.column += 1
        return Vector(made)

    def finish(self, past: Any, node: Node) -> Any:
        past = _map(past, super().keep)
        self.x = self.keep(self._known(self.x))
        if self.emitting:
            for name, form in zip(("x", *self.registers[1:]), self.x, strict=True):
                self.emits[-1].append(((name, self.step), self._name(form)))
            if self.data is not None:
                self.emits[-1].append((("data", self.step), self._name(self.data)))
        return past

    def _known(self, z: Any) -> Any:
        lost = [name for name, form in zip(self.registers, z, strict=True) if form is None]
        if lost:
            raise ValueError(
                f"this step makes {', '.join(lost)} of a score or noise that the network does not give"
            )
        return z
