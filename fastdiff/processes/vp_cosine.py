"""Variance preserving diffusion with the cosine schedule, t in [0, 0.9946].

    alpha = cos(a + b) / cos(a)          a = (pi / 2) s / (1 + s),  b = (pi / 2) t / (1 + s)
    sigma^2 = 1 - alpha^2 = sin(2a + b) sin(b) / cos(a)^2

The schedule reaches pure noise at t = 1; like public code we stop at 0.9946, where alpha = 0.0084. (The
discrete betas of the same schedule, clipped at 0.999, are DiscreteVP.cosine().)
Source: Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17; end time: Lu et al. 2022, arXiv:2206.00927.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, lift, pi_like, sinpi, sqrt
from ..core.options import check_numbers, require
from ._variance_preserving import VariancePreserving


@dataclass(frozen=True)
class VPCosine(VariancePreserving):
    key = "vp-cosine"
    t_min, t_max = 1e-3, 0.9946

    s: float = 0.008

    def __post_init__(self) -> None:
        check_numbers(self, "s")
        require(self, self.s >= 0, "s >= 0", "s")

    def _scales(self, t: Number) -> tuple[Number, Number]:
        """2 (1 + s) and cos a, at t's precision."""
        width = 2 * (lift(1.0, t) + self.s)
        return width, sinpi(1 / width)  # a = pi / 2 - pi / width

    def alpha(self, t: Number) -> Number:
        width, cos_a = self._scales(t)
        return sinpi((1 - t) / width) / cos_a

    def sigma(self, t: Number) -> Number:
        width, cos_a = self._scales(t)
        return sqrt(sinpi((2 * self.s + t) / width) * sinpi(t / width)) / cos_a

    def dalpha(self, t: Number) -> Number:
        width, cos_a = self._scales(t)
        return -pi_like(t) / width * sinpi((self.s + t) / width) / cos_a

    def _time_of(self, lam: Any) -> Any:
        # with y = a + b: cos y = alpha cos a, and sin b = sin(y - a) as a ratio of sums of positive terms
        width = 2 * (1 + self.s)
        sin_a, cos_a = np.sin(np.pi * self.s / width), np.sin(np.pi / width)
        alpha, variance = np.exp(-np.logaddexp(0.0, -2 * lam) / 2), np.exp(-np.logaddexp(0.0, 2 * lam))
        sin_y = np.sqrt(sin_a**2 + cos_a**2 * variance)
        sin_b = cos_a * variance / np.maximum(sin_y + alpha * sin_a, 1e-300)  # 0 / 0 at t = 0 of s = 0
        return np.arctan2(sin_b, alpha * cos_a**2 + sin_y * sin_a) * (width / np.pi)
