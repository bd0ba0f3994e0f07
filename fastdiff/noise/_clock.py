"""Brownian motion by another clock: the variance of an increment is a measure v of its interval.

    halving [lo, hi) at mid     W_left = v_l / v W + s z,  W_right = v_r / v W - s z,  s = sqrt(v_l v_r / v)

The halves are then independent with variances v_l and v_r. Where v is the length, these are the rows of the
uniform clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from ..ops._tree import ladder

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


def coefficients(boundaries: Sequence[int], depth: int, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """`coefs` of ops.brownian for these boundaries, float32 (n, 3), and v of each increment, float64 (K,).

    boundaries: cells in 0 .. 2^depth, strictly increasing. measure(a, b): the positive v of [a, b), float64,
    for arrays of cell positions a < b.
    """
    at = tuple(int(b) for b in boundaries)
    if len(at) < 2 or any(a >= b for a, b in pairwise(at)) or not 0 <= at[0] < at[-1] <= 1 << depth:
        raise ValueError(
            f"coefficients: boundaries are {at}; strictly increasing ones in 0 .. 2^{depth} are allowed"
        )
    steps = ladder(at, depth)
    lo, mid, hi, cells = (np.asarray(x, np.float64) for x in (steps.lo, steps.mid, steps.hi, at))
    left, right = _positive(measure, lo, mid), _positive(measure, mid, hi)
    whole, share = left + right, right / (left + right)
    root = np.sqrt(_positive(measure, np.zeros(1), np.full(1, float(1 << depth))))
    rows = np.zeros((1 + len(lo), 3))
    rows[:1, 2] = root
    rows[1:] = np.stack([left / whole, share, np.sqrt(left * share)], 1)
    return rows.astype(np.float32), _positive(measure, cells[:-1], cells[1:])


def _positive(measure: Measure, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    v = np.asarray(measure(a, b), np.float64)
    if v.shape != a.shape:
        raise ValueError(
            f"coefficients: measure gave shape {v.shape} for {a.shape} intervals; one number for each"
        )
    if not ((v > 0) & np.isfinite(v)).all():
        k = int(np.argmin((v > 0) & np.isfinite(v)))
        raise ValueError(
            f"coefficients: measure({a[k]:g}, {b[k]:g}) is {v[k]:g}; positive finite numbers are allowed"
        )
    return v
