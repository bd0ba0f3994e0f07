"""Run: an executor's stages one after the other. `run_fast` is the same in C++, for runs nobody looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.errors import NonFinite
from ..core.plan import DRAWS, INPUTS, OUTPUTS, PlanCall, Stage
from ..noise.seeds import resolve
from ..noise.streams import column_stream
from ..ops._library import EAGER, route
from ..ops.linear_step import linear_step
from .conditions import detached, rows, same, stack
from .context import Context, Graph, ask_inputs, run_hook
from .executor import Executor
from .noise import Source
from .operators import OPERATORS
from .state import State, needed

T_CHANGED = "the network changed its times t in place; let it work on a copy (t.clone())"
OVERWRITTEN = (
    "the network wrote one condition's output over another's at step {}; "
    "let it return a new tensor (out.clone())"
)
Callback = Callable[[int, float, Tensor, Tensor], Any]
# of each branch; of all in one batch, where they stack
Conditions = tuple[list[dict[str, Any]], dict[str, Any] | None]


def version(t: Tensor) -> int:
    """Counts the writes to a tensor; tensors of inference mode are not counted."""
    return 0 if t.is_inference() else t._version


class _Wider(Exception):
    """The network's output is float64, the state is not."""


def run_fast(e: Executor, program: Any, x: Tensor, rng: Tensor | None, cond: dict[str, Any]) -> Tensor:
    """The result of the loop in C++."""
    denoiser, plan = e.denoiser, e.plan
    pool = e.take_buffers()
    registers: list[Tensor | None] = [x if r == 0 else pool.get(r) for r in range(len(plan.kinds))]
    if plan.out != 0:
        registers[plan.out] = e.fresh()
    ours = [t for t in registers if t is not None]
    written = [version(t) for t in ours]  # the program's own writes are not counted
    net = denoiser.net
    if denoiser.x_dtype is not None and denoiser.x_dtype != x.dtype:

        def net(x: Tensor, t: Tensor) -> Any:
            return denoiser.net(x.to(denoiser.x_dtype), t, **cond)
    elif cond:

        def net(x: Tensor, t: Tensor) -> Any:
            return denoiser.net(x, t, **cond)

    def check(out: Any, arg: Tensor, k: int) -> Tensor:
        """What C++ does not take as it is: other kinds of output, a view of our memory, a wider dtype."""
        out = denoiser.take(out, arg).detach().as_subclass(Tensor).resolve_neg()
        if out.dtype == torch.float64 and arg.dtype != torch.float64:
            raise _Wider
        place = out.untyped_storage().data_ptr()
        shared = any(t.untyped_storage().data_ptr() == place for t in ours)
        return out.clone(memory_format=torch.contiguous_format) if shared else out.contiguous()

    try:
        program.run(registers, rng, net, e.times, check)
    except _Wider:
        e.slow = True  # float64 outputs want float64 tables: from the start, in the loop that looks
        run = Run(e, {0: x}, rng, cond)
        run.go(0, len(plan.stages))
        return run.registers[plan.out]
    if [version(t) for t in ours] != written:
        raise ValueError("the network changed its input x in place; let it work on a copy (x.clone())")
    if not e.right_clock():
        raise ValueError(T_CHANGED)
    e.buffers.append(pool)
    out = registers[plan.out]
    assert out is not None
    return out


class Outputs:
    """Keeps what the network (or a hook) returns apart from our memory and from what it returned before."""

    def __init__(self) -> None:
        self.ours: set[int] = set()  # addresses of storages
        self.versions: dict[int, int] = {}  # register of an output -> its version when it came

    def own(self, out: Tensor, register: int, step: int, registers: Mapping[int, Tensor | None]) -> Tensor:
        """The output in order for its register; a copy where the next stage would write over it."""
        for r, came in self.versions.items():
            held = registers[r]
            if held is not None and version(held) != came:
                raise ValueError(
                    f"the network wrote its output of step {step} over an earlier one that is still "
                    "needed; let it return a new tensor (out.clone())"
                )
        if out.untyped_storage().data_ptr() in self.ours and out.numel():
            out = out.clone(memory_format=torch.contiguous_format)
        out = out.contiguous()
        self.versions[register] = version(out)
        return out


class Run:
    """One run of an executor, with everything that may be looked at on the way."""

    def __init__(
        self,
        executor: Executor,
        registers: dict[int, Tensor],
        rng: Tensor | None,
        cond: dict[str, Any],
        gradient: str | None = None,
        cond_grad: bool = False,
        callback: Callback | None = None,
        check_finite: bool = False,
        progress: bool = False,
        part: tuple[int, int, int] | None = None,
        noise: Any = None,
        *,
        tables: Sequence[Tensor] | None = None,
        times: Sequence[Any] | None = None,
        kept: bool = False,
        swap: Callable[[Any], Any] | None = None,
    ):
        """tables, times: other coefficients and network times than the plan's, by stage; kept: nothing that
        the run makes is written over, though no graph may be recorded; swap: what stands for the tensors in
        a hook's conditions"""
        self.e, self.plan = executor, executor.plan
        self.tables, self.times = tables, executor.times if times is None else times
        self.registers, self.rng, self.cond = dict(registers), rng, cond
        self.gradient, self.cond_grad, self.callback = gradient, cond_grad, callback
        self.check_finite, self.progress, self.part = check_finite, progress, part
        self.looked: dict[str, dict[int, Tensor]] = {}  # what is given out -> step -> tensor
        # buffers are for plain tensors; a graph, a compiler and torch.func want new ones
        given = [*registers.values(), *(tables or ())]
        self.plain = gradient is None and not kept and route(given) == EAGER
        self.kept, self.watched, self.swap = kept, self.plain or kept, swap
        self.pool = executor.take_buffers() if self.plain else {}
        self.places = dict(self.pool)
        self.outputs = Outputs()
        if self.plain:
            mine = [t for r, t in registers.items() if self.plan.kinds[r] != "raw"]
            self.outputs.ours.update(t.untyped_storage().data_ptr() for t in (*mine, *self.pool.values()))
        self.branches: dict[tuple[int, ...], tuple[Sequence[Mapping[str, Any]], Conditions]] = {}
        self.source: Source | None = None
        if isinstance(noise, Source):
            self.source = noise
        elif noise is not None and self.plan.stochastic:
            self.source = executor.source(noise, rng)
        self.noise = noise
        self.ctx: Context | None = None
        hooks = self.plan.hooks
        self.grad_input = any(h.grad == "input" for h in hooks)
        if hooks:
            keys = rng if rng is not None else resolve(0, executor.shape[0], executor.device)
            self.ctx = Context(executor.denoiser, cond, keys, self.plan.visits, executor.backend, part)
            kinds = enumerate(self.plan.kinds)
            self.ctx.consts = {
                k[6:]: registers[r] for r, k in kinds if k.startswith("const:") and r in registers
            }

    def go(self, first: int, last: int) -> None:
        """Stages first .. last - 1."""
        with self.bar() as bar:
            for k in range(first, last):
                self.make(k)
                self.call(k)
                if bar is not None and k in self.e.calls:
                    bar.update(1)
        self.check_times()
        if self.pool:
            self.e.buffers.append(self.pool)

    def check_times(self) -> None:
        if not torch.compiler.is_compiling() and not self.e.right_clock():
            raise ValueError(T_CHANGED)

    def make(self, k: int) -> None:
        """The linear part of a stage."""
        stage = self.plan.stages[k]
        if stage.outputs:
            self.linear(k, stage)
        for what, step, r in stage.emits:
            self.looked.setdefault(what, {})[step] = self.registers[r]
            if what == "data" and self.callback is not None:
                self._show(step, self.looked["x"][step], self.registers[r])

    def call(self, k: int) -> None:
        """The call that follows it."""
        stage, call = self.plan.stages[k], self.plan.stages[k].call
        if call is None:
            return
        for r in (*stage.drop, *call.outs):  # their memory is free before the network asks for more
            self.registers[r] = None  # type: ignore[assignment]
        act = self.operator if call.kind.startswith("call:") else self.hook
        net = self.network if len(call.args) == 1 else self.network_of_several
        outs = net(k, call) if call.kind == "net" else act(k, call)
        if self.watched:
            outs = [
                self.outputs.own(o, r, call.step, self.registers)
                for r, o in zip(call.outs, outs, strict=True)
            ]
        self.registers.update(zip(call.outs, outs, strict=True))

    def stop(self, first: int, step: int) -> State:
        """From stage `first` on until that many steps are done."""
        boundary = self.e.boundary(step)
        self.pool = {}  # the buffers go into the State, and nobody else gets them
        self.go(first, boundary)
        mine = {id(t) for t in self.places.values()}
        alive = {r: self.registers[r] for r in sorted(needed(self.plan, boundary))}
        # a const may be one row for all
        kept = {r: t.detach().expand(self.e.shape).clone() for r, t in alive.items() if id(t) not in mine}
        alive |= kept
        rng = resolve(0, self.e.shape[0], self.e.device) if self.rng is None else self.rng
        kind = "" if self.noise is None else self.noise if isinstance(self.noise, str) else "callable"
        return State(self.plan.digest, boundary, step, self.e.dtype, alive, rng, kind)

    def _show(self, step: int, x: Tensor, data: Tensor) -> None:
        assert self.callback is not None
        before = version(x), version(data)
        seen = (x.detach(), data.detach()) if self.kept else (x, data)
        self.callback(step, self.plan.end_of(step), *seen)
        if (version(x), version(data)) != before:
            raise ValueError(f"callback changed x or data in place at step {step}; to steer a run use a Hook")

    def bar(self) -> Any:
        if not self.progress:
            return nullcontext()
        try:
            from tqdm.auto import tqdm
        except ImportError as e:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from e
        which = "" if self.part is None else f", samples {self.part[0]} .. {self.part[1] - 1}"
        return tqdm(total=sum(c.kind == "net" for c in self.plan.calls), desc=self.plan.solver + which)

    # linear stages

    def linear(self, k: int, stage: Stage) -> None:
        e, regs = self.e, self.registers
        T = [regs[i] for i in stage.inputs] or [torch.zeros(e.shape, dtype=e.dtype, device=e.device)]
        noise = [(d, column_stream(c)) for d, c in stage.draws]
        if noise and self.source is not None:
            T, noise = T + self.source.of(k, stage.draws, stage.spans), []
        double = e.dtype == torch.float64 or any(t.dtype == torch.float64 for t in T)
        if self.tables is None:
            A = e.table(double)[k]
        else:
            A = self.tables[k].to(torch.float64 if double else torch.float32)
        outs = [self._place(r) for r in stage.outputs] if self.plain else None
        if len(stage.outputs) <= OUTPUTS and len(T) <= INPUTS and len(noise) <= DRAWS:
            made = self._launch(T, A, noise, outs)
        else:  # one output at a time; the compiler lets no such stage write over what it reads
            made = [
                self._row(T, A[..., j : j + 1, :], noise, None if outs is None else outs[j : j + 1])
                for j in range(A.shape[-2])
            ]
        regs.update(zip(stage.outputs, made, strict=True))

    def _place(self, r: int) -> Tensor:
        """The memory of a register: a buffer, or what this run gives away (the result, a trajectory)."""
        if r not in self.places:
            self.places[r] = self.e.fresh()
            self.outputs.ours.add(self.places[r].untyped_storage().data_ptr())
        return self.places[r]

    def _launch(
        self,
        T: list[Tensor],
        A: Tensor,
        noise: list[tuple[int, int]],
        outs: list[Tensor] | None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        e, draws, streams = self.e, [d for d, _ in noise], [s for _, s in noise]
        if outs is None and dtype is None:
            dtype = e.dtype
        return linear_step(
            T,
            A,
            index=e.index,
            rng=self.rng,
            draws=draws,
            streams=streams,
            dtype=dtype,
            out=outs,
            backend=e.backend,
        )

    def _row(
        self, T: list[Tensor], A: Tensor, noise: list[tuple[int, int]], out: list[Tensor] | None
    ) -> Tensor:
        """An output of any width: partial sums in the dtype of the arithmetic, in the columns' order."""
        parts: list[tuple[list[Tensor], list[tuple[int, int]], int]] = []
        parts += [(T[i : i + INPUTS - 1], [], i) for i in range(0, len(T), INPUTS - 1)]
        parts += [([], noise[c : c + DRAWS], len(T) + c) for c in range(0, len(noise), DRAWS)]
        total: list[Tensor] = []
        for k, (some, drawn, first) in enumerate(parts):
            table = A[..., first : first + len(some) + len(drawn)]
            if k:
                table = torch.cat([torch.ones_like(table[..., :1]), table], -1)
            end = (out, None) if k == len(parts) - 1 else (None, A.dtype)
            total = list(self._launch([*total, *some], table.contiguous(), drawn, *end))
        return total[0]

    def operator(self, k: int, call: PlanCall) -> list[Tensor]:
        """An operator's output, in the dtype of the state."""
        args = [self.registers[r] for r in call.args]
        name = call.kind[5:]
        own = {} if self.plan.recipe is None else self.plan.recipe.solver.operators
        act = own.get(name) or self.e.denoiser.process.operators.get(name) or OPERATORS.get(name)
        if act is None:
            raise ValueError(
                f"a loaded plan has no operator {name!r} of its solver; compile it with fd.plan(...)"
            )
        out = act(*args, t=call.t, params=call.params)
        if not isinstance(out, Tensor) or out.shape != args[0].shape or out.device != args[0].device:
            came = f"{tuple(out.shape)} on {out.device}" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the operator {name!r} must return a tensor like its first, got {came}")
        return [out.to(args[0].dtype)]

    # the network

    def network(self, k: int, call: PlanCall) -> list[Tensor]:
        """The outputs of every branch."""
        ctx, x, t = self.ctx, self.registers[call.args[0]], self.times[k]
        if ctx is not None:
            ctx.graph, ctx.outputs = None, ()  # the last step's graph is gone before the next one grows
        leaf, mode = x, nullcontext()
        if self.grad_input and not (x.requires_grad and torch.is_grad_enabled()):
            leaf, mode = x.detach().requires_grad_(True), torch.enable_grad()
        before = version(x) if self.watched else 0
        conds, merged = self._conditions(call.branches, k)
        whole = len(call.outs) > len(call.branches)
        with mode:
            if merged is None:
                outs = self._one_by_one(leaf, t, conds, call.step, whole)
            else:
                many = len(conds)
                xs, ts = torch.cat([leaf] * many), torch.cat([t] * many)
                outs = list(self._evaluate(xs, ts, merged, whole).chunk(many))
        if whole:
            halves = [o.tensor_split(2, 1) for o in outs]
            outs = [*(prediction for prediction, _ in halves), halves[0][1]]
        if self.watched and version(x) != before:
            raise ValueError(
                f"the network changed its input x in place at step {call.step}; "
                "let it work on a copy (x.clone())"
            )
        if self.check_finite and not all(bool(torch.isfinite(o).all()) for o in outs):
            raise NonFinite(f"the network's output is not finite at step {call.step} (t={call.t:g})")
        if ctx is not None:
            if self.grad_input:
                ctx.graph = Graph(leaf, outs, self.e.place(k).weights, self.gradient is not None)
                outs = outs if self.gradient is not None else [o.detach() for o in outs]
            ctx.outputs = outs
        return outs

    def network_of_several(self, k: int, call: PlanCall) -> list[Tensor]:
        """The outputs of every branch, branch by branch, of a network that is given all registers."""
        xs, t = [self.registers[r] for r in call.args], self.times[k]
        before = [version(x) if self.watched else 0 for x in xs]
        conds, merged = self._conditions(call.branches, k)
        if merged is None:
            outs = []
            for c in conds:
                came = [version(o) for o in outs]
                outs += self._evaluate_several(xs, t, c)
                if self.watched and [version(o) for o in outs[: len(came)]] != came:
                    raise ValueError(OVERWRITTEN.format(call.step))
        else:
            many = len(conds)
            pairs = self._evaluate_several([torch.cat([x] * many) for x in xs], torch.cat([t] * many), merged)
            halves: list[Sequence[Tensor]] = [o.chunk(many) for o in pairs]
            outs = [o for branch in zip(*halves, strict=True) for o in branch]
        if self.watched and [version(x) for x in xs] != before:
            raise ValueError(
                f"the network changed its input in place at step {call.step}; "
                "let it work on a copy (x.clone())"
            )
        if self.check_finite and not all(bool(torch.isfinite(o).all()) for o in outs):
            raise NonFinite(f"the network's output is not finite at step {call.step} (t={call.t:g})")
        return outs

    def _evaluate_several(self, xs: list[Tensor], t: Tensor, cond: Mapping[str, Any]) -> list[Tensor]:
        several = self.e.denoiser.several
        if self.gradient == "checkpoint":
            return checkpoint(several, xs, t, cond, use_reentrant=False)  # type: ignore[return-value]
        return several(xs, t, cond)

    def _one_by_one(
        self, x: Tensor, t: Tensor, conds: list[dict[str, Any]], step: int, whole: bool
    ) -> list[Tensor]:
        outs, came = [], []
        for c in conds:
            outs.append(self._evaluate(x, t, c, whole))
            came.append(version(outs[-1]) if self.watched else 0)
        if self.watched and [version(o) for o in outs] != came:
            raise ValueError(OVERWRITTEN.format(step))
        return outs

    def _evaluate(self, x: Tensor, t: Tensor, cond: Mapping[str, Any], whole: bool) -> Tensor:
        raw = self.e.denoiser.raw
        if self.gradient == "checkpoint":
            return checkpoint(raw, x, t, cond, whole, use_reentrant=False)  # type: ignore[return-value]
        return raw(x, t, cond, whole)

    def _conditions(self, branches: tuple[int, ...], k: int) -> Conditions:
        """Made anew only when some hook gives others than at the last call."""
        if branches == (0,):
            return [self.cond], None
        assert self.ctx is not None
        given: list[Mapping[str, Any]] = []
        for i, hook in enumerate(self.plan.hooks):
            if hook.branches:
                self.ctx.at(self.e.place(k), i)
                given += ask_inputs(hook, self.ctx)
        before, made = self.branches.get(branches, ((), None))
        if made is None or not same(before, given):
            every = [self.cond, *(self._condition(own) for own in given)]
            conds = [every[b] for b in branches]
            made = conds, stack(conds, self.e.shape[0]) if len(conds) > 1 else None
            self.branches[branches] = given, made
        return made

    def _condition(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Of a branch: what it says of its own before what all have."""
        own = own if self.part is None else rows(own, *self.part)
        own = own if self.cond_grad or self.gradient is None else detached(own)
        own = own if self.swap is None else self.swap(dict(own))
        return {**self.cond, **own}

    # hooks

    def hook(self, k: int, call: PlanCall) -> list[Tensor]:
        assert self.ctx is not None
        self.ctx.at(self.e.place(k), call.hook)
        hook, args = self.plan.hooks[call.hook], [self.registers[r] for r in call.args]
        outs = run_hook(hook, self.ctx, call, args)
        if self.gradient is not None and torch.is_grad_enabled():
            if hook.adjoint == "stop":
                outs = [o.detach() for o in outs]
            elif any(a.requires_grad for a in args) and not any(o.requires_grad for o in outs):
                raise ValueError(
                    f"hook {type(hook).__name__} at point {call.kind!r}, step {call.step}: a gradient is "
                    "asked, but as far as autograd sees its result does not depend on its argument; if that "
                    'is meant, let the hook say adjoint = "stop"'
                )
        return [o.to(self.e.dtype) for o in outs]
