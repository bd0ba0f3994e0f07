"""LogitNormal: t = low + (high - low) sigmoid(m + s z), z normal: the middle of a flow.

Source: Esser et al. 2024, arXiv:2403.03206, eq. 19.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.process import Process
from ._times import Times, normals, positive, root_tau


@dataclass(frozen=True)
class LogitNormal(Times):
    """t = low + (high - low) sigmoid(m + s z), z normal: the middle of a flow."""

    key = "logit-normal"
    m: float = 0.0
    s: float = 1.0
    unbiased: bool = False

    def __post_init__(self) -> None:
        positive("logit-normal", "s", self.s)

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        z = normals(rng)
        p = torch.sigmoid(self.m + self.s * z)
        weight = self.s * p * (1 - p) * root_tau * torch.exp(z * z / 2) if self.unbiased else None
        return low + (high - low) * p, weight
