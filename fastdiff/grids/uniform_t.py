"""Times uniform in t: t_i = t_max + (i / N) (t_last - t_max)."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.grid import Grid
from ..core.process import Process
from ._time import fall


@dataclass(frozen=True)
class UniformT(Grid):
    key = "uniform-t"
    through = True

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        return fall(process, count, last, np.linspace)
