"""Discrete steps spaced from the noisy end, which is included: n = round(N - i N / K) - 1, i = 0 .. K - 1.

The spacing that zero terminal SNR and distilled few-step networks need.
Source: Lin et al. 2024, arXiv:2305.08891, section 3.3 and table 2.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._discrete import DiscreteGrid


@dataclass(frozen=True)
class Trailing(DiscreteGrid):
    key = "trailing"

    def indices(self, train_steps: int, count: int) -> np.ndarray:
        return np.round(np.arange(train_steps, 0, -train_steps / count))[:count] - 1
