"""Which nodes of a Brownian tree a row of increments halves, and in which order.

The tree has 2^depth cells; node 1 is all of them, node m has the halves 2 m and 2 m + 1. A node is halved
when a boundary lies strictly inside it: parents first, then from left to right. Integers only, no tensors.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Ladder(NamedTuple):
    """One row for each halving; lo, mid, hi are cells. own[k]: the rows that increment k alone would need.
    Rows of coefficients have the root's value in front: `own` counts these."""

    node: np.ndarray
    level: np.ndarray
    lo: np.ndarray
    mid: np.ndarray
    hi: np.ndarray
    own: tuple[np.ndarray, ...]


@lru_cache(maxsize=256)
def ladder(boundaries: tuple[int, ...], depth: int) -> Ladder:
    """boundaries: strictly increasing, inside [0, 2^depth]; increments lie between neighbours."""
    rows: list[tuple[int, int, int, int, int]] = []
    waiting = [(1, 0, 0, 1 << depth)]
    while waiting:
        node, level, lo, hi = waiting.pop()
        if bisect_right(boundaries, lo) == bisect_left(boundaries, hi):
            continue
        mid = (lo + hi) // 2
        rows.append((node, level, lo, mid, hi))
        waiting += [(2 * node + 1, level + 1, mid, hi), (2 * node, level + 1, lo, mid)]
    table = np.array(rows, np.int64).reshape(-1, 5).T
    lo, hi = table[2], table[4]
    inside = [(lo < b) & (b < hi) for b in boundaries]
    root = np.zeros(1, np.int64)
    own = [
        np.concatenate([root, 1 + np.flatnonzero(a | b)])
        for a, b in zip(inside[:-1], inside[1:], strict=True)
    ]
    for column in (*table, *own):
        column.flags.writeable = False
    return Ladder(table[0], table[1], lo, table[3], hi, tuple(own))
