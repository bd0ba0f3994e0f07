"""Grids that are a curve in the noise level sigma / alpha, which k-diffusion calls sigma."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..core.grid import Grid
from ..core.options import check_numbers, require
from ..core.process import Process

START = 1e-3  # where alpha(t_max) = 0 a curve begins at t_max (1 - START), and its first point moves to t_max


def level(process: Process, t: float) -> float:
    """sigma / alpha at t; infinite where alpha = 0."""
    lam = process.lam(float(t))
    return math.exp(-lam) if lam > -math.inf else math.inf


@dataclass(frozen=True, kw_only=True)
class SigmaGrid(Grid):
    """A subclass gives `levels(top, bottom, count)`. The ends are the process's own unless they are given."""

    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "sigma_min", "sigma_max", optional=True)
        low, high = self.sigma_min, self.sigma_max
        fits = (low is None or low > 0) and (high is None or high > (low or 0))
        require(self, fits, "0 < sigma_min < sigma_max", "sigma_min", "sigma_max")

    def levels(self, top: float, bottom: float, count: int) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} does not define levels(top, bottom, count)")

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        limit = level(process, process.t_max)
        top = self.sigma_max or (limit if limit < math.inf else level(process, process.t_max * (1 - START)))
        bottom = self.sigma_min or level(process, last)
        if not bottom < top <= limit * (1 + 1e-9):
            raise ValueError(f"grid {self.key!r}: sigma / alpha of {type(process).__name__} runs from "
                             f"{limit:g} to 0, got sigma_max={top:g}, sigma_min={bottom:g}")
        sigma = self.levels(top, bottom, count)
        times = np.asarray(process.time_of(-np.log(sigma)))
        if count > 1 and self.sigma_min is None and math.isclose(sigma[-1], bottom, rel_tol=1e-12):
            times[-1] = last
        if self.sigma_max is None and math.isclose(sigma[0], top, rel_tol=1e-12):
            times[0] = process.t_max
        return np.minimum(times, process.t_max)
