"""Uniform: t uniform in [low, high]."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Process
from ._times import Times, uniforms


@dataclass(frozen=True)
class Uniform(Times):
    """t uniform in [low, high]."""

    key = "uniform"

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        return low + (high - low) * uniforms(rng), None
