"""Direct: the same formula run step by step on tensors. The reference that every compiled plan is compared
with."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .math import Number, plain
from .matrix import Vector
from .predict import convert, input_scale
from .process import Node
from .statistics import Curves, ModelStatistics


class Direct:
    """`p` of a formula over arrays: float64 torch tensors, numpy arrays, or anything that adds and scales.

    net(x, node) -> raw prediction, or a pair of it and what `further` gives; on a linear process x and raw
    are Vectors
    noise(step, column) -> a draw like x
    branches    net(x, node) of each branch, the plain one first; None: no guidance acts
    """

    def __init__(
        self, net: Callable[[Any, Node], Any], x: Any, predicts: str = "data", *, wanted: str = "data",
        noise: Callable[[int, int], Any] | None = None, consts: dict[str, Any] | None = None,
        operators: Mapping[str, Callable[..., Any]] | None = None,
        branches: Sequence[Callable[[Any, Node], Any]] | None = None,
    ):
        self.branches = branches
        self.net, self.x, self.predicts, self.wanted = net, x, predicts, wanted
        self._noise, self._consts, self._operators = noise, consts or {}, operators or {}
        self.calls, self.step, self.steps, self.column = 0, -1, 0, 0
        self.emitted: dict[str, Any] = {}
        self._curves: Curves | None = None

    def model(self, x: Any, node: Node, kind: str | None = None) -> Any:
        self.calls += 1
        raw = self._ask(self.net, x, node)
        raw, self._further = raw if isinstance(raw, tuple) else (raw, None)
        self._newest = x, self._inner(raw, node), node
        return self.unbent(kind or self.wanted)

    def branch(self, i: int, kind: str | None = None) -> Any:
        x, raw, node = self._newest
        if self.branches is not None:
            raw = self._inner(self._ask(self.branches[i], x, node), node)
        return self._as(kind or self.wanted, x, raw, node)

    def unbent(self, kind: str) -> Any:
        """The newest network output as a prediction of `kind`. (Hooks do not act in a direct run.)"""
        return self._as(kind, *self._newest)

    def _ask(self, net: Callable[[Any, Node], Any], x: Any, node: Node) -> Any:
        scale: Number = input_scale(self.predicts, node)
        seen = self.outside(x, node)
        return net(seen if isinstance(scale, int) else seen * scale, node)

    def _inner(self, raw: Any, node: Node) -> Any:
        if node.process.const is None or self.predicts != "flow":
            return raw
        return raw - node.process.doffset(node.t) * self.const(node.process.const)

    def _as(self, kind: str, x: Any, raw: Any, node: Node) -> Any:
        p, q = convert(self.predicts, kind, node)
        return raw if isinstance(p, int) and p == 0 and isinstance(q, int) and q == 1 else p * x + q * raw

    def further(self) -> Any:
        return self._further

    def noise(self, s: Node | None = None, t: Node | None = None, clock: Any = 1) -> Any:
        if self._noise is None:
            raise ValueError("this formula draws noise: give noise=")
        count = len(self.x) if isinstance(self.x, Vector) else 1
        self.column += count
        draws = [self._noise(self.step, c) for c in range(self.column - count, self.column)]
        return Vector(draws) if isinstance(self.x, Vector) else draws[0]

    def call(self, name: str, node: Node, *forms: Any, params: Sequence[Number] = ()) -> Any:
        fn = self._operators.get(name) or node.process.operators[name]
        return fn(*forms, t=plain(node.t), params=tuple(plain(v) for v in params))

    def keep(self, form: Any) -> Any:
        return form

    def planes(self, statistics: ModelStatistics) -> Curves:
        if self._curves is None:
            tensor = getattr(self.x, "new_tensor", lambda v: v)
            self._curves = statistics.curves(lambda v: tensor(v.reshape(statistics.shape)))
        return self._curves

    def const(self, name: str) -> Any:
        return self.x * 0 + 1 if name == "ones" and name not in self._consts else self._consts[name]

    def given(self, name: str) -> Any:
        return self._consts[name]

    def emit(self, name: str, form: Any) -> None:
        self.emitted[name] = form

    def outside(self, x: Any, node: Node) -> Any:
        name = node.process.const
        return x if name is None else x + node.process.offset(node.t) * self.const(name)

    def inside(self, x: Any, node: Node) -> Any:
        name = node.process.const
        return x if name is None else x - node.process.offset(node.t) * self.const(name)

    def begin(self, step: int, node: Node) -> None:
        self.step, self.column = step, 0

    def finish(self, past: Any, node: Node) -> Any:
        return past
