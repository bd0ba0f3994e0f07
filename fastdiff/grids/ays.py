"""Align Your Steps: noise levels optimised once per family of networks, as published for 10 steps.

Other step counts interpolate log s over the 11 levels, as the authors do; the last level is then replaced
by the grid's end. s is sigma / alpha. The tables "sd15" and "sdxl" start at Stable Diffusion's own
sigma_max, 14.61.
Source: Sabour et al. 2024, arXiv:2404.14507; numbers as in diffusers' AysSchedules, last levels from the
authors' page.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.errors import unknown
from ..core.grid import Grid
from ..core.process import Process
from ._sigma import level

TABLES = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0291671582),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.0291671582),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@dataclass(frozen=True)
class AYS(Grid):
    key = "ays"
    through = True

    table: str = "sd15"

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise unknown("table of grid 'ays'", self.table, TABLES)

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        table, limit = TABLES[self.table], level(process, process.t_max)
        if table[0] > 1.001 * limit:
            raise ValueError(f"grid 'ays': table {self.table!r} starts at sigma {table[0]:g}, "
                             f"but {type(process).__name__} ends at {limit:g} (sigma / alpha)")
        x = np.linspace(0, 10, count)
        times = np.asarray(process.time_of(-np.interp(x, np.arange(11), np.log(table))))
        if table[0] > 0.999 * limit:  # 14.615 is rounded up from the network's 14.6146
            times[0] = process.t_max
        if count > 1:
            times[-1] = last
        return times
