"""The one driver of adaptive solvers: times and steps for each sample, on the device.

Each sample has its own v (the solver's coordinate), its own step and its own verdict: what comes of it does
not depend on the batch it stands in. The host looks every `sync_every` attempts: samples that are done leave
the batch, NaNs and steps that have become too small are named. Between two looks nothing waits for a device.

Coefficients are computed in float64 by torch on the device, so devices may differ in their last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.adaptive import Adaptive
from ..core.errors import NonFinite
from ..core.hook import POINTS, Hook
from ..core.predict import convert
from ..core.process import Node, Process
from ..core.solver import Solver, check_kind
from ..noise.seeds import resolve
from ..ops.error_norm import error_norm
from ..ops.linear_step import linear_step
from . import conditions
from .attempt import REGISTERS, Attempt
from .checks import check_x
from .clock import Clock
from .context import Context, ask_inputs
from .denoiser import Denoiser
from .motion import CELLS, motion_of
from .run import version

SMALLEST = 2.0**-40  # step, as part of the way
PER_SAMPLE = (
    "ids", "v", "h", "past", "done", "fault", "fault_at", "x", "low", "kept", "rng", "const"
)  # fmt: skip


@dataclass(frozen=True)
class Adapted:
    """x (B, *): the result. calls, steps, rejected (B,) int64, of each sample: the network calls it was part
    of (a guided one counts one for each branch), the steps accepted and the attempts refused."""

    x: Tensor
    calls: Tensor
    steps: Tensor
    rejected: Tensor


class Run:
    """One run: the samples that are still under way, and what is known of all."""

    def __init__(
        self,
        sampler: AdaptiveSampler,
        x: Tensor,
        rng: Tensor | None,
        cond: Mapping[str, Any],
        const: Tensor | None,
        part: tuple[int, int, int] | None,
    ):
        self.solver, self.denoiser, self.backend = sampler.solver, sampler.denoiser, sampler.backend
        self.process, self.hooks = sampler.process, sampler.hooks
        self.dtype, self.device, self.batch = x.dtype, x.device, x.shape[0]
        self.wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.cond, self.const, self.rng = dict(cond), const, rng
        self.given: list[Mapping[str, Any]] = []
        if self.hooks:
            keys = resolve(0, self.batch, self.device) if rng is None else rng
            ctx = Context(self.denoiser, cond, keys, 0, self.backend, part)
            for i, hook in enumerate(self.hooks):
                ctx.hook = i
                own = ask_inputs(hook, ctx)
                self.given += own if part is None else [conditions.rows(c, *part) for c in own]
        self.branches = 1 + len(self.given)
        self.weights = _weights(self.hooks, sampler.start)
        self.unit = torch.eye(REGISTERS, dtype=torch.float64, device=self.device).expand(self.batch, -1, -1)
        self.first = self.start = sampler.start
        self.end, self.zero = sampler.end, sampler.zero
        if self.first.pure:  # away from alpha = 0 by the exact limit, to where it errs by 1 % of what may be
            near = np.log(0.1 * max(self.solver.atol, self.solver.rtol) ** 0.5)
            self.start = self.process.node(self.process.time_of(min(near, float(self.end.lam))))
        self.clock = Clock(self.denoiser, self.start, self.end, x)
        self.v_start, self.v_end = (self.solver.coordinate(n) for n in (self.start, self.end))
        self.way = self.v_end - self.v_start
        self.motion = motion_of(self) if self.solver.stochastic else None
        self.kept: Tensor | None = None
        self.attempts = 0
        self.out = torch.empty_like(x, memory_format=torch.contiguous_format)
        self.x = x.contiguous()
        zeros = torch.zeros(self.batch, dtype=torch.int64, device=self.device)
        self.calls, self.steps, self.rejected = zeros, zeros.clone(), zeros.clone()

    # the network

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        before = version(x)
        conds = [self.cond, *({**self.cond, **own} for own in self.given)]
        merged = conditions.stack(conds, x.shape[0]) if len(conds) > 1 else None
        n, raw = len(conds), self.denoiser.raw
        if merged is not None:
            outs = list(raw(torch.cat([x] * n), torch.cat([t] * n), merged).chunk(n))
        else:
            outs = [raw(x, t, c) for c in conds]
        if version(x) != before:
            raise ValueError("the network changed its input x in place; let it work on a copy (x.clone())")
        outs = [o.detach().contiguous() for o in outs]
        if n == 1:
            return outs[0]
        wide = torch.float64 if any(o.dtype == torch.float64 for o in outs) else torch.float32
        table = torch.full((1, n), 0.0, dtype=wide, device=self.device)
        for k, w in enumerate(self.weights):
            table[:, k].fill_(w)
        return linear_step(outs, table, dtype=outs[0].dtype, backend=self.backend)[0]

    # the way

    def node(self, v: Tensor) -> Node:
        return self.solver.node(self.clock, v)

    def cell(self, v: Tensor) -> Tensor:
        return ((v - self.v_start) * (CELLS / self.way)).round().long()

    def target(self, v: Tensor, h: Tensor) -> Tensor:
        """Where the attempt from v ends: at the end itself rather than just before it."""
        to = v + h
        if self.motion is not None:
            i = self.cell(v)
            j = torch.maximum(self.cell(to), i + 1)
            to = self.v_start + j.double() * (self.way / CELLS)
        return torch.where(self.v_end - to < 1e-6 * self.way, self.v_end, to)

    def go(self, bar: Any) -> None:
        """All samples from the start to the end, into `out`."""
        self.x = self.shifted(self.x, self.first, -1)
        if self.first.pure:
            self.jump(self.first, self.start)
        whole = self.cond, self.given, self.const
        self.adapt(bar)
        self.x, self.kept = self.out, None
        self.cond, self.given, self.const = whole
        if self.zero is not None:
            self.jump(self.end, self.zero)
        self.out = self.shifted(self.x, self.zero or self.end, 1)

    def adapt(self, bar: Any) -> None:
        full = torch.full((self.batch,), 0.0, dtype=torch.float64, device=self.device)
        self.ids = torch.arange(self.batch, device=self.device)
        self.v, self.h = full + self.v_start, full + min(self.solver.h_init, self.way)
        self.past = torch.ones(self.batch, 2, dtype=torch.float64, device=self.device)
        self.low = self.x if self.solver.measured_by == "low" else None
        self.done = torch.zeros(self.batch, dtype=torch.bool, device=self.device)
        # 1: NaN, 2: too small a step
        self.fault = torch.zeros(self.batch, dtype=torch.uint8, device=self.device)
        self.fault_at = full.clone()
        self.own = [torch.zeros_like(self.ids) for _ in range(3)]  # calls, steps, rejected of the active ones
        every = self.solver.sync_every or (1 if self.device.type == "cpu" else 4)
        while len(self.ids):
            for _ in range(min(every, self.solver.max_steps - self.attempts)):
                self.attempt()
            left = len(self.ids)
            self.look()
            if bar is not None:
                bar.update(left - len(self.ids))
            if len(self.ids) and self.attempts >= self.solver.max_steps:
                self.give_up()

    def attempt(self) -> None:
        solver, v = self.solver, self.v
        to = self.target(v, self.h)
        s, t = self.node(v), self.node(to)
        p = Attempt(self, self.x, v, to)
        high, error = solver.attempt(p, s, t)
        if self.low is not None:
            x, low = p.tensors(high, high - error)
            a, b = low, self.low
        else:
            (x,) = p.tensors(high)
            a, b, low = x, self.x, None
        E, C = p.table([error])
        e = error_norm(E, a, b, atol=solver.atol, rtol=solver.rtol, C=C[:, 0], backend=self.backend).double()
        p.check()
        self.decide(e, to, p.calls, x, low)
        if solver.reuses_last:
            first, last = p.outputs[0][0], p.outputs[-1][0]
            self.kept = _pick(self.accepted, last, first)
        self.attempts += 1

    def decide(self, e: Tensor, to: Tensor, calls: int, x: Tensor, low: Tensor | None) -> None:
        solver, active = self.solver, ~self.done
        if solver.whole_batch:
            e = (e * e).mean().sqrt().expand_as(e)
        used = to - self.v
        if solver.pid is None:
            change = (solver.safety * (-solver.exponent * e.log()).exp()).clamp(*solver.limits)
            accepted, h = e <= 1, change * used
        else:
            b1, b2, b3, safety = solver.pid
            r = 1 / (e + 1e-8)
            past = self.past if self.attempts else r[:, None].expand_as(self.past)
            logs = b1 * r.log() + b2 * past[:, 0].log() + b3 * past[:, 1].log()
            change = 1 + (logs.exp() - 1).atan()
            accepted, h = change >= safety, change * self.h
            self.past = torch.where(accepted[:, None], torch.stack([r, past[:, 0]], 1), past)
        nan = e.isnan()
        small = ~accepted & (used <= self.way * (1.5 / CELLS if self.motion is not None else SMALLEST))
        new = active & (self.fault == 0) & (nan | small)
        self.fault = torch.where(new, torch.where(nan, 1, 2).to(torch.uint8), self.fault)
        self.fault_at = torch.where(new, self.v, self.fault_at)
        accepted = self.accepted = accepted & active
        self.x = _pick(accepted, x, self.x)
        if low is not None:
            self.low = _pick(accepted, low, self.low)
        for count, by in zip(self.own, (active * calls, accepted, active & ~accepted), strict=True):
            count += by
        # who is done, or past help, stays where its last step began: there every coefficient is finite
        self.done = self.done | accepted & (to >= self.v_end)
        self.v = torch.where(accepted & ~self.done, to, self.v)
        self.h = torch.where(self.done | (self.fault != 0), self.h, h)

    def look(self) -> None:
        """The host looks: faults are raised, and who is done leaves."""
        status = torch.stack([self.done.to(torch.uint8), self.fault]).cpu()
        if status[1].any():
            self.fail(status[1])
        if not status[0].any():
            return
        gone, stay = (torch.nonzero(m.bool())[:, 0].to(self.device) for m in (status[0], status[0] == 0))
        at = self.ids[gone]
        self.out[at] = self.x[gone]
        for total, count in zip((self.calls, self.steps, self.rejected), self.own, strict=True):
            total[at] += count[gone]
        batch = len(self.ids)
        for name in PER_SAMPLE:
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[stay])
        self.own = [c[stay] for c in self.own]
        self.cond = _only(self.cond, stay, batch)
        self.given = [_only(g, stay, batch) for g in self.given]

    def fail(self, fault: Tensor) -> None:
        k = int(fault.ne(0).nonzero()[0])
        where = f"sample {int(self.ids[k])}, step from t={self._time(self.fault_at[k : k + 1]):g}"
        if int(fault[k]) == 1:
            raise NonFinite(
                f"{self.solver.key}: the error of a step is NaN ({where}); the network's output or the state "
                "is not finite there"
            )
        raise ValueError(
            f"{self.solver.key}: the step has become too small ({where}); are rtol={self.solver.rtol:g} and "
            f"atol={self.solver.atol:g} below the rounding of {self.dtype}, or does the network jump?"
        )

    def give_up(self) -> None:
        worst = int(self.v.argmin())
        at, h = self._time(self.v[worst : worst + 1]), float(self.h[worst])
        raise ValueError(
            f"{self.solver.key}: {len(self.ids)} of {self.batch} samples are not done after "
            f"max_steps={self.solver.max_steps} attempts (sample {int(self.ids[worst])} is at t={at:g} with "
            f"step {h:.3g}); raise max_steps, rtol or atol"
        )

    def _time(self, v: Tensor) -> float:
        return float(self.node(v).t)

    # the ends

    def jump(self, a: Node, b: Node) -> None:
        """A step that all samples take alike: from alpha = 0, or to sigma = 0."""
        full = torch.zeros(self.batch, dtype=torch.float64, device=self.device)
        s, t = (self.clock.at_time(full + float(n.t)) for n in (a, b))
        p = Attempt(self, self.x)
        if a.pure:
            Solver.first(self.solver, p, s, t)
        else:
            Solver.last(self.solver, p, s, t, [])
        (self.x,) = p.tensors(p.x)
        self.calls += p.calls

    def shifted(self, x: Tensor, n: Node, sign: int) -> Tensor:
        """x into (-1) or out of (+1) the frame in which the process pulls towards nothing."""
        if self.const is None:
            return x
        table = torch.ones((1, 2), dtype=self.wide, device=self.device)
        table[:, 1].fill_(sign * float(self.process.offset(n.t)))
        return linear_step([x, self.const], table, dtype=self.dtype, backend=self.backend)[0]


def _pick(which: Tensor, yes: Tensor, no: Any) -> Tensor:
    return torch.where(which.reshape(-1, *[1] * (yes.dim() - 1)), yes, no)


def _only(cond: Mapping[str, Any], stay: Tensor, batch: int) -> dict[str, Any]:
    """The per-sample values of those that stay."""

    def take(v: Any) -> Any:
        if isinstance(v, Mapping):
            return _only(v, stay, batch)
        return v[stay.to(v.device)] if isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == batch else v

    return {k: take(v) for k, v in cond.items()}


def _weights(hooks: Sequence[Hook], node: Node) -> list[float]:
    """Of the network's outputs, the plain one first, in the guided prediction."""
    weights = [1.0]
    for hook in hooks:
        own = [float(w) for w in hook.weights(node, 0)]
        weights = [w * own[0] for w in weights] + own[1:]
    return weights


def _guidance(hooks: Sequence[Hook], process: Process, s: Node, t: Node) -> tuple[Hook, ...]:
    """The hooks, if an adaptive run can do what they ask: the same combination of outputs at all times."""
    low = min(float(s.lam), float(t.lam)) if not s.pure else float(t.lam) - 20
    nodes = [process.node(float(v)) for v in process.time_of(np.linspace(low, float(t.lam), 33))]
    for hook in hooks:
        name = type(hook).__name__
        if not isinstance(hook, Hook):
            raise TypeError(f"hooks must be Hooks, got {name}")
        elsewhere = any(hook.acts(point) for point in POINTS) or type(hook).route is not Hook.route
        if elsewhere or hook.grad != "none":
            raise ValueError(
                f"{name} acts at a point that adaptive steps do not have; guidance by weights (CFG) does not"
            )
        kinds = {(hook.active(n, 0), *map(float, hook.weights(n, 0))) for n in nodes}
        if len(kinds) > 1:
            raise ValueError(f"{name} changes over the times, which does not go with adaptive steps")
    return tuple(h for h in hooks if h.active(nodes[0], 0))


class AdaptiveSampler:
    """denoiser and adaptive solver -> samples: `sampler(x, seeds=0)`; `sampler.solve(x)` also counts."""

    calls = ()  # no call stages: what fd.sample asks a plan for

    def __init__(
        self,
        denoiser: Denoiser,
        solver: Adaptive,
        times: Sequence[float] | None = None,
        *,
        final: str = "zero",
        hooks: Sequence[Hook] = (),
        backend: str | None = None,
    ):
        """times: where the run starts and ends (default: the process's own); the end may be its zero.
        final: "zero" and "denoise" go on from t_min to the zero, "sigma_min" does not."""
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"AdaptiveSampler: denoiser must be a fd.Denoiser, got {type(denoiser).__name__}")
        if not isinstance(solver, Adaptive) or not solver.adaptive:
            raise TypeError(f"AdaptiveSampler: solver must be an adaptive Solver, got {solver!r}")
        process = denoiser.process
        check_kind(solver, process)
        self.denoiser, self.solver, self.process, self.backend = denoiser, solver, process, backend
        if times is None:
            times = [process.t_max, process.t_min] + ([] if final == "sigma_min" else [process.t_zero])
        times = [float(v) for v in times]
        self.times = times
        zero = process.node(times[-1]).clean
        if len(times) == 2 and zero:
            times = [times[0], process.t_min, times[1]]
        if len(times) != 2 + zero or not times[0] > times[1]:
            raise ValueError(
                f"{solver.key} chooses its steps: times must be a start above t_min and an end, "
                f"got {self.times}"
            )
        self.start, self.end = process.node(times[0]), process.node(times[1])
        self.zero = process.node(times[2]) if zero else None
        if self.start.pure and self.start.clean:
            raise ValueError(
                f"{solver.key}: at t={self.times[0]:g} there is neither data nor noise to go from; let times "
                "start below it, from a point on the path"
            )
        for node in (self.end,) if self.start.pure else (self.start, self.end):
            convert(denoiser.predicts, solver.predicts, node)
        if self.start.pure:
            convert(denoiser.predicts, "data", self.start)
        self.hooks = _guidance(hooks, process, self.start, self.end)

    def __call__(self, x: Tensor, *, seeds: Any = None, cond: Any = None, consts: Any = None) -> Tensor:
        """x at the end."""
        return self.solve(x, seeds=seeds, cond=cond, consts=consts).x

    def solve(
        self,
        x: Tensor,
        *,
        seeds: Any = None,
        cond: Mapping[str, Any] | None = None,
        consts: Mapping[str, Tensor] | None = None,
        progress: bool = False,
        rng: Tensor | None = None,
        part: tuple[int, int, int] | None = None,
    ) -> Adapted:
        """x at the end, with what each sample cost."""
        check_x(x)
        const = _const(self.process, consts, x)
        if cond is not None and not isinstance(cond, Mapping):
            came = type(cond).__name__
            raise TypeError(f"cond must be a dict of the network's keyword arguments, got {came}")
        if rng is None and self.solver.stochastic:
            rng = resolve(seeds, x.shape[0], x.device)
        with torch.no_grad():
            run = Run(self, x.detach(), rng, cond or {}, const, part)
            if run.batch:
                with _bar(progress, run.batch, self.solver.key) as bar:
                    run.go(bar)
            return Adapted(run.out, run.calls, run.steps, run.rejected)

    def _call(
        self,
        x: Tensor,
        rng: Tensor | None,
        seeds: Any,
        cond: Mapping[str, Any] | None,
        cond_grad: bool,
        gradient: str | None,
        trajectory: bool,
        callback: Any,
        progress: bool,
        check_finite: bool,
        noise: Any = None,
        consts: Mapping[str, Tensor] | None = None,
        part: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """What fd.sample calls, as it does a Sampler. A NaN is found whether check_finite or not."""
        unknown = {"gradient": gradient, "callback": callback, "trajectory": trajectory or None}
        for name, value in unknown.items():
            if value is not None:
                raise ValueError(
                    f"{name} needs steps that all samples share; {self.solver.key} has none: leave it out"
                )
        if callable(noise):
            raise ValueError(f"noise: {self.solver.key} draws its own; a callable does not go with it")
        if part is not None and self.solver.whole_batch:
            raise ValueError("legacy=True measures the whole batch: it does not go with chunk or distributed")
        return self.solve(x, rng=rng, cond=cond, consts=consts, progress=progress, part=part).x


def _const(process: Process, consts: Any, x: Tensor) -> Tensor | None:
    """What the process pulls towards, in full."""
    if consts is not None and not isinstance(consts, Mapping):
        raise TypeError(f"consts must be a dict of tensors by name, got {type(consts).__name__}")
    given, name = dict(consts or {}), process.const
    if unknown := sorted(set(given) - {name}):
        raise ValueError(f"consts has {', '.join(unknown)}; this run wants {name or 'none'}")
    if name is None:
        return None
    if name not in given:
        raise ValueError(f"this run wants consts={{{name!r}: tensor like x}}; got none")
    c = given[name]
    check_x(c, f"consts[{name!r}]")
    if c.device != x.device or c.shape[1:] != x.shape[1:] or c.shape[0] not in (1, x.shape[0]):
        came, need = (f"{tuple(t.shape)} on {t.device}" for t in (c, x))
        raise ValueError(f"consts[{name!r}] is {came}; need {need}, or one row for all")
    return c.to(x.dtype).expand_as(x).contiguous()


def _bar(wanted: bool, samples: int, name: str) -> Any:
    if not wanted:
        return nullcontext()
    try:
        from tqdm.auto import tqdm
    except ImportError as e:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from e
    return tqdm(total=samples, desc=name, unit="sample")
