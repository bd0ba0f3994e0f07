"""Mode: t = 1 - u - s (cos^2(pi u / 2) - 1 + u), scaled to [low, high]; s = 0 is uniform.

Source: Esser et al. 2024, arXiv:2403.03206, eq. 20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.process import Process
from ._times import Times, uniforms


@dataclass(frozen=True)
class Mode(Times):
    """t = 1 - u - s (cos^2(pi u / 2) - 1 + u), scaled to [low, high]; s = 0 is uniform."""

    key = "mode"
    s: float = 1.29
    unbiased: bool = False

    def __post_init__(self) -> None:
        if not -1 <= self.s <= 2 / (math.pi - 2):
            raise ValueError(f"time sampler 'mode': s must lie in [-1, 1.75], got {self.s!r}")

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        u = uniforms(rng)
        p = 1 - u - self.s * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
        slope = 1 + self.s * (1 - math.pi / 2 * torch.sin(math.pi * u))
        return low + (high - low) * p, slope if self.unbiased else None
