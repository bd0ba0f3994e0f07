"""Times uniform in lambda = log(alpha / sigma), the variable that exponential integrators step in.

A process that starts at alpha = 0 keeps t_max as its first time and is uniform from lambda(t_max (1 - eps))
on.
Source: Lu et al. 2022, arXiv:2206.00927, section 3.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.grid import Grid
from ..core.options import check_numbers, require
from ..core.process import Process


@dataclass(frozen=True)
class Logsnr(Grid):
    key = "logsnr"

    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_numbers(self, "eps")
        require(self, 0 < self.eps < 1, "0 < eps < 1", "eps")

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        first = process.t_max
        if process.alpha(first) == 0:
            first = process.t_max * (1 - self.eps)
        lam = np.linspace(process.lam(first), process.lam(last), count)
        times = np.asarray(process.time_of(lam), dtype=np.float64)
        times[0], times[-1] = process.t_max, last if count > 1 else process.t_max
        return times
