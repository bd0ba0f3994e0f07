"""Variance preserving diffusion with the sigmoid schedule, t in [0, 1].

    alpha^2 = floor + (1 - floor) (S(hi) - S(u)) / (S(hi) - S(lo))          S(x) = 1 / (1 + e^{-x})
    lo = start / temperature,  hi = end / temperature,  u = lo + t (hi - lo)

The paper clips alpha^2 at 1e-9 instead of adding a floor: the same value at t = 1, at most 1e-9 apart
elsewhere, and a derivative and an inverse everywhere. Differences of logistics are products: S(x) - S(y) =
S(x) S(-y) (1 - e^{y - x}).
Source: Chen 2023, arXiv:2301.10972; Jabri et al. 2022, arXiv:2212.11972.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, divide, exp, expm1, lift, sqrt
from ..core.options import check_numbers, require
from ._variance_preserving import VariancePreserving


def _S(x: Number) -> Number:
    return 1 / (1 + exp(-x))


@dataclass(frozen=True)
class VPSigmoid(VariancePreserving):
    key = "vp-sigmoid"
    t_min, t_max = 1e-3, 1.0

    start: float = -3.0
    end: float = 3.0
    temperature: float = 1.0
    floor: float = 1e-9

    def __post_init__(self) -> None:
        check_numbers(self, "start", "end", "temperature", "floor")
        require(self, self.start < self.end, "start < end", "start", "end")
        require(self, self.temperature > 0, "temperature > 0", "temperature")
        require(self, 0 <= self.floor < 1, "0 <= floor < 1", "floor")

    def _ends(self, t: Number) -> tuple[Number, Number, Number]:
        lo, hi = lift(self.start, t) / self.temperature, lift(self.end, t) / self.temperature
        return lo, hi, hi - lo

    def alpha(self, t: Number) -> Number:
        lo, _, width = self._ends(t)
        clean = _S(-(lo + t * width)) / _S(-lo) * expm1(-(1 - t) * width) / expm1(-width)
        return sqrt(self.floor + (1 - lift(self.floor, t)) * clean)

    def sigma(self, t: Number) -> Number:
        lo, hi, width = self._ends(t)
        noisy = _S(lo + t * width) / _S(hi) * expm1(-t * width) / expm1(-width)
        return sqrt((1 - lift(self.floor, t)) * noisy)

    def dalpha(self, t: Number) -> Number:
        lo, hi, width = self._ends(t)
        u = lo + t * width
        slope = width * _S(u) * _S(-u) / (_S(hi) * _S(-lo) * expm1(-width))
        return divide((1 - lift(self.floor, t)) * slope, 2 * self.alpha(t))

    def _time_of(self, lam: Any) -> Any:
        # from sigma^2 below the middle and from alpha^2 above it, each the accurate one there
        lo, hi, width = self._ends(0.0)
        noisy = np.exp(-np.logaddexp(0.0, 2 * lam)) / (1 - self.floor)
        clean = np.maximum(np.exp(-np.logaddexp(0.0, -2 * lam)) - self.floor, 0.0) / (1 - self.floor)
        low, high = -noisy * _S(hi) * expm1(-width), -clean * _S(-lo) * expm1(-width)
        with np.errstate(divide="ignore", invalid="ignore"):
            from_data = -np.log1p(-low * (1 + exp(-lo)) / (1 + low * exp(-lo))) / width
            from_noise = 1 + np.log1p(-high * (1 + exp(hi)) / (1 + high * exp(hi))) / width
        return np.where(noisy < clean, from_data, from_noise)
