"""Executor: a plan made ready for one shape, dtype and device: coefficient tables, network times, buffers."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .. import _C  # type: ignore[attr-defined]
from ..core.math import plain
from ..core.plan import DRAWS, INPUTS, OUTPUTS, Plan, PlanCall
from ..core.predict import convert, input_scale
from ..core.process import Process
from ..noise.streams import column_stream
from ..ops import _backends
from ..ops._library import EAGER, route
from .checks import eagerly
from .context import Place
from .denoiser import Denoiser
from .noise import Source, walk_of


class Tables:
    """What a plan alone decides. Every executor of the plan shares it."""

    def __init__(self, plan: Plan):
        # not the plan itself: the entry it keys would never die
        self.solver, self.predicts, self.hooks = plan.solver, plan.predicts, plan.hooks
        self.stages, self.kinds, self.planes = plan.stages, plan.kinds, plan.planes
        # (outputs, inputs + draws), or of every group of elements
        self.exact = plan.coeffs if plan.planes is None else plan.planes.tables
        self.places: dict[int, Place] = {}
        self.coeffs: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        self.programs: dict[torch.dtype, Any] = {}
        sizes = [float(np.abs(a).max(initial=0)) for a in self.exact]
        self.worst = max(range(len(sizes)), key=sizes.__getitem__)
        self.largest = sizes[self.worst]

    def check(self, dtype: torch.dtype) -> None:
        """Refuse a plan whose result would be rounding error: it amplifies the arithmetic's own beyond 1."""
        if self.largest <= 0.1 / torch.finfo(dtype).eps:
            return
        call = self.stages[self.worst].call
        where = f"before step {call.step} (t={call.t:g})" if call else "of the last step"
        better = "" if dtype == torch.float64 else ", or is this a case for float64"
        raise ValueError(
            f"{self.solver}: a coefficient {where} is {self.largest:.3g}, so its result would be "
            f"rounding error of {dtype}; are two times too close together{better}?"
        )

    def of(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Coefficients of every stage, rounded once to the dtype of the arithmetic."""
        made = self.coeffs.get((dtype, device))
        return eagerly(self._make, dtype, device) if made is None else made

    def _make(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        # a stage of draws alone reads a zero, so that it has a batch
        padded = (
            np.pad(a, (*[(0, 0)] * (a.ndim - 1), (1, 0))) if s.draws and not s.inputs else a
            for s, a in zip(self.stages, self.exact, strict=True)
        )
        made = [torch.tensor(a, dtype=dtype).to(device) for a in padded]
        if route(()) == EAGER:  # under a mode or torch.func they are no plain tensors
            self.coeffs[dtype, device] = made
        return made

    def program(self, dtype: torch.dtype) -> Any:
        """The plan as a loop in C++; None where something has to be looked at on the way."""
        if dtype not in self.programs:
            self.programs[dtype] = self._compile(dtype) if self._straight() else None
        return self.programs[dtype]

    def _straight(self) -> bool:
        if self.planes is not None or any(kind.startswith("const") for kind in self.kinds):
            return False
        for s in self.stages:
            plain = (
                s.call is None or s.call.kind == "net" and s.call.branches == (0,) and len(s.call.outs) == 1
            )
            if not plain:
                return False
            if s.emits or (s.draws and not s.inputs):
                return False
            if len(s.outputs) > OUTPUTS or len(s.inputs) > INPUTS or len(s.draws) > DRAWS:
                return False
        return True

    def _compile(self, dtype: torch.dtype) -> Any:
        stages = []
        for s, a in zip(self.stages, self.of(dtype, torch.device("cpu")), strict=True):
            draws, streams = [d for d, _ in s.draws], [column_stream(c) for _, c in s.draws]
            arg, raw = (s.call.args[0], s.call.outs[0]) if s.call else (-1, -1)
            stages.append((list(s.inputs), list(s.outputs), a, draws, streams, arg, raw, list(s.drop)))
        return _C.Program(stages)

    def place(self, k: int, process: Process) -> Place:
        """Where the call of stage k stands, for hooks."""
        place = self.places.get(k)
        return eagerly(self._find, k, process) if place is None else place

    def _find(self, k: int, process: Process) -> Place:
        call = self.stages[k].call
        assert call is not None
        node = process.node(call.t)
        if process.kind == "linear":
            place = Place(call.step, call.t, weights=self._weights(call, node))
            self.places[k] = place
            return place
        t, alpha, sigma = (float(v) for v in (node.t, node.alpha, node.sigma))
        place = Place(call.step, t, alpha, sigma, sigma / alpha if alpha else float("inf"))
        if call.kind in ("net", "predict"):
            p, q = (float(c) for c in convert(self.predicts, "data", node))
            scale = float(input_scale(self.predicts, node))
            place = place._replace(p=p, q=q, scale=scale, weights=self._weights(call, node))
        self.places[k] = place
        return place

    def _weights(self, call: PlanCall, node: Any) -> tuple[float, ...]:
        """Of the call's branches in the guided prediction. Whether a hook acts was decided in 60 digits when
        the plan was compiled; the branches tell, and only where it has none in use is it asked again."""
        weights, first = {0: 1.0}, 1
        for hook in self.hooks:
            if hook.branches:
                own = [plain(w) for w in hook.weights(node, call.step)]
                extra = range(first, first + hook.branches)
                if (
                    any(b in call.branches for b in extra)
                    or not any(own[1:])
                    and hook.active(node, call.step)
                ):
                    scaled = {b: w * own[0] for b, w in weights.items()}
                    weights = scaled | dict(zip(extra, own[1:], strict=True))
                first += hook.branches
        return tuple(weights[b] for b in call.branches)


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def tables_of(plan: Plan) -> Tables:
    found = _known.get(plan)
    if found is None:
        found = _known[plan] = Tables(plan)
    return found


def index_of(shape: tuple[int, ...], x: Tensor) -> Tensor:
    """Which group each element of a sample belongs to, (1, K) int32: element e is in that of e // (E / K)."""
    sample = tuple(x.shape[1:])
    if len(shape) != len(sample) or any(a not in (1, b) for a, b in zip(shape, sample, strict=False)):
        raise ValueError(f"the solver's statistics are of samples {shape}, x has samples {sample}")
    whole = next((i for i in range(len(shape), 0, -1) if shape[i - 1] != 1), 0)  # what follows is one group
    groups = torch.arange(prod(shape), dtype=torch.int32).reshape(shape[:whole])
    return groups.expand(sample[:whole]).reshape(1, -1).to(x.device)


class Executor:
    """A plan made ready for one shape, dtype and device."""

    def __init__(self, denoiser: Denoiser, plan: Plan, x: Tensor, backend: str | None):
        _backends.choose("Sampler", backend, x.device.type)
        self.denoiser, self.plan, self.backend = denoiser, plan, backend
        self.shape, self.dtype, self.device = x.shape, x.dtype, x.device
        self.arithmetic = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.tables = tables_of(plan)
        self.tables.check(self.arithmetic)
        self.tables.of(self.arithmetic, self.device)
        self.index = None if plan.planes is None else index_of(plan.planes.shape, x)
        self.calls = {k for k, s in enumerate(plan.stages) if s.call is not None and s.call.kind == "net"}
        self.random = plan.stochastic or any(c.kind != "net" for c in plan.calls)
        self.buffers: list[dict[int, Tensor]] = []  # sets not in use; a run takes one and puts it back
        # the loop in C++ takes plain CPU tensors; a network that has proved too odd for it is spared it
        self.slow = not (backend in (None, "cpu") and x.device.type == "cpu" and type(x) is Tensor)
        self.set_clock(x)

    def set_clock(self, like: Tensor) -> None:
        """The times that the network is given, by stage: rows of one tensor (calls, B)."""
        stages = [k for k, s in enumerate(self.plan.stages) if s.call is not None and s.call.kind == "net"]
        at = [call.t for call in self.plan.calls if call.kind == "net"]
        times = self.denoiser.times_tensor(at, like)
        wide = times[:, None].expand(len(at), self.shape[0])
        self.clock = wide.clone(memory_format=torch.contiguous_format)
        self.started = self.clock._version
        self.times: list[Any] = [None] * len(self.plan.stages)
        for k, row in zip(stages, self.clock.unbind(0), strict=True):
            self.times[k] = row

    def right_clock(self) -> bool:
        """False if a network has written to its t; then the times are made anew for the runs to come."""
        if self.clock._version == self.started:
            return True
        with torch.inference_mode(False):
            self.set_clock(torch.empty(0, dtype=self.dtype, device=self.device))
        return False

    def place(self, k: int) -> Place:
        return self.tables.place(k, self.denoiser.process)

    def table(self, double: bool) -> list[Tensor]:
        return self.tables.of(torch.float64 if double else torch.float32, self.device)

    @property
    def program(self) -> Any:
        return None if self.slow else self.tables.program(self.arithmetic)

    def source(self, noise: Any, rng: Tensor | None) -> Source:
        """The draws of a run as tensors: from a Brownian path, or asked of the user's callable."""
        assert rng is not None
        if noise == "path" and self.denoiser.process.kind != "gaussian":
            raise ValueError(
                f"noise='path' is one Brownian motion in lambda, which {self.denoiser.process!r} has not; "
                "allowed: None, or noise(like, draw)"
            )
        like = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        walk = eagerly(walk_of, self.plan, self.denoiser.process) if noise == "path" else None
        return Source(self.plan, noise, walk, like, rng, self.backend)

    def fresh(self) -> Tensor:
        """A tensor like x that nothing has been written to."""
        return _backends.fresh(self.shape, self.dtype, self.device)

    def take_buffers(self) -> dict[int, Tensor]:
        try:
            return self.buffers.pop()
        except IndexError:  # asked for rather than looked for: another thread may take the last
            pass
        states = [r for r, kind in enumerate(self.plan.kinds) if kind == "state" and r != self.plan.out]
        with torch.inference_mode(False):
            return {r: self.fresh() for r in states}

    def boundary(self, stop: int) -> int:
        """The stage with which a run goes on after `stop` steps."""
        for k, s in enumerate(self.plan.stages):
            if s.call is not None and s.call.step >= stop:
                return k
        return len(self.plan.stages) - 1
