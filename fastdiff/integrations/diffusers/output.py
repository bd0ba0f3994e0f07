"""What `step` returns, its second result worked out when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...ops.linear_step import linear_step
from .legs import Leg, Legs

JUMPS = ("denoised", "pred_noised_sample")
EXTRAS: dict[str | None, tuple[str, ...]] = {None: (), **{k: (k,) for k in ("pred_original_sample", *JUMPS)}}


class FastSchedulerOutput(Mapping):
    """prev_sample, and the data prediction where it is asked for: `pred_original_sample`, or what distilled
    networks jump to (`denoised`, `pred_noised_sample`), is computed when it is read."""

    __slots__ = ("prev_sample", "_make", "_names")

    def __init__(self, prev_sample: Tensor, make: Callable[[bool], Tensor], names: tuple[str, ...] = ()):
        self.prev_sample, self._make, self._names = prev_sample, make, ("prev_sample", *names)

    @property
    def pred_original_sample(self) -> Tensor:
        return self._make(False)

    @property
    def denoised(self) -> Tensor:
        return self._make(True)

    @property
    def pred_noised_sample(self) -> Tensor:
        return self._make(True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, k: Any) -> Any:
        return getattr(self, k) if isinstance(k, str) else self.to_tuple()[k]

    def to_tuple(self) -> tuple[Tensor, ...]:
        return tuple(self.values())


def data(legs: Legs, leg: Leg, sample: Tensor, output: Tensor, bent: Tensor | None, jump: bool) -> Tensor:
    """The data prediction, or what distilled networks jump to."""
    if bent is not None and not (jump and legs.jump(leg)):
        return bent
    T, row = [sample, output if bent is None else bent], legs.second(leg, jump)
    wide = torch.float64 if torch.float64 in (T[0].dtype, T[1].dtype) else torch.float32
    return linear_step(T, legs.row(row, wide, sample.device))[0]
