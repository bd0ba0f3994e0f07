"""Uniform angles: the best grid for Euler on the probability flow of Gaussian data of standard deviation
`std`.

    s_i = std tan((1 - i / N) atan(s_max / std) + (i / N) atan(s_min / std))

s is sigma / alpha. Euler scales such data by the product of the cosines of the angle steps, which is
largest when they are equal. The curve reaches s = 0 itself.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.grid import Grid
from ..core.options import check_numbers, require
from ..core.process import Process
from ._sigma import level


@dataclass(frozen=True)
class Tan(Grid):
    key = "tan"
    through = True

    std: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self, "std")
        require(self, self.std > 0, "std > 0", "std")

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        first, end = (np.arctan(level(process, t) / self.std) for t in (process.t_max, last))
        with np.errstate(divide="ignore"):
            times = np.asarray(process.time_of(-np.log(self.std * np.tan(np.linspace(first, end, count)))))
        times[-1], times[0] = last, process.t_max
        return times
