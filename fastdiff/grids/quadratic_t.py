"""Times uniform in sqrt(t): t_i = (sqrt(t_max) + (i / N) (sqrt(t_last) - sqrt(t_max)))^2.

Source: Song, Meng & Ermon 2021, arXiv:2010.02502, appendix D (quadratic sub-sequence); Zhang & Chen 2023,
arXiv:2204.13902.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.grid import Grid
from ..core.process import Process
from ._time import fall


@dataclass(frozen=True)
class QuadraticT(Grid):
    key = "quadratic-t"
    through = True

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        return fall(process, count, last, lambda top, low, n: np.linspace(top**0.5, low**0.5, n) ** 2)
