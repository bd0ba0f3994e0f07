"""Times uniform in t^(1 / power): t_i = (t_max^(1/p) + (i / N) (t_last^(1/p) - t_max^(1/p)))^p.

power = 1 is uniform-t, 2 is quadratic-t; larger powers put more steps near the data.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.grid import Grid
from ..core.options import check_numbers, require
from ..core.process import Process
from ._time import fall


@dataclass(frozen=True)
class PowerT(Grid):
    key = "power-t"
    through = True

    power: float = 2.0

    def __post_init__(self) -> None:
        check_numbers(self, "power")
        require(self, self.power > 0, "power > 0", "power")

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        def curve(top: float, low: float, n: int) -> np.ndarray:
            return np.linspace(top ** (1 / self.power), low ** (1 / self.power), n) ** self.power

        return fall(process, count, last, curve)
