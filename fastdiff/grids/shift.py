"""Uniform times u in [0, 1] shifted towards the noise, as flow models of high resolution want them.

    t = shift u / (1 + (shift - 1) u)              the same as mu = log(shift) and power = 1
    t = e^mu / (e^mu + (1 / u - 1)^power)          with `mu`, or with mu linear in `tokens`:
                                                   0.5 at 256 tokens, 1.15 at 4096

shift = 1 or mu = 0 change nothing. Times of a process with t_max != 1 are t_max times this.
Source: Esser et al. 2024, arXiv:2403.03206, section 5.3.2; the dynamic form is that of the FLUX pipelines.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..core.grid import Grid
from ..core.options import check_numbers, require
from ..core.process import Process
from ._time import fall


@dataclass(frozen=True)
class Shift(Grid):
    key = "shift"
    through = True

    shift: float = 3.0
    mu: float | None = None
    tokens: float | None = None
    power: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "shift", "power")
        check_numbers(self, "mu", "tokens", optional=True)
        require(self, self.shift > 0 and self.power > 0, "shift > 0 and power > 0", "shift", "power")
        require(self, self.mu is None or self.tokens is None, "mu or tokens, not both", "mu", "tokens")
        require(self, self.tokens is None or self.tokens > 0, "tokens > 0", "tokens")

    def _mu(self) -> float:
        if self.tokens is not None:
            return 0.5 + (self.tokens - 256) * (1.15 - 0.5) / (4096 - 256)
        return math.log(self.shift) if self.mu is None else self.mu

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        scale = math.exp(self._mu())

        def curve(top: float, low: float, n: int) -> np.ndarray:
            # the u that is shifted to `low`, so that the last time is where it must be
            end = 1 / (1 + (scale * (top / low - 1)) ** (1 / self.power)) if low > 0 else 0.0
            u = np.linspace(1.0, end, n)
            odds = np.divide(1 - u, u, out=np.full_like(u, np.inf), where=u > 0)
            return top * scale / (scale + odds**self.power)

        return fall(process, count, last, curve)
