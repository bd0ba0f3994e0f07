"""Static clip of the data prediction, for data known to lie in a range: xhat <- clamp(xhat, low, high)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.hook import Hook
from ..core.options import require


@dataclass(frozen=True)
class Clip(Hook):
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        for name in ("low", "high"):  # an infinite bound is none
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"Clip: {name} must be a number, got {type(value).__name__}")
        require(self, self.low < self.high, "low < high", "low", "high")

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        return xhat.clamp(self.low, self.high)
