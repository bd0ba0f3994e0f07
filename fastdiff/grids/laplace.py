"""Noise levels at the quantiles of a Laplace law of log s, clamped to the process's own levels.

    log s = mu - beta sign(1/2 - x) log(1 - 2 |1/2 - x| + 1e-5),  x uniform from 0 to 1

Levels that the clamp makes equal are spread in log s between the bound and the next free level (public code
leaves them equal, steps of length 0). Where the curve ends above s_min it is left to end there.
Source: Hang et al. 2024, arXiv:2407.03297; ComfyUI's LaplaceScheduler.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.options import check_numbers, require
from ._sigma import SigmaGrid


@dataclass(frozen=True)
class Laplace(SigmaGrid):
    key = "laplace"

    mu: float = 0.0
    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "mu", "beta")
        require(self, self.beta > 0, "beta > 0", "beta")

    def levels(self, top: float, bottom: float, count: int) -> np.ndarray:
        x = np.linspace(0.0, 1.0, count)
        tail = np.abs(0.5 - x)
        curve = self.mu - self.beta * np.sign(0.5 - x) * np.log(1 - 2 * tail + 1e-5)
        free = np.flatnonzero((curve < np.log(top)) & (curve > np.log(bottom)))
        if not len(free):  # the whole curve lies outside: nothing of it is left
            return np.exp(np.linspace(np.log(top), np.log(bottom), count))
        first, last = free[0], free[-1]
        if first:
            curve[: first + 1] = np.linspace(np.log(top), curve[first], first + 1)
        if last < count - 1:
            curve[last:] = np.linspace(curve[last], np.log(bottom), count - last)
        return np.exp(curve)
