"""Grids that are a curve in t."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.process import Process

Curve = Callable[[float, float, int], np.ndarray]


def fall(process: Process, count: int, last: float, curve: Curve) -> np.ndarray:
    """`count` times on curve(t_max, last, count), with both ends exact. A zero at -inf (VE) is not on any
    curve: it is put behind t_min."""
    if last == -np.inf:
        return np.append(fall(process, count - 1, process.t_min, curve), last)
    times = curve(process.t_max, last, count)
    times[-1], times[0] = last, process.t_max
    return times
