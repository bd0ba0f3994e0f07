"""Grids on the steps n = 0 .. N - 1 of a discrete process, t_n = (n + 1) / N.

A process that is continuous in t <= 1 is treated as one of N = 1000 steps (or of the option `train_steps`) at
t_n = t_max (n + 1) / N.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.grid import Grid
from ..core.process import Process


@dataclass(frozen=True, kw_only=True)
class DiscreteGrid(Grid):
    """A subclass gives `indices(train_steps, count)`, falling. final="zero" puts the zero behind them; the
    other finals move the last one to n = 0."""

    through = True

    train_steps: int | None = None

    def __post_init__(self) -> None:
        n = self.train_steps
        if n is not None and (isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1):
            raise ValueError(f"{type(self).__name__}: train_steps must be a positive int, got {n!r}")

    def indices(self, train_steps: int, count: int) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} does not define indices(train_steps, count)")

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        if process.t_max > 1:
            raise ValueError(f"grid {self.key!r} needs a process whose time runs in [0, 1], not "
                             f"{type(process).__name__} (t_max={process.t_max:g}); use 'karras'")
        own, given = process.train_steps, self.train_steps
        if own and given and own != given:
            name = type(process).__name__
            raise ValueError(f"grid {self.key!r}: {name} has {own} train_steps, not {given}")
        N, zero = own or given or 1000, last == process.t_zero
        count -= zero
        if count > N:
            raise ValueError(f"grid {self.key!r}: {count} points do not fit on {N} steps; use 'uniform-t'")
        n = self.indices(N, count)
        if n[0] >= N:
            raise ValueError(f"grid {self.key!r}: step {n[0]:g} is beyond the last, {N - 1}")
        times = (n + 1) / N * process.t_max
        if zero:
            return np.append(times, last)
        times[-1] = last
        return times
