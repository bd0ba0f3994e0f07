"""Context: what a hook sees at its point. One object per run; nothing is copied into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.plan import PlanCall
from ..noise.streams import hook_stream
from ..ops.normal import normal
from .denoiser import Denoiser

DRAWS_A_STEP = 1 << 16


class Place(NamedTuple):
    """Where a call stands, in plain numbers: made once, when a plan is made ready."""

    step: int = -1
    t: float = float("nan")
    alpha: float = float("nan")
    sigma: float = float("nan")
    rho: float = float("nan")
    p: float = 0.0  # xhat = p x + q out, x being scaled by `scale` before the network sees it
    q: float = 1.0
    scale: float = 1.0
    weights: tuple[float, ...] = ()  # of the branches' outputs in the guided prediction


class Graph(NamedTuple):
    """What one network call left for ctx.vjp."""

    leaf: Tensor  # what the network was given
    outputs: Sequence[Tensor]
    weights: Sequence[float]
    further: bool  # a derivative of the vjp may be asked for too


@dataclass
class Context:
    """What a hook may look at and use.

    x, xhat         the state the network saw and the data prediction (at the predict point)
    t, alpha, sigma, rho, step, steps    where the run is; rho = sigma / alpha
    cond            the keyword arguments of the network
    outputs         the network's own outputs of this call, the plain branch first
    conversion      (p, q) with data prediction = p x + q output (x less the process's offset, where it has
    one) consts          the tensors given under that name
    registers       a dict of this hook's own, kept over the run
    part            (first, last, batch): which samples of the whole batch these are; None for all of them
    model(x, t, cond), vjp(v), normal(like)    see below
    """

    denoiser: Denoiser
    cond: Mapping[str, Any]
    rng: Tensor
    steps: int
    backend: str | None = None
    part: tuple[int, int, int] | None = None
    consts: Mapping[str, Tensor] = field(default_factory=dict)
    x: Any = None
    xhat: Any = None
    place: Place = Place()
    hook: int = -1
    memory: dict[int, dict[str, Any]] = field(default_factory=dict)
    outputs: Sequence[Tensor] = ()
    graph: Graph | None = None
    draws: dict[int, int] = field(default_factory=dict)  # of each hook in this step

    @property
    def step(self) -> int:
        return self.place.step

    @property
    def t(self) -> float:
        return self.place.t

    @property
    def alpha(self) -> float:
        return self.place.alpha

    @property
    def sigma(self) -> float:
        return self.place.sigma

    @property
    def rho(self) -> float:
        return self.place.rho

    @property
    def conversion(self) -> tuple[float, float]:
        return self.place.p, self.place.q

    @property
    def registers(self) -> dict[str, Any]:
        """Tensors that this hook keeps from step to step."""
        return self.memory.setdefault(self.hook, {})

    def at(self, place: Place, hook: int) -> None:
        """Move to a hook at a call."""
        if self.place.step != place.step:
            self.draws.clear()
        self.place, self.hook = place, hook

    def model(self, x: Tensor, t: float, cond: Mapping[str, Any] | None = None) -> Tensor:
        """A further evaluation, as a data prediction."""
        return self.denoiser(x, t, self.cond if cond is None else cond, self.consts)

    def normal(self, like: Tensor) -> Tensor:
        """A draw of this hook's own stream: it never moves the solver's noise nor another hook's."""
        k = self.draws[self.hook] = self.draws.get(self.hook, -1) + 1
        if k >= DRAWS_A_STEP:
            raise ValueError(f"a hook may draw {DRAWS_A_STEP} times in one step")
        draw, stream = self.step * DRAWS_A_STEP + k, hook_stream(self.hook)
        return normal(like.shape, self.rng, draw, stream, dtype=like.dtype, backend=self.backend)

    def vjp(self, v: Tensor) -> Tensor:
        """v^T d xhat / d x at this step, through the network. The hook must declare grad = "input"."""
        if self.graph is None:
            raise RuntimeError('ctx.vjp needs a hook with grad = "input", at the predict point')
        leaf, outputs, weights, further = self.graph
        p, q, scale = self.place.p, self.place.q, self.place.scale
        seeds = [v.to(o.dtype) * (w * q) for w, o in zip(weights, outputs, strict=True)]
        if not all(o.requires_grad for o in outputs):
            raise ValueError(
                "ctx.vjp: the network's output carries no graph; does it run under no_grad, or detach?"
            )
        with torch.enable_grad():
            (back,) = torch.autograd.grad(
                outputs, leaf, seeds, retain_graph=True, create_graph=further, allow_unused=True
            )
            return p * v if back is None else p * v + scale * back.to(v.dtype)


@contextmanager
def _named(hook: Any, point: str, ctx: Context) -> Iterator[None]:
    """An error names the hook, the point and the step."""
    try:
        yield
    except Exception as e:
        where = f"in hook {type(hook).__name__} at point {point!r}, step {ctx.step} (t={ctx.t:g})"
        if hasattr(e, "add_note"):
            e.add_note(where)  # type: ignore[attr-defined]
        elif e.args and isinstance(e.args[0], str):  # Python 3.10
            e.args = (f"{e.args[0]} ({where})", *e.args[1:])
        raise


def run_hook(hook: Any, ctx: Context, call: PlanCall, args: Sequence[Tensor]) -> list[Tensor]:
    """One hook at its point."""
    with _named(hook, call.kind, ctx):
        return _checked(getattr(hook, call.kind), ctx, call, args)


def ask_inputs(hook: Any, ctx: Context) -> list[Mapping[str, Any]]:
    """Keyword arguments of the network for each of the hook's branches."""
    with _named(hook, "inputs", ctx):
        given = list(hook.inputs(ctx))
        if len(given) != hook.branches or not all(isinstance(own, Mapping) for own in given):
            kinds = ", ".join(type(own).__name__ for own in given)
            raise ValueError(f"inputs must return {hook.branches} dicts, one for each branch, got ({kinds})")
        return given


def _checked(act: Callable[..., Any], ctx: Context, call: PlanCall, args: Sequence[Tensor]) -> list[Tensor]:
    if call.kind == "predict":
        ctx.xhat, ctx.x = args
        args, outs = args[:1], [act(ctx, args[0])]
    elif call.kind == "population":
        pair = act(ctx, args[0], list(args[1:]))
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"population must return (x, history), got {type(pair).__name__}")
        outs = [pair[0], *pair[1]]
    else:
        outs = [act(ctx, args[0])]
    if len(outs) != len(args):
        raise ValueError(f"{call.kind} must return {len(args)} tensors, got {len(outs)}")
    for a, b in zip(args, outs, strict=True):
        if not isinstance(b, Tensor):
            raise TypeError(f"{call.kind} must return a tensor, got {type(b).__name__}")
        if b.shape != a.shape or b.device != a.device or not b.is_floating_point():
            came = f"{tuple(b.shape)} {b.dtype} on {b.device}"
            raise ValueError(f"{call.kind} must return {tuple(a.shape)} on {a.device}, got {came}")
    return outs
