"""Dynamic threshold of the data prediction, per sample:

    q = max(quantile_p(|xhat|), 1), at most `cap`          xhat <- clamp(xhat, -q, q) / q

For pixels in [-1, 1]; meant to stand last at its point.

Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.hook import Hook
from ..core.options import check_numbers, require


@dataclass(frozen=True)
class DynamicThreshold(Hook):
    quantile: float = 0.995
    cap: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "quantile")
        check_numbers(self, "cap", optional=True)
        require(self, 0 < self.quantile <= 1, "quantile in (0, 1]", "quantile")
        require(self, self.cap is None or self.cap >= 1, "cap >= 1", "cap")

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        if xhat.numel() == 0:
            return xhat
        wide = xhat if xhat.dtype == torch.float64 else xhat.float()
        q = _quantile(wide.abs().reshape(len(wide), -1), self.quantile).clamp(min=1, max=self.cap)
        q = q.reshape(-1, *[1] * (xhat.dim() - 1))
        return wide.clamp(-q, q) / q


def _quantile(flat: Tensor, p: float) -> Tensor:
    """torch.quantile along axis 1, without its limit of 16 M elements and without a full sort."""
    position = p * (flat.shape[1] - 1)
    low = int(position)
    top = flat.topk(flat.shape[1] - low, 1).values
    a = top[:, -1]
    return a if position == low else a + (top[:, -2] - a) * (position - low)
