"""Discrete steps spaced evenly with both ends included: n = round(linspace(0, N - 1, K)), falling; one step
is N - 1.

`drop_last=True` spaces K + 1 steps and leaves out the one nearest the data, as public multistep schedulers
do.
Source: the names are those of Lin et al. 2024, arXiv:2305.08891, table 2.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._discrete import DiscreteGrid


@dataclass(frozen=True)
class Linspace(DiscreteGrid):
    key = "linspace"

    drop_last: bool = False

    def indices(self, train_steps: int, count: int) -> np.ndarray:
        spaced = count + self.drop_last
        if spaced == 1:
            return np.array([train_steps - 1.0])
        return np.linspace(0, train_steps - 1, spaced).round()[::-1][:count]
