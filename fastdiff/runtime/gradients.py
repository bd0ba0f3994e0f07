"""Gradients through a run: how its states come back in the backward pass.

    "full"         autograd keeps everything: any derivative, forward mode, torch.func; memory of N network
    calls "checkpoint"   the exact gradient; each step's state is kept, one network call is run again at a
    time "reversible"   the exact gradient, to rounding; states are made again from the last one, by the
    inverse of
                   an exactly invertible solver: memory independent of N
    "adjoint"      the gradient of the exact flow by an exponential multistep method, off the run's own by the
                   order of the steps; `check` says how far

The first three differentiate the steps that were taken. A name stands for the object below with its defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .schedule import Binomial, Every

NAMES = ("full", "checkpoint", "reversible", "adjoint")
HELD = 16  # states that the adjoint holds at a time


def _whole(mode: str, name: str, value: Any, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ValueError(f"gradient={mode!r}: {name} must be a whole number >= {least}, got {value!r}")


@dataclass(frozen=True)
class Checkpoint:
    """every    each so many-th network call's state is kept, the others are made again group by group: for
                k > 1 as many network calls more as there are steps
    memory   at most that many states are held at a time, besides the first; the schedule is binomial, so that
                r times the calls serve binom(memory + 1 + r, r) steps
    """

    every: int | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.memory is not None:
            raise ValueError("gradient='checkpoint': give every or memory, not both")
        _whole("checkpoint", "every", self.every, 1)
        _whole("checkpoint", "memory", self.memory, 0)

    @property
    def schedule(self) -> Every | Binomial:
        return Every(self.every or 1) if self.memory is None else Binomial(self.memory)


@dataclass(frozen=True)
class Reversible:
    """warn    at a relative drift of the first state, made again, beyond this a warning is given"""

    warn: float = 1e-3


@dataclass(frozen=True)
class Adjoint:
    """order    1, 2 or 3, of the multistep method
    memory   states held at a time, besides the first; the others are made again by the same steps and the
             same noise. None: all are kept, and no network call is made a third time
    """

    order: int = 2
    memory: int | None = HELD

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (1, 2, 3):
            raise ValueError(f"gradient='adjoint': order must be 1, 2 or 3, got {self.order!r}")
        _whole("adjoint", "memory", self.memory, 0)

    @property
    def schedule(self) -> Every | Binomial:
        return Every(1) if self.memory is None else Binomial(self.memory)


Mode = Checkpoint | Reversible | Adjoint
DEFAULTS = {"checkpoint": Checkpoint(), "reversible": Reversible(), "adjoint": Adjoint()}


def mode_of(gradient: Any, every: int | None = None, memory: int | None = None) -> Mode | str | None:
    """None, "full", or the object that says how; every and memory are a Checkpoint's."""
    if every is not None or memory is not None:
        if gradient != "checkpoint":
            raise ValueError(f"every and memory belong to gradient='checkpoint', got gradient={gradient!r}")
        return Checkpoint(every, memory)
    if gradient is None or isinstance(gradient, Mode):
        return gradient
    if not isinstance(gradient, str) or gradient not in NAMES:
        raise ValueError(f"gradient={gradient!r}; allowed: None, {', '.join(map(repr, NAMES))}")
    return DEFAULTS.get(gradient, gradient)


def check(
    sampler: Callable[..., Tensor],
    x: Tensor,
    *,
    gradient: Any = "adjoint",
    loss: Callable[[Tensor], Tensor] | None = None,
    parameters: Iterable[Tensor] = (),
    **run: Any,
) -> tuple[float, ...]:
    """How far a mode's gradient is from that of the steps taken: |g - g_exact| / |g_exact|, of x and then of
    each of `parameters`.

    sampler, x, run    sampler(x, **run), as a Sampler is called (seeds=, cond=, ...)
    loss               of the result, a scalar; by default the sum of its squares over two

    Costs a run of the mode and one of gradient="checkpoint". Needs nothing of x but that it is a tensor.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"check: x must be a tensor, got {type(x).__name__}")
    loss = loss or (lambda y: (y * y).sum() / 2)
    wanted = tuple(parameters)

    def slopes(mode: Any) -> tuple[Tensor, ...]:
        start = x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(loss(sampler(start, gradient=mode, **run)), (start, *wanted))

    def far(a: Tensor, b: Tensor) -> float:
        return float((a - b).double().norm() / b.double().norm())

    return tuple(map(far, slopes(gradient), slopes("checkpoint")))
