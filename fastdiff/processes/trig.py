"""The trigonometric path: alpha = cos(pi t / 2), sigma = sin(pi t / 2), t in [0, 1]; pure noise at t = 1.

    f = -(pi / 2) tan(pi t / 2)          g^2 = pi tan(pi t / 2)          lam = -log tan(pi t / 2)

Source: Albergo & Vanden-Eijnden 2023, arXiv:2209.15571 (with data at t = 1 there).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, pi_like, sinpi
from ._variance_preserving import VariancePreserving


@dataclass(frozen=True)
class Trig(VariancePreserving):
    key = "trig"
    t_min, t_max = 1e-3, 1.0

    def alpha(self, t: Number) -> Number:
        return sinpi((1 - t) / 2)  # the cosine, exactly 0 at t = 1

    def sigma(self, t: Number) -> Number:
        return sinpi(t / 2)

    def dalpha(self, t: Number) -> Number:
        return -pi_like(t) / 2 * self.sigma(t)

    def dsigma(self, t: Number) -> Number:
        return pi_like(t) / 2 * self.alpha(t)

    def _time_of(self, lam: Any) -> Any:
        with np.errstate(over="ignore"):
            return np.arctan(np.exp(-lam)) * (2 / np.pi)
