"""Context: what a hook sees at its point. One object per run; nothing is copied into it."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.plan import PlanCall
from ..core.predict import convert, input_scale
from ..core.process import Node
from ..noise.streams import HOOKS
from ..ops.normal import normal
from .denoiser import Denoiser


@dataclass
class Context:
    """Fields: x (the state the network saw), xhat (the data prediction), t, alpha, sigma, rho, step, steps, cond, rng, registers (a dict of
    the hook's own, kept over the run), hook (its number). Methods: model(x, t, cond), vjp(v), normal(like)."""

    denoiser: Denoiser
    cond: Mapping[str, Any]
    rng: Tensor
    steps: int
    backend: str | None = None
    x: Any = None
    xhat: Any = None
    node: Node | None = None
    step: int = -1
    hook: int = -1
    memory: dict[int, dict[str, Any]] = field(default_factory=dict)
    outputs: Sequence[Tensor] = ()  # the network's own outputs of this step, the plain branch first
    graph: tuple[Tensor, Sequence[Tensor], Sequence[float]] | None = None  # the network's leaf, its outputs, their weights
    draws: int = 0

    @property
    def t(self) -> float:
        return float(self._here.t)

    @property
    def alpha(self) -> float:
        return float(self._here.alpha)

    @property
    def sigma(self) -> float:
        return float(self._here.sigma)

    @property
    def rho(self) -> float:
        return float(self._here.rho)

    @property
    def registers(self) -> dict[str, Any]:
        """Tensors that this hook keeps from step to step."""
        return self.memory.setdefault(self.hook, {})

    @property
    def _here(self) -> Node:
        if self.node is None:
            raise RuntimeError("a hook's context has no time outside a run")
        return self.node

    def model(self, x: Tensor, t: float, cond: Mapping[str, Any] | None = None) -> Tensor:
        """A further evaluation, as a data prediction."""
        return self.denoiser(x, t, self.cond if cond is None else cond)

    def normal(self, like: Tensor) -> Tensor:
        """A draw of this hook's own stream: it never moves the solver's noise."""
        self.draws += 1
        return normal(like.shape, self.rng, self.step * 64 + self.draws - 1, HOOKS + self.hook % 32, dtype=like.dtype, backend=self.backend)

    def vjp(self, v: Tensor) -> Tensor:
        """v^T d xhat / d x at this step, through the network. The hook must declare grad = "input"."""
        if self.graph is None:
            raise RuntimeError('ctx.vjp needs a hook with grad = "input", at the predict point')
        leaf, raws, weights = self.graph
        p, q = (float(c) for c in convert(self.denoiser.predicts, "data", self._here))
        scale = float(input_scale(self.denoiser.predicts, self._here))
        with torch.enable_grad():
            total = sum((w * r for w, r in zip(weights, raws, strict=True)), start=torch.zeros((), dtype=leaf.dtype, device=leaf.device))
            (back,) = torch.autograd.grad(total, leaf, v.to(total.dtype) * q, retain_graph=True)
        return p * v + scale * back.to(v.dtype)


def run_hook(hook: Any, ctx: Context, call: PlanCall, args: Sequence[Tensor]) -> list[Tensor]:
    """One hook at one point; its error names it, the point and the step."""
    act: Callable[..., Any] = getattr(hook, call.kind)
    try:
        if call.kind == "predict":
            ctx.xhat, ctx.x = args
            outs = [act(ctx, args[0])]
        elif call.kind == "population":
            x, history = act(ctx, args[0], list(args[1:]))
            outs = [x, *history]
        else:
            outs = [act(ctx, args[0])]
    except Exception as e:
        e.add_note(f"in hook {type(hook).__name__} at point {call.kind!r}, step {call.step} (t={ctx.t:g})") if hasattr(e, "add_note") else None
        raise
    if len(outs) != len(args) - (call.kind == "predict"):
        raise ValueError(f"hook {type(hook).__name__} gave {len(outs)} tensors at point {call.kind!r}; need {len(args)}")
    for a, b in zip(args, outs, strict=False):
        if not isinstance(b, Tensor) or b.shape != a.shape or b.device != a.device or not b.is_floating_point():
            came = f"{tuple(b.shape)} {b.dtype} on {b.device}" if isinstance(b, Tensor) else type(b).__name__
            raise ValueError(f"hook {type(hook).__name__} at point {call.kind!r} gave {came}; need {tuple(a.shape)} on {a.device}")
    return outs
