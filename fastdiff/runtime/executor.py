"""Executor: a plan made ready for one shape, dtype and device: coefficient tables, network times, buffers."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .. import _C
from ..core.plan import DRAWS, INPUTS, OUTPUTS, Plan, PlanCall
from ..core.predict import convert, input_scale
from ..noise.streams import column_stream
from ..ops import _backends
from ..ops._library import EAGER, route
from .checks import eagerly
from .context import Place
from .denoiser import Denoiser


HUGE = 4 << 20  # bytes from which a tensor gets pages of 2 MiB


class Tables:
    """What a plan alone decides. Every executor of the plan shares it."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.coeffs: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        self.programs: dict[torch.dtype, Any] = {}
        sizes = [float(np.abs(a).max(initial=0)) for a in plan.coeffs]
        self.worst = max(range(len(sizes)), key=sizes.__getitem__)
        self.largest = sizes[self.worst]

    def check(self, dtype: torch.dtype) -> None:
        """Refuse a plan whose result would be rounding error: it amplifies that of the arithmetic beyond 1."""
        if self.largest <= 0.1 / torch.finfo(dtype).eps:
            return
        call = self.plan.stages[self.worst].call
        where = f"before step {call.step} (t={call.t:g})" if call else "of the last step"
        better = "" if dtype == torch.float64 else ", or is this a case for float64"
        raise ValueError(f"{self.plan.solver}: a coefficient {where} is {self.largest:.3g}, so its result would be "
                         f"rounding error of {dtype}; are two times too close together{better}?")

    def of(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Coefficients of every stage, rounded once to the dtype of the arithmetic."""
        made = self.coeffs.get((dtype, device))
        return eagerly(self._make, dtype, device) if made is None else made

    def _make(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        # a stage of draws alone reads a zero, so that it has a batch
        padded = (np.pad(a, ((0, 0), (1, 0))) if s.draws and not s.inputs else a
                  for s, a in zip(self.plan.stages, self.plan.coeffs, strict=True))
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
        calls = all(c.kind == "net" and c.branches == (0,) for c in self.plan.calls)
        constants = any(k.startswith("const") for k in self.plan.kinds)
        return calls and not constants and all(
            not s.emits and (s.inputs or not s.draws)
            and len(s.outputs) <= OUTPUTS and len(s.inputs) <= INPUTS and len(s.draws) <= DRAWS
            for s in self.plan.stages
        )

    def _compile(self, dtype: torch.dtype) -> Any:
        return _C.Program([
            (list(s.inputs), list(s.outputs), a, [d for d, _ in s.draws], [column_stream(c) for _, c in s.draws],
             s.call.args[0] if s.call else -1, s.call.outs[0] if s.call else -1, list(s.drop))
            for s, a in zip(self.plan.stages, self.of(dtype, torch.device("cpu")), strict=True)
        ])


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def tables_of(plan: Plan) -> Tables:
    found = _known.get(plan)
    if found is None:
        found = _known[plan] = Tables(plan)
    return found


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
        self.random = plan.stochastic or any(c.kind != "net" for c in plan.calls)
        self._places: dict[int, Place] = {}
        self.buffers: list[dict[int, Tensor]] = []  # sets not in use; a run takes one and puts it back
        # the loop in C++ takes plain CPU tensors; it is left for good once the network has proved too odd for it
        self.slow = not (backend in (None, "cpu") and x.device.type == "cpu" and type(x) is Tensor)
        self.set_clock(x)

    def set_clock(self, like: Tensor) -> None:
        """The times that the network is given, by stage: rows of one tensor (calls, B)."""
        stages = [k for k, s in enumerate(self.plan.stages) if s.call is not None and s.call.kind == "net"]
        at = [call.t for call in self.plan.calls if call.kind == "net"]
        times = self.denoiser.times_tensor(at, like)
        self.clock = times[:, None].expand(len(at), self.shape[0]).clone(memory_format=torch.contiguous_format)
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
        """Where the call of stage k stands, for hooks."""
        place = self._places.get(k)
        return eagerly(self._find, k) if place is None else place

    def _find(self, k: int) -> Place:
        call = self.plan.stages[k].call
        assert call is not None
        place = self._places[k] = _place(self.denoiser, self.plan, call)
        return place

    def table(self, double: bool) -> list[Tensor]:
        return self.tables.of(torch.float64 if double else torch.float32, self.device)

    @property
    def program(self) -> Any:
        return None if self.slow else self.tables.program(self.arithmetic)

    def fresh(self) -> Tensor:
        """A tensor like x that nothing has been written to."""
        t = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        if self.device.type == "cpu" and t.nbytes >= HUGE and type(t) is Tensor:
            _C.huge_pages(t)
        return t

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


def _place(denoiser: Denoiser, plan: Plan, call: PlanCall) -> Place:
    """What hooks may ask at a call, as plain numbers."""
    node = denoiser.process.node(call.t)
    t, alpha, sigma = (float(v) for v in (node.t, node.alpha, node.sigma))
    here = Place(call.step, t, alpha, sigma, sigma / alpha if alpha else float("inf"))
    if call.kind not in ("net", "predict"):
        return here
    p, q = (float(c) for c in convert(denoiser.predicts, "data", node))
    return here._replace(p=p, q=q, scale=float(input_scale(denoiser.predicts, node)),
                         weights=_weights(plan, call, node))


def _weights(plan: Plan, call: PlanCall, node: Any) -> tuple[float, ...]:
    """Of the call's branches in the guided prediction. Whether a hook acts was decided in 60 digits when the plan was
    compiled; the branches tell, and only where it has none in use is it asked again."""
    weights, first = {0: 1.0}, 1
    for hook in plan.hooks:
        if hook.branches:
            own = [float(w) for w in hook.weights(node, call.step)]
            extra = range(first, first + hook.branches)
            if any(b in call.branches for b in extra) or not any(own[1:]) and hook.active(node, call.step):
                weights = {b: w * own[0] for b, w in weights.items()} | dict(zip(extra, own[1:], strict=True))
            first += hook.branches
    return tuple(weights[b] for b in call.branches)
