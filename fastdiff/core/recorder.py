"""Recorder: what a solver's formula runs over when it is compiled.

A tensor is a `Form`, a linear combination of *atoms*. Some atoms are there from outside (an input, a network
output, a draw, a constant); the others are names for forms (the argument of a call, a combination worth
keeping). A *segment* is what is named between two calls; a *call* runs the network or a hook, its arguments
are forms and its outputs are new atoms.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from .hook import Hook
from .math import Number, plain
from .number import Real, value
from .predict import convert, input_scale
from .process import Node
from .statistics import Curves, ModelStatistics

Clock: TypeAlias = "Number | str"
Span = tuple[float, float, float | str]  # time from, time to, clock

# kinds of atoms; the last two cost no memory: drawn again, or always there
INPUT, OUTPUT, NAME, NOISE, CONST = range(5)


class Form:
    """A linear combination of atoms. Forms may be added and scaled, never multiplied."""

    __slots__ = ("c", "lift")
    __array_ufunc__ = None  # numpy leaves `array * form` to us

    def __init__(self, c: dict[int, Any], lift: Callable[[Any], Any]):
        self.c, self.lift = c, lift

    def __add__(self, o: Form) -> Form:
        if not isinstance(o, Form):
            raise TypeError(f"a plan is linear: a tensor cannot be added to {type(o).__name__}")
        c = dict(self.c)
        for a, v in o.c.items():
            c[a] = c[a] + v if a in c else v
        return Form(c, self.lift)

    def __radd__(self, o: Any) -> Form:
        return self if type(o) is int and o == 0 else NotImplemented  # so that sum() works

    def __mul__(self, w: Number) -> Form:
        if isinstance(w, Form):
            raise TypeError("a plan is linear: two tensors cannot be multiplied; use a hook")
        w = self.lift(w)
        return Form({a: v * w for a, v in self.c.items()}, self.lift)

    __rmul__ = __mul__

    def __truediv__(self, w: Number) -> Form:
        if isinstance(w, Form):
            raise TypeError("a plan is linear: a tensor cannot be a divisor")
        w = self.lift(w)
        return Form({a: v / w for a, v in self.c.items()}, self.lift)

    def __neg__(self) -> Form:
        return Form({a: -v for a, v in self.c.items()}, self.lift)

    def __sub__(self, o: Form) -> Form:
        return self + (-o)


@dataclass
class Call:
    """One run of the network (kind "net"), of a hook (the point's name) or of an operator ("call:" and its
    name) between two linear stages."""

    kind: str
    node: Node
    step: int
    args: list[int]  # atoms
    outs: list[int]
    hook: int = -1
    branches: tuple[int, ...] = (0,)
    params: tuple[float, ...] = ()  # numbers for an operator


@dataclass
class Recorder:
    """Records `p.x`, `p.model(x, node)`, `p.noise()`, `p.keep(form)`, `p.const(name)` of one run of a
    formula.

    Where a value decides what is recorded (is it 0, is it 1?), the answer goes to `asked`; a recording over
    other numbers reads these `answers` and so has the same atoms.
    """

    predicts: str  # what the network gives
    hooks: Sequence[Hook] = ()
    wanted: str = "data"  # what the formula asks of p.model when it does not say
    exact: bool = True  # 60-digit Decimals; else what the formula gives (torch scalars, arrays)
    emitting: bool = False
    answers: Iterable[bool] | None = None

    kinds: list[int] = field(default_factory=list)
    info: list[Any] = field(default_factory=list)  # draws: (step, column, segment, span); names
    segments: list[list[tuple[int, dict[int, Any]]]] = field(default_factory=lambda: [[]])
    emits: list[list[tuple[tuple[str, int], int]]] = field(default_factory=lambda: [[]])
    calls: list[Call] = field(default_factory=list)
    asked: list[bool] = field(default_factory=list)
    step: int = -1
    steps: int = 0
    column: int = 0
    data: Form | None = None  # the newest data prediction
    statistics: ModelStatistics | None = None  # whose coefficients are planes, if any are

    def __post_init__(self) -> None:
        self.input = self._atom(INPUT)
        self.x: Form = self._unit(self.input)
        self._consts: dict[str, int] = {}
        self._made: Curves | None = None
        self.given_atoms: dict[str, int] = {}
        self._replay: Iterator[bool] | None = None if self.answers is None else iter(self.answers)

    @property
    def result(self) -> Form:
        """What the plan gives."""
        return self.x

    # what formulas use

    def model(self, x: Form, node: Node, kind: str | None = None) -> Form:
        """One network call at `node` on x, as a prediction of `kind` (default: the solver's own)."""
        given = self._branches(node)
        weights = {b: w for b, w in given.items() if not self._is(w, 0)}
        scale = input_scale(self.predicts, node)
        seen = self.outside(x, node)
        arg = self._name(seen if isinstance(scale, int) else seen * scale)
        if isinstance(scale, int):
            inside = self.inside(self._unit(arg), node)
            if x is self.x:
                self.x = inside
            x = inside
        outs = self._call(Call("net", node, self.step, [arg], [], branches=tuple(weights)), len(weights))
        raw = self._inner(_sum(w * f for w, f in zip(weights.values(), outs, strict=True)), node)
        self._newest = x, raw, node
        data = self.unbent("data")
        bent = False
        for i, _ in self._active("predict", node):
            args = [self._name(data), self._name(self.outside(x, node))]
            (data,), bent = self._call(Call("predict", node, self.step, args, [], hook=i), 1), True
        self.data = self.keep(data) if self.emitting else data
        source, raw = ("data", self.data) if bent else (self.predicts, raw)
        self._given = given, source, raw
        p, q = convert(source, kind or self.wanted, node)
        return self.keep(self._combine(p, x, q, raw))

    def branch(self, i: int, kind: str | None = None) -> Form:
        """What one branch of the newest network call says for itself (1: the unconditional half of CFG), as
        no hook has changed it; it is run for this even where it has no weight in the guided prediction. Where
        no guidance acts: what `model` gave."""
        (x, _, node), (known, source, raw) = self._newest, self._given
        if i in known:
            call = self._net()
            if i not in call.branches:
                call.outs.insert(len(call.branches), self._atom(OUTPUT))
                call.branches = (*call.branches, i)
            source, raw = self.predicts, self._inner(self._unit(call.outs[call.branches.index(i)]), node)
        p, q = convert(source, kind or self.wanted, node)
        return self.keep(self._combine(p, x, q, raw))

    def unbent(self, kind: str) -> Form:
        """The newest network output as a prediction of `kind`, as it was before any hook changed it."""
        x, raw, node = self._newest
        p, q = convert(self.predicts, kind, node)
        return self._combine(p, x, q, raw)

    def further(self) -> Form:
        """What the newest network call gives besides its prediction: the second half of 2C channels."""
        call = self._net()
        call.outs.append(self._atom(OUTPUT))
        return self._unit(call.outs[-1])

    def noise(self, s: Node | None = None, t: Node | None = None, clock: Clock = 1) -> Form:
        """A fresh N(0, I). Its counter is (step, column): the columns of one step are independent streams.

        With nodes it is an increment, so that a Brownian path may take its place: the integral of
        e^{clock lambda} dW over lambda from s to t, at unit variance; clock "t": of dW over time. Without
        them it belongs to no path: noise that goes back up, Langevin sweeps.
        """
        atom = self._atom(NOISE, (self.step, self.column, len(self.calls), self._span(s, t, clock)))
        self.column += 1
        xi = self._unit(atom)
        for i, _ in self._active("noise", None):
            xi = self._call(Call("noise", self._node, self.step, [self._name(xi)], [], hook=i), 1)[0]
        return xi

    def call(self, name: str, node: Node, *forms: Form, params: Sequence[Number] = ()) -> Form:
        """What an operator that is no linear map makes of these tensors at `node`: one of fastdiff.runtime's
        own (`operators.py`), or one that the process was given."""
        numbers = tuple(plain(v) for v in params)
        args = [self._name(f) for f in forms]
        return self._call(Call(f"call:{name}", node, self.step, args, [], params=numbers), 1)[0]

    def keep(self, form: Form) -> Form:
        """Name a combination that is used again: a hint of what is worth carrying, and it keeps later forms
        short."""
        if len(form.c) == 1:
            ((a, v),) = form.c.items()
            if self.kinds[a] < NOISE and self._is(v, 1):
                return form
        return self._unit(self._name(form))

    def planes(self, statistics: ModelStatistics) -> Curves:
        """Numbers for each group of elements. Which coefficients there are is found with one element that
        stands for all."""
        if self.statistics not in (None, statistics):
            raise ValueError("a plan has planes of one set of statistics, got two")
        self.statistics = statistics
        return statistics.typical if self.exact else self._curves(statistics)

    def _curves(self, statistics: ModelStatistics) -> Curves:
        if self._made is None:
            self._made = statistics.curves()
        return self._made

    def const(self, name: str) -> Form:
        """A tensor that is given once and always there (an endpoint, a mean). "ones" is had without being
        given."""
        if name not in self._consts:
            self._consts[name] = self._atom(CONST, name)
        return self._unit(self._consts[name])

    def given(self, name: str) -> Form:
        """A tensor that is given at the start, besides x: a second state. Unlike a const it lives in memory
        like any other, so that no stage makes something of it that cancels."""
        if name not in self.given_atoms:
            self.given_atoms[name] = self._atom(INPUT, name)
        return self._unit(self.given_atoms[name])

    def emit(self, name: str, form: Form) -> None:
        """Give a tensor out besides the result, of no step (-1): `Stage.emits` says where it lies."""
        self.emits[-1].append(((name, -1), self._name(form)))

    # what the driver uses

    def outside(self, x: Form, node: Node) -> Form:
        """What the network and the user see of a formula's x: with the process's offset."""
        name = node.process.const
        return x if name is None else x + node.process.offset(node.t) * self.const(name)

    def inside(self, x: Form, node: Node) -> Form:
        name = node.process.const
        return x if name is None else x - node.process.offset(node.t) * self.const(name)

    def begin(self, step: int, node: Node) -> None:
        self.step, self.column, self._node = step, 0, node

    def finish(self, past: Any, node: Node) -> Any:
        """After a step: name the state and the history, run the hooks that stand there, emit for a
        trajectory."""
        past = _map(past, self.keep)
        for point in ("state", "population"):
            for i, hook in self._active(point, node):
                history: list[Form] = []
                if hook.history == "reset":
                    past = []
                elif point == "population":
                    _map(past, history.append)
                args = [self._name(f) for f in (self.outside(self.x, node), *history)]
                outs = self._call(Call(point, node, self.step, args, [], hook=i), len(args))
                self.x = self.inside(outs[0], node)
                if history:
                    rest = iter(outs[1:])
                    past = _map(past, lambda _: next(rest))  # noqa: B023 - used at once
        self.x = self.keep(self.x)
        if self.emitting:
            self.emits[-1].append((("x", self.step), self._name(self.outside(self.x, node))))
            if self.data is not None:
                self.emits[-1].append((("data", self.step), self._name(self.data)))
        return past

    # inside

    def _lift(self, v: Any) -> Any:
        return value(v) if self.exact else float(v) if isinstance(v, Real) else v

    def _span(self, s: Node | None, t: Node | None, clock: Clock) -> Span | None:
        if s is None or t is None or not self.exact:
            return None
        return plain(s.t), plain(t.t), clock if isinstance(clock, str) else plain(clock)

    def _unit(self, atom: int) -> Form:
        return Form({atom: value(1) if self.exact else 1.0}, self._lift)

    def _atom(self, kind: int, info: Any = None) -> int:
        self.kinds.append(kind)
        self.info.append(info)
        return len(self.kinds) - 1

    def _name(self, form: Form) -> int:
        atom = self._atom(NAME)
        self.segments[-1].append((atom, form.c))
        return atom

    def _combine(self, p: Number, x: Form, q: Number, raw: Form) -> Form:
        return _sum(w * f for w, f in ((p, x), (q, raw)) if not self._is(w, 0))

    def _is(self, v: Any, what: int) -> bool:
        """Is the number 0, or 1? Other numbers than floats and Reals only follow the answers of those that
        are."""
        if self._replay is None:
            answer = isinstance(v, (int, float, Real, Decimal)) and v == what
        else:
            answer = next(self._replay)
        self.asked.append(answer)
        return answer

    def _call(self, call: Call, outs: int) -> list[Form]:
        call.outs = [self._atom(OUTPUT) for _ in range(outs)]
        self.calls.append(call)
        self.segments.append([])
        self.emits.append([])
        return [self._unit(a) for a in call.outs]

    def _net(self) -> Call:
        """The newest network call."""
        return next(c for c in reversed(self.calls) if c.kind == "net")

    def _inner(self, raw: Form, node: Node) -> Form:
        """A network's output for x as it is, as one for x less its offset."""
        name = node.process.const
        if name is None or self.predicts not in ("flow", "edm"):
            return raw
        if self.predicts == "edm":
            raise ValueError(f"an EDM-preconditioned network does not go with {node.process!r}")
        return raw - node.process.doffset(node.t) * self.const(name)

    def _active(self, point: str, node: Node | None) -> Iterable[tuple[int, Hook]]:
        node = node or self._node
        return [(i, h) for i, h in enumerate(self.hooks) if h.acts(point) and h.active(node, self.step)]

    def _branches(self, node: Node) -> dict[int, Number]:
        """Branch number -> weight of its output. Branch 0 is the plain condition; each hook's own come after
        it."""
        weights: dict[int, Number] = {0: 1}
        first = 1
        for hook in self.hooks:
            if hook.branches and hook.active(node, self.step):
                own = hook.weights(node, self.step)
                if len(own) != 1 + hook.branches:
                    raise ValueError(f"{type(hook).__name__}.weights gave {len(own)} numbers for "
                                     f"{hook.branches} extra branches; need {1 + hook.branches}")
                weights = {b: w * own[0] for b, w in weights.items()}
                weights.update({first + j: w for j, w in enumerate(own[1:])})
            first += hook.branches
        return weights


def _sum(forms: Iterable[Form]) -> Form:
    return sum(forms, start=0)  # type: ignore[return-value,arg-type]


def _map(v: Any, f: Callable[[Form], Any]) -> Any:
    """f on every Form inside nested lists and tuples."""
    if isinstance(v, (list, tuple)):
        return type(v)(_map(i, f) for i in v)
    return f(v) if isinstance(v, Form) else v
