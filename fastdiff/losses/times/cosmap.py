"""CosMap: t = 1 - 1 / (tan(pi u / 2) + 1), scaled to [low, high]: log-SNR as a cosine schedule of VP has it.

Source: Esser et al. 2024, arXiv:2403.03206, eq. 21.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.process import Process
from ._times import Times, uniforms


@dataclass(frozen=True)
class CosMap(Times):
    """t = 1 - 1 / (tan(pi u / 2) + 1), scaled to [low, high]: log-SNR as a cosine schedule of VP has it."""

    key = "cosmap"
    unbiased: bool = False

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        angle = math.pi / 2 * uniforms(rng)
        sine, cosine = torch.sin(angle), torch.cos(angle)
        slope = math.pi / 2 / (sine + cosine) ** 2
        return low + (high - low) * sine / (sine + cosine), slope if self.unbiased else None
