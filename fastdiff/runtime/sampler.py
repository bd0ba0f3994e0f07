"""Sampler: a plan with a network, ready to run again and again.

The loop knows two kinds of stages, linear and call; there is no branch per method. On the CPU, where nothing has to be
looked at between the stages, the same loop runs in C++ (`_C.Program`): about half a microsecond a step besides the network.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.errors import NonFinite, unknown
from ..core.plan import DRAWS, INPUTS, OUTPUTS, Plan, PlanCall, Stage
from ..core.predict import convert, input_scale
from ..noise.seeds import resolve
from ..noise.streams import column_stream
from ..ops import _backends
from ..ops._library import EAGER, route
from ..ops.linear_step import linear_step
from .conditions import detached, rows, stack
from .context import Context, Graph, Place, run_hook
from .denoiser import DTYPES, Denoiser
from .state import State, Trajectory, needed

GRADIENTS = (None, "full", "checkpoint")
KEPT = 16  # shapes for which a sampler keeps tables and buffers
Callback = Callable[[int, float, Tensor, Tensor], Any]


class Sampler:
    """denoiser and plan -> samples. `sampler(x_T, seeds=0)`; see `__call__`. Safe to call from several threads."""

    def __init__(self, denoiser: Denoiser, plan: Plan, *, backend: str | None = None):
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"Sampler: denoiser must be a fd.Denoiser, got {type(denoiser).__name__}")
        if not isinstance(plan, Plan):
            raise TypeError(f"Sampler: plan must be a fd.Plan (see fd.plan), got {type(plan).__name__}")
        if plan.predicts != denoiser.predicts:
            raise ValueError(f"Sampler: the plan is for a {plan.predicts!r} network, the denoiser predicts {denoiser.predicts!r}")
        known = plan.process == repr(denoiser.process) if plan.recipe is None else plan.recipe.process == denoiser.process
        if not known:
            raise ValueError(f"Sampler: the plan is for {plan.process}, the denoiser for {denoiser.process!r}")
        if backend is not None and backend not in _backends.NAMES:
            raise unknown("backend", backend, _backends.NAMES)
        self.denoiser, self.plan, self.backend = denoiser, plan, backend
        self._executors: dict[tuple[Any, ...], _Executor] = {}
        self._trajectory: tuple[Plan, np.ndarray] | None = None

    def __call__(
        self,
        x: Tensor | State,
        *,
        seeds: Any = None,
        cond: Mapping[str, Any] | None = None,
        cond_grad: bool = False,
        gradient: str | None = None,
        trajectory: bool = False,
        callback: Callback | None = None,
        progress: bool = False,
        check_finite: bool = False,
        stop: int | None = None,
    ) -> Any:
        """Run the plan on x (B, *) from times[0], or go on from a State.

        seeds         int s (sample i uses (s, i)), sequence (sample i uses (seeds[i], 0)), fd.Seeds, torch.Generator, or None
        cond          keyword arguments of the network
        gradient      None (no graph), "full" (everything is stored) or "checkpoint" (network calls are run again in the backward pass)
        cond_grad     let gradients reach the tensors in cond
        callback      called after each step with (step, t, x, data)
        check_finite  raise NonFinite with the step at which the network's output is not finite
        stop          stop after that many steps and return a State

        Returns x at times[-1], a Trajectory, or a State. Raises ValueError or TypeError before anything runs.
        """
        return self._call(x, None, seeds, cond, cond_grad, gradient, trajectory, callback, progress, check_finite, stop)

    def _call(
        self, x: Tensor | State, rng: Tensor | None, seeds: Any, cond: Mapping[str, Any] | None, cond_grad: bool,
        gradient: str | None, trajectory: bool, callback: Callback | None, progress: bool, check_finite: bool,
        stop: int | None = None, part: tuple[int, int, int] | None = None,
    ) -> Any:
        """__call__, with the random keys already made where rng is given; part = (first, last, batch) of a chunk."""
        plan, start, times = self.plan, 0, self.plan.times
        check_run(plan, cond, gradient, callback)
        looked_at = trajectory or callback is not None
        if isinstance(x, State):
            if looked_at or seeds is not None or gradient is not None:
                raise ValueError("a State has its own seeds and no earlier steps: seeds, trajectory, callback and gradient must be left out")
            x.check(plan)
            start, rng, registers, like = x.stage, x.rng, dict(x.registers), x.like
        else:
            check_x(x)
            like, registers = x, {0: x.contiguous()}
        if stop is not None:
            first = x.step if isinstance(x, State) else 0
            if isinstance(stop, bool) or not isinstance(stop, int) or not first < stop < plan.visits:
                raise ValueError(f"stop must be a whole number of steps between {first + 1} and {plan.visits - 1}, got {stop!r}")
            if looked_at or gradient is not None:
                raise ValueError("stop does not go with trajectory, callback or gradient")
        if looked_at:
            plan, times = self._looked_at()
        executor = self._executor(plan, like)
        if rng is None and (executor.random or seeds is not None):
            rng = resolve(seeds, like.shape[0], like.device)
        cond = dict(cond or {})
        if gradient is not None and not cond_grad:
            cond = detached(cond)
        plain = not (looked_at or progress or check_finite or gradient or stop or start)
        with nullcontext() if gradient is not None else torch.no_grad():
            if plain and route((like,)) == EAGER and (program := executor.program) is not None:
                return executor.run_fast(program, registers[0], rng, cond)
            run = _Run(executor, registers, rng, cond, gradient, cond_grad, callback, check_finite, progress, part)
            if stop is not None:
                return run.stop(start, stop)
            run.go(start, len(plan.stages))
        out = run.registers[plan.out]
        if trajectory:
            states = torch.stack([registers[0], *(run.states[i] for i in range(plan.visits))])
            return Trajectory(out, times, states, torch.stack([run.data[i] for i in range(plan.visits)]))
        return out

    def capture(self, x: Tensor, *, cond: Mapping[str, Any] | None = None) -> CapturedSampler:
        """The whole run as one CUDA graph for x's shape: `graph(x, seeds=...)` replays it. CUDA only."""
        check_x(x)
        if not x.is_cuda:
            raise ValueError(f"capture needs a CUDA tensor, got one on {x.device}")
        # an executor of its own: a replay writes into the buffers that it was captured with
        return CapturedSampler(_Executor(self.denoiser, self.plan, x, self.backend), x, dict(cond or {}))

    def _executor(self, plan: Plan, x: Tensor) -> _Executor:
        key = (plan is self.plan, tuple(x.shape), x.dtype, x.device)
        executor = self._executors.get(key)
        return eagerly(self._new_executor, key, plan, x) if executor is None else executor

    def _new_executor(self, key: tuple[Any, ...], plan: Plan, x: Tensor) -> _Executor:
        with torch.inference_mode(False):
            executor = _Executor(self.denoiser, plan, x, self.backend)
        if route(()) == EAGER:  # under a mode or torch.func its tensors are not plain ones
            if len(self._executors) >= KEPT:
                self._executors.clear()
            self._executors[key] = executor
        return executor

    def _looked_at(self) -> tuple[Plan, np.ndarray]:
        """The plan that gives every state and data prediction out, and the times it visits."""
        if self._trajectory is None:
            self._trajectory = eagerly(self._make_trajectory)
        return self._trajectory

    def _make_trajectory(self) -> tuple[Plan, np.ndarray]:
        plan = self.plan.with_trajectory()
        return plan, np.array([plan.times[0], *(plan.end_of(i) for i in range(plan.visits))])

    def __repr__(self) -> str:
        return f"Sampler({self.denoiser!r}, {self.plan!r})"


def check_run(plan: Plan, cond: Any, gradient: Any, callback: Any) -> None:
    """What can be said about these arguments of a run before it."""
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient={gradient!r}; allowed: {', '.join(map(repr, GRADIENTS))}")
    if cond is not None and not (isinstance(cond, Mapping) and all(isinstance(k, str) for k in cond)):
        raise TypeError(f"cond must be a dict of the network's keyword arguments, got {type(cond).__name__}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable as callback(step, t, x, data), got {type(callback).__name__}")
    if torch.compiler.is_compiling():
        return
    wants_graph = gradient is not None or any(h.grad == "input" for h in plan.hooks)
    if wants_graph and torch.is_inference_mode_enabled():
        raise ValueError("torch.inference_mode records nothing, but gradient or a hook's ctx.vjp needs a graph; use torch.no_grad")
    if gradient != "full" and torch.is_grad_enabled() and _under_func_grad():
        why = "would give a derivative of 0" if gradient is None else "needs hooks on saved tensors, which torch.func has not"
        raise ValueError(f"inside torch.func.grad or vjp gradient={gradient!r} {why}: pass gradient='full', or sample "
                         "under torch.no_grad()")


def _under_func_grad() -> bool:
    if not torch._C._are_functorch_transforms_active():
        return False
    return any(level.key() == torch._C._functorch.TransformType.Grad for level in torch._C._functorch.get_interpreter_stack() or ())


def eagerly(make: Callable[..., Any], *args: Any) -> Any:
    """make(*args) outside of a torch.compile around us: plans and tables are made by host code, which no graph can hold."""
    if not torch.compiler.is_compiling():
        return make(*args)
    torch._dynamo.graph_break(msg="fastdiff: to compile a Sampler whole, run it once before at this shape, dtype and device")
    return torch.compiler.disable(make)(*args)


def check_x(x: Any, name: str = "x") -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {x.layout}")
    if x.dim() < 1:
        raise ValueError(f"{name} must have a batch axis, got a tensor of no axes")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64, got {x.dtype}")
    if x.device.type == "meta":
        raise ValueError(f"{name} is a meta tensor: it has no numbers")


class _Executor:
    """A plan made ready for one shape, dtype and device: coefficient tables, network times, buffers."""

    def __init__(self, denoiser: Denoiser, plan: Plan, x: Tensor, backend: str | None):
        _backends.choose("Sampler", backend, x.device.type)
        _check_coefficients(plan, x.dtype)
        self.denoiser, self.plan, self.backend = denoiser, plan, backend
        self.shape, self.dtype, self.device = x.shape, x.dtype, x.device
        self.random = plan.stochastic or any(c.kind != "net" for c in plan.calls)
        self.tables: dict[torch.dtype, list[Tensor]] = {}
        state64 = x.dtype == torch.float64
        self.table(torch.float64 if state64 else torch.float32)
        times = denoiser.times_tensor([c.t for c in plan.calls], x) if plan.calls else x.new_empty(0)
        self.times = [row.expand(x.shape[0]).contiguous() for row in times]
        self.call_of_stage = {k: i for i, k in enumerate(k for k, s in enumerate(plan.stages) if s.call)}
        self.places = {k: _place(denoiser, plan, s.call) for k, s in enumerate(plan.stages) if plan.hooks and s.call}
        self.buffers: list[dict[int, Tensor]] = []  # sets not in use; a run takes one and puts it back
        self._program: Any = None
        self.slow = not (backend in (None, "cpu") and x.device.type == "cpu" and type(x) is Tensor)

    def table(self, dtype: torch.dtype) -> list[Tensor]:
        """Coefficients of every stage, rounded once to the dtype of the arithmetic."""
        if dtype not in self.tables:
            rows = (a if s.inputs else np.pad(a, ((0, 0), (1, 0))) for s, a in zip(self.plan.stages, self.plan.coeffs, strict=True))
            made = [torch.tensor(a, dtype=dtype).to(self.device) for a in rows]
            if route(()) != EAGER:  # under a mode or torch.func they are no plain tensors
                return made
            self.tables[dtype] = made
        return self.tables[dtype]

    def take_buffers(self) -> dict[int, Tensor]:
        try:
            return self.buffers.pop()
        except IndexError:  # asked for rather than looked for: another thread may take the last
            pass
        with torch.inference_mode(False):
            return {r: torch.empty(self.shape, dtype=self.dtype, device=self.device) for r, k in enumerate(self.plan.kinds)
                    if k == "state" and r != self.plan.out}

    def boundary(self, stop: int) -> int:
        """The stage with which a run goes on after `stop` steps."""
        for k, s in enumerate(self.plan.stages):
            if s.call is not None and s.call.step >= stop:
                return k
        return len(self.plan.stages) - 1

    @property
    def program(self) -> Any:
        """The plan as a loop in C++, None where something has to be looked at on the way."""
        if self.slow:
            return None
        if self._program is None:
            self._program = self._compile()
            self.slow = self._program is None
        return self._program

    def _compile(self) -> Any:
        from .. import _C

        plan = self.plan
        for s in plan.stages:
            simple = s.call is None or (s.call.kind == "net" and s.call.branches == (0,))
            if not simple or (s.draws and not s.inputs) or s.emits or len(s.outputs) > OUTPUTS or len(s.inputs) > INPUTS or len(s.draws) > DRAWS:
                return None
        if any(k.startswith("const") for k in plan.kinds):
            return None
        tables = self.table(torch.float64 if self.dtype == torch.float64 else torch.float32)
        return _C.Program([
            (list(s.inputs), list(s.outputs), a, [d for d, _ in s.draws], [column_stream(c) for _, c in s.draws],
             s.call.args[0] if s.call else -1, s.call.outs[0] if s.call else -1, list(s.drop))
            for s, a in zip(plan.stages, tables, strict=True)
        ])

    def run_fast(self, program: Any, x: Tensor, rng: Tensor | None, cond: dict[str, Any]) -> Tensor:
        denoiser, plan = self.denoiser, self.plan
        buffers = self.take_buffers()
        registers: list[Tensor | None] = [x if r == 0 else buffers.get(r) for r in range(len(plan.kinds))]
        if plan.out != 0:
            registers[plan.out] = torch.empty_like(x)
        if denoiser.x_dtype is not None and denoiser.x_dtype != x.dtype:
            def net(x: Tensor, t: Tensor) -> Any:
                return denoiser.net(x.to(denoiser.x_dtype), t, **cond)
        elif cond:
            def net(x: Tensor, t: Tensor) -> Any:
                return denoiser.net(x, t, **cond)
        else:
            net = denoiser.net  # type: ignore[assignment]

        def check(out: Any, arg: Tensor, k: int) -> Tensor:
            """What C++ does not take as it is: other kinds of output, a view of our memory, a wider dtype."""
            out = denoiser.take(out, arg).detach().as_subclass(Tensor)
            if out.dtype == torch.float64 and arg.dtype != torch.float64:
                raise _Wider
            ours = {t.untyped_storage().data_ptr() for r, t in enumerate(registers) if t is not None and plan.kinds[r] != "raw"}
            return out.clone() if out.untyped_storage().data_ptr() in ours else out.contiguous()

        written = [version(t) for t in (x, *buffers.values())]  # the program's own writes are not counted
        try:
            program.run(registers, rng, net, self.times, check)
        except _Wider:
            self.slow = True  # float64 outputs want float64 tables: from the start, in the loop that looks
            run = _Run(self, {0: x}, rng, cond)
            run.go(0, len(plan.stages))
            return run.registers[plan.out]
        if [version(t) for t in (x, *buffers.values())] != written:
            raise ValueError("the network changed its input x in place; let it work on a copy (x.clone())")
        self.buffers.append(buffers)
        out = registers[plan.out]
        assert out is not None
        return out


def _check_coefficients(plan: Plan, dtype: torch.dtype) -> None:
    """Refuse a plan whose result would be rounding error: its coefficients amplify that of the arithmetic beyond 1."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    limit = 0.1 / torch.finfo(wide).eps
    for s in plan.stages:
        worst = np.abs(s.coeffs).max(initial=0)
        if worst > limit:
            where = f"before step {s.call.step} (t={s.call.t:g})" if s.call else "of the last step"
            better = "" if wide == torch.float64 else ", or is this a case for float64"
            raise ValueError(f"{plan.solver}: a coefficient {where} is {worst:.3g}, so its result would be rounding error of {wide}; "
                             f"are two times too close together{better}?")


def _place(denoiser: Denoiser, plan: Plan, call: PlanCall) -> Place:
    """What hooks may ask at a call, as plain numbers."""
    node = denoiser.process.node(call.t)
    t, alpha, sigma = (float(v) for v in (node.t, node.alpha, node.sigma))
    here = Place(call.step, t, alpha, sigma, sigma / alpha if alpha else float("inf"))
    if call.kind not in ("net", "predict"):
        return here
    weights, first = {0: 1.0}, 1
    for hook in plan.hooks:
        if hook.branches and hook.active(node, call.step):
            own = [float(w) for w in hook.weights(node, call.step)]
            weights = {b: w * own[0] for b, w in weights.items()} | dict(enumerate(own[1:], first))
        first += hook.branches
    p, q = (float(c) for c in convert(denoiser.predicts, "data", node))
    used = tuple(weights[b] for b in call.branches)
    return here._replace(p=p, q=q, scale=float(input_scale(denoiser.predicts, node)), weights=used)


class _Wider(Exception):
    """The network's output is float64, the state is not."""


class _Outputs:
    """Keeps what the network (or a hook) returns apart from our own memory and from what it returned before."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.versions: dict[int, int] = {}  # register of an output -> its version counter when it came

    def own(self, out: Tensor, register: int, step: int, registers: Mapping[int, Tensor]) -> Tensor:
        """The output in order for its register; a copy where it is a view of x or of a buffer, which the next stage overwrites."""
        for r, held in registers.items():
            if r in self.versions and held is not None and self.versions[r] != version(held):
                raise ValueError(f"the network wrote its output of step {step} over an earlier one that is still needed; "
                                 "let it return a new tensor (out.clone())")
        place = out.untyped_storage().data_ptr()
        ours = (t for r, t in registers.items() if t is not None and self.plan.kinds[r] != "raw")
        if out.numel() and any(t.untyped_storage().data_ptr() == place for t in ours):
            out = out.clone(memory_format=torch.contiguous_format)
        out = out.contiguous()
        self.versions[register] = version(out)
        return out


def version(t: Tensor) -> int:
    """Counts the writes to a tensor; tensors of inference mode are not counted."""
    return 0 if t.is_inference() else t._version


class _Run:
    """One run of an executor, stage by stage, with everything that may be looked at on the way."""

    def __init__(self, executor: _Executor, registers: dict[int, Tensor], rng: Tensor | None, cond: dict[str, Any],
                 gradient: str | None = None, cond_grad: bool = False, callback: Callback | None = None, check_finite: bool = False,
                 progress: bool = False, part: tuple[int, int, int] | None = None):
        self.e, self.plan, self.registers, self.rng, self.cond = executor, executor.plan, dict(registers), rng, cond
        self.gradient, self.cond_grad, self.callback = gradient, cond_grad, callback
        self.check_finite, self.progress, self.part = check_finite, progress, part
        self.states: dict[int, Tensor] = {}
        self.data: dict[int, Tensor] = {}
        # buffers are for plain tensors; a graph, a compiler and torch.func want new ones
        self.plain = gradient is None and route(registers.values()) == EAGER
        self.pool = executor.take_buffers() if self.plain else {}
        self.places = dict(self.pool)
        self.outputs = _Outputs(self.plan)
        self.branch_cond: dict[tuple[int, ...], tuple[list[dict[str, Any]], dict[str, Any] | None]] = {}
        self.ctx: Context | None = None
        hooks = self.plan.hooks
        self.grad_input = any(h.grad == "input" for h in hooks)
        if hooks:
            keys = rng if rng is not None else resolve(0, executor.shape[0], executor.device)
            self.ctx = Context(executor.denoiser, cond, keys, self.plan.visits, executor.backend, part)

    def go(self, first: int, last: int) -> None:
        """Stages first .. last - 1."""
        with self._bar() as bar:
            for k in range(first, last):
                stage = self.plan.stages[k]
                if stage.outputs:
                    self.linear(k, stage)
                for what, step, r in stage.emits:
                    (self.states if what == "x" else self.data)[step] = self.registers[r]
                    if what == "data" and self.callback is not None:
                        self._show(step, self.states[step], self.registers[r])
                if stage.call is not None:
                    for r in (*stage.drop, *stage.call.outs):  # their memory is free before the network asks for more
                        self.registers[r] = None  # type: ignore[assignment]
                    outs = self.network(k, stage.call) if stage.call.kind == "net" else self.hook(k, stage.call)
                    for r, out in zip(stage.call.outs, outs, strict=True):
                        self.registers[r] = out
                    if bar is not None and stage.call.kind == "net":
                        bar.update(1)
        if self.pool:
            self.e.buffers.append(self.pool)

    def stop(self, first: int, step: int) -> State:
        """From stage `first` on until that many steps are done."""
        boundary = self.e.boundary(step)
        self.pool = {}  # the buffers go into the State, and nobody else gets them
        self.go(first, boundary)
        mine = {id(t) for t in self.places.values()}
        alive = {r: self.registers[r] for r in sorted(needed(self.plan, boundary))}
        alive = {r: t if id(t) in mine else t.detach().clone() for r, t in alive.items()}
        rng = resolve(0, self.e.shape[0], self.e.device) if self.rng is None else self.rng
        return State(self.plan.digest, boundary, step, self.e.dtype, alive, rng)

    def _show(self, step: int, x: Tensor, data: Tensor) -> None:
        assert self.callback is not None
        before = version(x), version(data)
        self.callback(step, self.plan.end_of(step), x, data)
        if (version(x), version(data)) != before:
            raise ValueError(f"callback changed x or data in place at step {step}; to steer a run use a Hook")

    def _bar(self) -> Any:
        if not self.progress:
            return nullcontext()
        try:
            from tqdm.auto import tqdm
        except ImportError as e:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from e
        what = self.plan.solver if self.part is None else f"{self.plan.solver}, samples {self.part[0]} .. {self.part[1] - 1}"
        return tqdm(total=sum(c.kind == "net" for c in self.plan.calls), desc=what)

    def linear(self, k: int, stage: Stage) -> None:
        regs = self.registers
        # a stage of draws alone reads a zero, to have a batch
        T = [regs[i] for i in stage.inputs] or [torch.zeros(self.e.shape, dtype=self.e.dtype, device=self.e.device)]
        double = self.e.dtype == torch.float64 or any(t.dtype == torch.float64 for t in T)
        A = self.e.table(torch.float64 if double else torch.float32)[k]
        draws, streams = [d for d, _ in stage.draws], [column_stream(c) for _, c in stage.draws]
        outs = [self._place(r) for r in stage.outputs] if self.plain else None
        if len(stage.outputs) <= OUTPUTS and len(T) <= INPUTS and len(draws) <= DRAWS:
            made = linear_step(T, A, rng=self.rng, draws=draws, streams=streams, dtype=self.e.dtype, out=outs, backend=self.e.backend)
        else:
            made = self._split(stage, T, A, draws, streams, outs)
        for r, y in zip(stage.outputs, made, strict=True):
            regs[r] = y

    def _place(self, r: int) -> Tensor:
        """The memory of a register: a buffer, or what this run gives away (the result, a trajectory)."""
        if r not in self.places:
            self.places[r] = torch.empty(self.e.shape, dtype=self.e.dtype, device=self.e.device)
        return self.places[r]

    def _split(self, stage: Stage, T: list[Tensor], A: Tensor, draws: list[int], streams: list[int], outs: list[Tensor] | None) -> list[Tensor]:
        """A stage too wide for one launch: a few outputs at a time, each with the inputs it uses."""
        made = []
        for j in range(0, len(stage.outputs), OUTPUTS):
            rows = slice(j, min(j + OUTPUTS, len(stage.outputs)))
            table = stage.coeffs[rows]
            used = [i for i in range(len(T)) if np.any(table[:, i])]
            noise = [i for i in range(len(draws)) if np.any(table[:, len(T) + i])]
            if len(used) > INPUTS or len(noise) > DRAWS:
                raise ValueError(f"a stage of {self.plan.solver} reads {len(used)} tensors and {len(noise)} draws at once; "
                                 f"one launch takes {INPUTS} and {DRAWS}")
            columns = torch.tensor([*used, *(len(T) + i for i in noise)], device=A.device)
            made += linear_step([T[i] for i in used], A[rows].index_select(1, columns), rng=self.rng, draws=[draws[i] for i in noise],
                                streams=[streams[i] for i in noise], dtype=self.e.dtype, out=None if outs is None else outs[rows],
                                backend=self.e.backend)
        return made

    def network(self, k: int, call: PlanCall) -> list[Tensor]:
        e, ctx = self.e, self.ctx
        x, t, branches = self.registers[call.args[0]], e.times[e.call_of_stage[k]], call.branches
        if ctx is not None:
            ctx.graph, ctx.outputs = None, ()  # the last step's graph is gone before the next one grows
        leaf, mode = x, nullcontext()
        if self.grad_input and not (x.requires_grad and torch.is_grad_enabled()):
            leaf, mode = x.detach().requires_grad_(True), torch.enable_grad()
        watched = x if self.plain else None
        before = version(x) if self.plain else 0
        with mode:
            if len(branches) == 1:
                outs = [self._evaluate(leaf, t, self._conds(branches, k)[0][0])]
            else:
                outs = self._branches(leaf, t, *self._conds(branches, k), call.step)
        if watched is not None and version(watched) != before:
            raise ValueError(f"the network changed its input x in place at step {call.step}; let it work on a copy (x.clone())")
        if self.grad_input:
            assert ctx is not None
            ctx.graph = Graph(leaf, outs, e.places[k].weights, self.gradient is not None)
            if self.gradient is None:
                outs = [o.detach() for o in outs]
        if ctx is not None:
            ctx.outputs = outs
        if self.check_finite:
            for o in outs:
                if not bool(torch.isfinite(o).all()):
                    raise NonFinite(f"the network's output is not finite at step {call.step} (t={call.t:g})")
        if self.plain:
            outs = [self.outputs.own(o, r, call.step, self.registers) for o, r in zip(outs, call.outs, strict=True)]
        return outs

    def _branches(self, x: Tensor, t: Tensor, conds: list[dict[str, Any]], merged: dict[str, Any] | None, step: int) -> list[Tensor]:
        """The network on one x under several conditions: in one batch where they stack, else one call each."""
        many = len(conds)
        if merged is not None:
            return list(self._evaluate(torch.cat([x] * many), torch.cat([t] * many), merged).chunk(many))
        outs, came = [], []
        for c in conds:
            outs.append(self._evaluate(x, t, c))
            came.append(version(outs[-1]) if self.plain else 0)
        if self.plain and [version(o) for o in outs] != came:
            raise ValueError(f"the network wrote one condition's output over another's at step {step}; let it return a new tensor "
                             "(out.clone())")
        return outs

    def _evaluate(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        denoiser = self.e.denoiser
        if self.gradient == "checkpoint":
            return checkpoint(denoiser.raw, x, t, cond, use_reentrant=False)  # type: ignore[return-value]
        return denoiser.raw(x, t, cond)

    def _conds(self, branches: tuple[int, ...], k: int) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """The conditions of each branch and, where they stack, one batch of them; made once a run."""
        if branches not in self.branch_cond:
            every, first = {0: self.cond}, 1
            for i, hook in enumerate(self.plan.hooks):
                if hook.branches:
                    assert self.ctx is not None
                    self.ctx.at(self.e.places[k], i)
                    for j, own in enumerate(hook.inputs(self.ctx)):
                        own = own if self.part is None else rows(own, *self.part)
                        own = own if self.cond_grad or self.gradient is None else detached(own)
                        every[first + j] = {**self.cond, **own}
                first += hook.branches
            conds = [every[b] for b in branches]
            self.branch_cond[branches] = conds, stack(conds, self.e.shape[0]) if len(conds) > 1 else None
        return self.branch_cond[branches]

    def hook(self, k: int, call: PlanCall) -> list[Tensor]:
        assert self.ctx is not None
        self.ctx.at(self.e.places[k], call.hook)
        outs = run_hook(self.plan.hooks[call.hook], self.ctx, call, [self.registers[r] for r in call.args])
        outs = [o.to(self.e.dtype) for o in outs]
        if self.plain:
            outs = [self.outputs.own(o, r, call.step, self.registers) for o, r in zip(outs, call.outs, strict=True)]
        return outs


class CapturedSampler:
    """A run recorded as one CUDA graph. Inputs are copied into its own tensors; the result is copied out."""

    def __init__(self, executor: _Executor, x: Tensor, cond: dict[str, Any]):
        self.executor = executor
        self.x = x.clone(memory_format=torch.contiguous_format)
        self.rng = resolve(0, x.shape[0], x.device)
        self.cond = {k: v.clone() if isinstance(v, Tensor) else v for k, v in cond.items()}
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):  # kernels are loaded and the allocator is warm before capture
            for _ in range(2):
                self._run()
        torch.cuda.current_stream(x.device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = self._run()

    def _run(self) -> Tensor:
        with torch.no_grad():
            run = _Run(self.executor, {0: self.x}, self.rng, self.cond)
            run.go(0, len(self.executor.plan.stages))
        return run.registers[self.executor.plan.out]

    def __call__(self, x: Tensor, *, seeds: Any = None, cond: Mapping[str, Any] | None = None) -> Tensor:
        """Replay with another x, other seeds and other tensors in cond (of the captured shapes)."""
        check_x(x)
        if x.shape != self.x.shape or x.dtype != self.x.dtype or x.device != self.x.device:
            raise ValueError(f"captured for {tuple(self.x.shape)} {self.x.dtype} on {self.x.device}, got {tuple(x.shape)} {x.dtype} on {x.device}")
        self.x.copy_(x)
        if self.executor.random:
            self.rng.copy_(resolve(seeds, x.shape[0], x.device))
        for k, v in (cond or {}).items():
            if k not in self.cond or not isinstance(v, Tensor) or not isinstance(self.cond[k], Tensor) or v.shape != self.cond[k].shape:
                raise ValueError(f"cond[{k!r}] was not captured as a tensor of this shape")
            self.cond[k].copy_(v)
        self.graph.replay()
        return self.out.clone()
