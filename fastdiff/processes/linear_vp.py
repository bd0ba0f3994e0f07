"""Variance preserving with a linear scale: alpha = 1 - t, sigma = sqrt(1 - alpha^2) = sqrt(t (2 - t)), t in
[0, 1].

    f = -1 / (1 - t)          g^2 = 2 / (1 - t)

t_min is 1e-4, where sigma = 0.014: at 1e-3 it is still 0.045.
Source: Lipman et al. 2024, arXiv:2412.06264, section 4.8 (with data at t = 1 there).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, full_like, sqrt
from ._variance_preserving import VariancePreserving


@dataclass(frozen=True)
class LinearVP(VariancePreserving):
    key = "linear-vp"
    t_min, t_max = 1e-4, 1.0

    def alpha(self, t: Number) -> Number:
        return 1 - t

    def sigma(self, t: Number) -> Number:
        return sqrt(t * (2 - t))

    def dalpha(self, t: Number) -> Number:
        return full_like(t, -1.0)

    def _time_of(self, lam: Any) -> Any:
        alpha, variance = np.exp(-np.logaddexp(0.0, -2 * lam) / 2), np.exp(-np.logaddexp(0.0, 2 * lam))
        return variance / (1 + alpha)
