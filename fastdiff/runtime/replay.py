"""The discrete adjoint: the exact gradient of a run, as one node of the autograd graph.

    backward, stage by stage from the last:     Tbar_i += sum_j A_ji ybar_j        linear_step with A
    transposed
                                                argbar += outbar^T d net / d arg   autograd, one call at a
                                                time

A run is cut before every network call; a snapshot is what the stages after a cut still read. The forward pass
keeps some of them, and the backward pass makes the others again: forwards from an earlier one, or backwards
from a later one (`reverse.py`). Noise is made again from its counters. Gradients reach the tensors that are
given (x, consts, conditions, tables, times, draws of a callable) and every leaf that the first network call
is seen to depend on, parameters among them. A derivative of the gradient is that of a run which keeps its
graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from ..core.plan import Plan
from .context import Place
from .executor import Executor
from .noise import Draw, Source
from .run import Run
from .schedule import Binomial, Every, backwards
from .state import needed


class Cuts:
    """A plan cut before its network calls: segment 0 leads to the first one, segment j runs call j - 1 and
    what follows it. live[j]: the registers that segments j, j + 1, ... read before they write them, those
    that are given once and stay (x, consts) left out."""

    def __init__(self, plan: Plan):
        stages = plan.stages
        self.calls = [k for k, s in enumerate(stages) if s.call is not None and s.call.kind == "net"]
        given = {r for r, k in enumerate(plan.kinds) if k == "input" or k.startswith("const")}
        self.live: list[tuple[int, ...]] = [()]
        for k in self.calls:
            call = stages[k].call
            assert call is not None
            reads = set(call.args) | (needed(plan, k + 1) - set(call.outs))
            self.live.append(tuple(sorted(reads - given)))
        self.outs = tuple(dict.fromkeys((plan.out, *(r for s in stages for _, _, r in s.emits))))
        self.ends = [*self.calls, len(stages) - 1]
        self.linear = all(s.call is None or s.call.kind == "net" for s in stages)
        calls = [c for k in self.calls if (c := stages[k].call) is not None]
        self.args: list[tuple[int, ...]] = [(), *(c.args for c in calls)]

    @property
    def last(self) -> int:
        """The last segment."""
        return len(self.calls)

    def run(self, run: Run, j: int) -> None:
        """Segment j: from the call before it up to the linear part of the stage that calls next."""
        if j:
            run.call(self.calls[j - 1])
        self.rest(run, j)

    def rest(self, run: Run, j: int) -> None:
        """Segment j after its network call."""
        first = self.calls[j - 1] + 1 if j else 0
        for k in range(first, self.ends[j]):
            run.make(k)
            run.call(k)
        if self.ends[j] >= first:
            run.make(self.ends[j])


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def cuts_of(plan: Plan) -> Cuts:
    found = _known.get(plan)
    if found is None:
        found = _known[plan] = Cuts(plan)
    return found


class _Held:
    """Stands for a tensor in what hooks remember."""


@dataclass(frozen=True)
class Snapshot:
    """A run between two segments: `tensors` are the registers' and then those that hooks remember."""

    names: tuple[int, ...] = ()
    tensors: Sequence[Tensor] = ()
    memory: Sequence[Any] = ()
    form: Any = None
    place: Place = Place()
    draws: Mapping[int, int] = field(default_factory=dict)
    random: tuple[Tensor, ...] = ()  # states of torch's generators, for networks that draw

    @property
    def registers(self) -> dict[int, Tensor]:
        return dict(zip(self.names, self.tensors, strict=False))

    def remembered(self) -> Any:
        rest = iter(self.tensors[len(self.names) :])
        return pytree.tree_unflatten([next(rest) if v is _Held else v for v in self.memory], self.form)


class Remembered:
    """A noise callable that gives the same tensor for a draw however often it is asked."""

    def __init__(self, noise: Callable[[Tensor, Draw], Tensor]):
        self.noise, self.graph = noise, torch.is_grad_enabled()
        self.made: dict[tuple[int, int], Tensor] = {}

    def __call__(self, like: Tensor, draw: Draw) -> Tensor:
        key = draw.step, draw.column
        if key not in self.made:
            with torch.set_grad_enabled(self.graph):
                self.made[key] = self.noise(like, draw)
        return self.made[key]


class Randomness:
    """torch's generators, as far as a network on this device may draw from them."""

    def __init__(self, device: torch.device):
        self.device = device

    def states(self) -> tuple[Tensor, ...]:
        here = torch.get_rng_state()
        return (here, torch.cuda.get_rng_state(self.device)) if self.device.type == "cuda" else (here,)

    def restore(self, states: Sequence[Tensor]) -> None:
        for set_state, state in zip((torch.set_rng_state, self._set_cuda), states, strict=False):
            set_state(state)

    def _set_cuda(self, state: Tensor) -> None:
        torch.cuda.set_rng_state(state, self.device)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        before = self.states()
        try:
            yield
        finally:
            self.restore(before)


class Precision:
    """The autocast of the forward pass, for the backward one."""

    def __init__(self, device: str):
        self.device, self.on = device, torch.is_autocast_enabled(device)
        self.dtype, self.cache = torch.get_autocast_dtype(device), torch.is_autocast_cache_enabled()

    def again(self) -> AbstractContextManager[Any]:
        self.forget()
        if not self.on and not torch.is_autocast_enabled(self.device):
            return nullcontext()
        return torch.autocast(self.device, dtype=self.dtype, enabled=self.on, cache_enabled=self.cache)

    def forget(self) -> None:
        """The cache of casts may hold some whose graph is gone, or that never had one."""
        if self.on:
            torch.clear_autocast_cache()


class Tape:
    """The arguments of one run, to run parts of it again; `given` and `captured` are the tensors it depends
    on that require a gradient."""

    def __init__(
        self,
        executor: Executor,
        registers: Mapping[int, Tensor],
        rng: Tensor | None,
        cond: dict[str, Any],
        cond_grad: bool,
        part: tuple[int, int, int] | None = None,
        noise: Any = None,
        tables: Sequence[Tensor] | None = None,
        times: Sequence[Any] | None = None,
    ):
        self.e, self.cuts = executor, cuts_of(executor.plan)
        self.registers, self.rng, self.cond, self.cond_grad = dict(registers), rng, cond, cond_grad
        self.part, self.tables, self.times = part, tables, times
        self.noise = Remembered(noise) if noise is not None and noise != "path" else noise
        self.source: Source | None = None
        if noise is not None and executor.plan.stochastic:
            self.source = executor.source(self.noise, rng)
        self.precision = Precision(executor.device.type)
        self.random = Randomness(executor.device)
        self.given: list[Tensor] = []
        self.captured: list[Tensor] = []
        self.exact = True  # the gradient is that of the steps taken
        self.history = False  # what was captured has a graph of its own behind it
        self.add(self.registers, self.cond if cond_grad else None, tables, times)
        if cond_grad:
            self.add(*(list(vars(h).values()) for h in executor.plan.hooks if h.branches))

    def add(self, *values: Any) -> None:
        held = {id(t) for t in self.given}
        for t in pytree.tree_leaves(values):
            if isinstance(t, Tensor) and t.requires_grad and id(t) not in held:
                held.add(id(t))
                self.given.append(t)

    @property
    def inputs(self) -> list[Tensor]:
        return [*self.given, *self.captured]

    def stand_ins(self) -> dict[int, Tensor]:
        """id of a given tensor -> a leaf of the same values."""
        return {id(t): leaf(t) for t in self.given}

    def begin(self, start: Snapshot, stand: Mapping[int, Tensor] | None = None, **look: Any) -> Run:
        """A run that goes on from `start`, with a graph where one is recorded."""

        def now(value: Any) -> Any:
            if not stand:
                return value
            held = stand
            return pytree.tree_map(lambda t: held.get(id(t), t) if isinstance(t, Tensor) else t, value)

        source = self.source
        if source is not None and isinstance(self.noise, Remembered):
            source = copy(source)  # nothing is taken from its store: every draw is asked for, and remembered
            asked = self.noise
            source.made, source.noise = {}, lambda like, draw: now(asked(like, draw))
        run = Run(
            self.e,
            {**now(self.registers), **start.registers},
            self.rng,
            now(self.cond),
            "full" if torch.is_grad_enabled() else None,
            self.cond_grad,
            part=self.part,
            noise=source,
            tables=now(self.tables),
            times=now(self.times),
            kept=True,
            swap=now,
            **look,
        )
        if run.ctx is not None and start.form is not None:
            run.ctx.memory = start.remembered()
            run.ctx.place, run.ctx.draws = start.place, dict(start.draws)
        return run

    def snapshot(self, run: Run, j: int, before: Snapshot) -> Snapshot:
        """What segment j and those after it read."""
        states = self.random.states()
        if before.random and all(map(torch.equal, states, before.random)):
            states = before.random  # the network draws nothing: one copy serves all
        names = self.cuts.live[j]
        made = Snapshot(names, [run.registers[r] for r in names], random=states)
        if run.ctx is None:
            return made
        memory, form = pytree.tree_flatten(run.ctx.memory)
        tensors = [*made.tensors, *(v for v in memory if isinstance(v, Tensor))]
        memory = [_Held if isinstance(v, Tensor) else v for v in memory]
        place, draws = run.ctx.place, dict(run.ctx.draws)
        return replace(made, tensors=tensors, memory=memory, form=form, place=place, draws=draws)

    def thin(self, snapshot: Snapshot, j: int) -> Snapshot:
        """A snapshot that serves segment j's gradient alone. The segment is linear in all but what its
        network call is given, so nothing reads the values of the rest."""
        trained = any(t.requires_grad for t in self.tables or ())
        if not self.cuts.linear or trained or not snapshot.names:
            return snapshot
        seen = {t.dtype: t for r, t in snapshot.registers.items() if r in self.cuts.args[j]}
        some = [
            t if r in self.cuts.args[j] else seen.get(t.dtype, t.new_zeros(()).expand(t.shape))
            for r, t in snapshot.registers.items()
        ]
        return replace(snapshot, tensors=some)

    def advance(self, first: int, last: int, start: Snapshot, all_of_them: bool) -> dict[int, Snapshot]:
        """From the snapshot before segment `first` to that before `last`, without a graph."""
        made: dict[int, Snapshot] = {}
        with torch.no_grad(), self.precision.again():
            self.random.restore(start.random)
            run = self.begin(start)
            for j in range(first, last):
                self.cuts.run(run, j)
                if all_of_them or j + 1 == last:
                    start = self.snapshot(run, j + 1, start)
                    made[j + 1] = self.thin(start, j + 1) if all_of_them else start
        return made

    # the forward pass

    def record(
        self, keep: frozenset[int], whole: bool = False, **look: Any
    ) -> tuple[Run, dict[int, Snapshot]]:
        """The whole run, and the snapshots before the segments in `keep`; whole: none of them thin, and of
        the other segments the generators' states."""
        cuts = self.cuts
        kept: dict[int, Snapshot] = {}
        with torch.no_grad():
            run = self.begin(Snapshot(random=self.random.states()), **look)
            with run.bar() as bar:
                cuts.run(run, 0)
                for j in range(1, cuts.last + 1):
                    before = kept.get(j - 1, Snapshot())
                    snapshot = self.snapshot(run, j, before) if whole or j in keep or j == 1 else None
                    if snapshot is not None and j in keep:
                        alone = (j + 1 in keep or j == cuts.last) and not whole
                        kept[j] = self.thin(snapshot, j) if alone else snapshot
                    elif snapshot is not None and whole:
                        kept[j] = Snapshot(random=snapshot.random)
                    if j == 1 and snapshot is not None:
                        self._probe(run, snapshot)
                    else:
                        cuts.run(run, j)
                    if bar is not None:
                        bar.update(1)
            run.check_times()
            if isinstance(self.noise, Remembered):
                self.add(list(self.noise.made.values()))
        self.precision.forget()
        return run, kept

    def _probe(self, run: Run, start: Snapshot) -> None:
        """Segment 1 with its graph, to see what it depends on; then the graph goes."""
        stand = self.stand_ins()
        leaves = replace(start, tensors=[leaf(t) for t in start.tensors])
        with torch.enable_grad(), self.precision.again():
            first = torch.ones(1, requires_grad=True).clone().grad_fn
            again = self.begin(leaves, stand)
            again.callback, again.check_finite = run.callback, run.check_finite
            self.cuts.run(again, 1)
            assert first is not None
            ends = [t for t in again.registers.values() if isinstance(t, Tensor)]
            if again.ctx is not None:
                ends += [v for v in pytree.tree_leaves(again.ctx.memory) if isinstance(v, Tensor)]
            found, self.history = leaves_of(ends, first._sequence_nr())
        mine = {id(t) for t in (*stand.values(), *leaves.tensors)}
        refs = [weakref.ref(t) for t in found if id(t) not in mine]
        run.registers |= {r: t.detach() for r, t in again.registers.items() if isinstance(t, Tensor)}
        run.registers |= self.registers
        if run.ctx is not None and again.ctx is not None:
            run.ctx.memory = pytree.tree_map(
                lambda v: v.detach() if isinstance(v, Tensor) else v, again.ctx.memory
            )
            run.ctx.place, run.ctx.draws = again.ctx.place, again.ctx.draws
        del again, ends, found, leaves, stand
        # what a hook made for itself is gone by now
        self.captured = [t for t in (r() for r in refs) if t is not None]


def leaf(t: Tensor) -> Tensor:
    return t.detach().requires_grad_() if t.is_floating_point() or t.is_complex() else t


def leaves_of(tensors: Sequence[Tensor], start: int = 0) -> tuple[list[Tensor], bool]:
    """Every leaf that requires a gradient and that these depend on; whether nodes older than `start` lie
    between."""
    seen: set[Any] = set()
    found: list[Tensor] = [t for t in tensors if t.requires_grad and t.grad_fn is None]
    todo, old = [t.grad_fn for t in tensors if t.grad_fn is not None], False
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad":
            found.append(node.variable)  # type: ignore[attr-defined]
        else:
            old = old or node._sequence_nr() < start
            todo += [n for n, _ in node.next_functions]
    return list({id(t): t for t in found}.values()), old


@contextmanager
def silent(leaves: Sequence[Tensor]) -> Iterator[None]:
    """Hooks on these tensors see the whole gradient at the end, not its parts."""
    hooks = [h for t in leaves if (h := t._backward_hooks)]
    held = [dict(h) for h in hooks]
    for h in hooks:
        h.clear()
    try:
        yield
    finally:
        for h, before in zip(hooks, held, strict=True):
            h.update(before)


class Pull:
    """The gradients of one backward pass, gathered segment by segment from the last."""

    def __init__(self, tape: Tape, grads: Sequence[Tensor | None], wanted: Sequence[bool]):
        self.tape = tape
        self.bar = {r: g for r, g in zip(tape.cuts.outs, grads, strict=True) if g is not None}
        self.memory: Sequence[Tensor | None] = ()
        self.stand = tape.stand_ins()
        self.chosen = [i for i, w in enumerate(wanted) if w]
        self.total: list[Tensor | None] = [None] * len(wanted)
        self.strangers: list[weakref.ref[Tensor]] = []
        self.reached: dict[int, Tensor] = {}  # where the newest segment led

    def segment(self, j: int, start: Snapshot, between: Callable[[Run], Snapshot] | None = None) -> Snapshot:
        """Through segment j; between: given the run after its network call, makes the snapshot of which
        `start` has the call's arguments alone. Returns the leaves that stood for the snapshot."""
        tape, cuts = self.tape, self.tape.cuts
        leaves = replace(start, tensors=[leaf(t) for t in start.tensors])
        with torch.enable_grad(), tape.precision.again():
            if start.random:
                tape.random.restore(start.random)
            run = tape.begin(leaves, self.stand)
            if between is None:
                cuts.run(run, j)
            else:
                run.call(cuts.calls[j - 1])
                leaves = between(run)
                run.registers.update(leaves.registers)
                cuts.rest(run, j)
        self.reached = {r: run.registers[r].detach() for r in (*cuts.live, ())[j + 1]}
        ends = [
            (run.registers[r], self.bar.pop(r)) for r in list(self.bar) if run.registers.get(r) is not None
        ]
        if run.ctx is not None and any(g is not None for g in self.memory):
            held = [v for v in pytree.tree_leaves(run.ctx.memory) if isinstance(v, Tensor)]
            pairs = zip(held, self.memory, strict=True)
            ends += [(v, g) for v, g in pairs if g is not None]
        self._vjp([(e, g.to(e.dtype)) for e, g in ends if e.requires_grad], leaves)
        return replace(leaves, tensors=[t.detach() for t in leaves.tensors])

    def _vjp(self, ends: list[tuple[Tensor, Tensor]], leaves: Snapshot) -> None:
        tape = self.tape
        mine = [t for t in leaves.tensors if t.requires_grad]
        inputs = [*self.stand.values(), *tape.captured]
        sources = [*mine, *(inputs[i] for i in self.chosen)]
        found: Sequence[Tensor | None] = [None] * len(sources)
        if not sources:
            return
        known = {id(t) for t in (*leaves.tensors, *inputs)}
        others = (t for t in leaves_of([e for e, _ in ends])[0] if id(t) not in known)
        self.strangers += map(weakref.ref, others)
        # what has come so far goes in first, so that sums are taken in the order of one long graph
        ends += [(inputs[i], g) for i in self.chosen if (g := self.total[i]) is not None]
        if ends:
            tensors, grads = zip(*ends, strict=True)
            with silent(tape.captured):
                found = torch.autograd.grad(
                    tensors, sources, grads, allow_unused=True, retain_graph=tape.history
                )
        back = {id(t): g for t, g in zip(mine, found, strict=False)}
        self.bar.update((r, g) for r, t in leaves.registers.items() if (g := back.get(id(t))) is not None)
        self.memory = [back.get(id(t)) for t in leaves.tensors[len(leaves.names) :]]
        for i, g in zip(self.chosen, found[len(mine) :], strict=True):
            self.total[i] = g

    def result(self) -> list[Tensor | None]:
        """A leaf that only a later call uses would go without its gradient: said rather than left out."""
        for ref in self.strangers:
            t = ref()
            if t is not None:
                raise RuntimeError(
                    f"a tensor {tuple(t.shape)} that requires a gradient takes part in a later network call "
                    "and not in the first: make it a parameter that every call uses, pass it in cond "
                    "(cond_grad=True), or use gradient='full'"
                )
        return self.total


Way = Callable[[Tape, Pull, dict[int, Snapshot]], None]


class _Recorded(torch.autograd.Function):
    """A run whose values are known; backward makes it again in parts, by its `way`."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, way: Way, outs: Any, kept: Any, *inputs: Tensor) -> Any:  # type: ignore[override]
        ctx.set_materialize_grads(False)
        unique = {id(t): t for s in kept.values() for t in s.tensors}
        places = {key: len(inputs) + i for i, key in enumerate(unique)}
        ctx.kept = {j: (replace(s, tensors=()), [places[id(t)] for t in s.tensors]) for j, s in kept.items()}
        ctx.save_for_backward(*inputs, *unique.values())
        ctx.tape, ctx.way, ctx.count = tape, way, len(inputs)
        return tuple(t.detach() for t in outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tape, wanted = ctx.tape, ctx.needs_input_grad[4:]
        saved = ctx.saved_tensors
        with tape.random.untouched():
            if torch.is_grad_enabled():
                if not tape.exact:
                    raise ValueError("gradient='adjoint' has no second derivative; use gradient='full'")
                return None, None, None, None, *_with_graph(tape, ctx.kept, grads, wanted)
            kept = {j: replace(s, tensors=[saved[i] for i in at]) for j, (s, at) in ctx.kept.items()}
            pull = Pull(tape, grads, wanted)
            ctx.way(tape, pull, kept)
            if tape.exact:
                pull.segment(0, Snapshot())
        return None, None, None, None, *pull.result()


def _with_graph(
    tape: Tape, kept: Mapping[int, Any], grads: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradient with a graph of its own: through a run that keeps everything."""
    first = kept.get(1)
    if first is not None:
        tape.random.restore(first[0].random)
    with tape.precision.again():
        run = tape.begin(Snapshot())
        for j in range(tape.cuts.last + 1):
            tape.cuts.run(run, j)
    pairs = zip(tape.cuts.outs, grads, strict=True)
    ends = [(run.registers[r], g) for r, g in pairs if g is not None and run.registers[r].requires_grad]
    total: list[Tensor | None] = [None] * len(wanted)
    chosen = [i for i, w in enumerate(wanted) if w]
    if ends and chosen:
        tensors, cotangents = zip(*ends, strict=True)
        sources = [tape.inputs[i] for i in chosen]
        found = torch.autograd.grad(tensors, sources, cotangents, create_graph=True, allow_unused=True)
        for i, g in zip(chosen, found, strict=True):
            total[i] = g
    return total


def recorded(
    tape: Tape, keep: frozenset[int], way: Way, whole: bool = False, exact: bool = True, **look: Any
) -> Run:
    """The run of a tape, its results in the graph by one node; not exact: `way` wants the result too, and
    gives all of the gradient. look: callback, check_finite, progress."""
    run, kept = tape.record(keep, whole, **look)
    tape.exact = exact
    if not exact:
        kept[tape.cuts.last + 1] = Snapshot((run.plan.out,), [run.registers[run.plan.out]])
    outs = [run.registers[r] for r in tape.cuts.outs]
    if tape.inputs:
        run.registers.update(
            zip(tape.cuts.outs, _Recorded.apply(tape, way, outs, kept, *tape.inputs), strict=True)
        )
    for what, step, r in (e for s in run.plan.stages for e in s.emits):
        run.looked.setdefault(what, {})[step] = run.registers[r]
    return run


def checkpointed(schedule: Every | Binomial, tape: Tape, **look: Any) -> Run:
    """The run, its gradient by snapshots that are made again forwards."""
    count = tape.cuts.last

    def way(tape: Tape, pull: Pull, kept: dict[int, Snapshot]) -> None:
        for j, snapshot in (
            backwards(1, count + 1, schedule.slots(count), kept, tape.advance) if count else ()
        ):
            pull.segment(j, snapshot)

    return recorded(tape, schedule.kept(count), way, **look)
