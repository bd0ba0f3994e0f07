"""Static clip of the data prediction: xhat <- clamp(xhat, low, high). Only for data known to lie in that range."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.hook import Hook


@dataclass(frozen=True)
class Clip(Hook):
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Clip: need low < high, got {self.low} and {self.high}")

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        return xhat.clamp(self.low, self.high)
