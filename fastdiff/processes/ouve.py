"""Decay towards a given tensor y (noisy speech) while the noise explodes, t in [0, 1].

    dx = theta (y - x) dt + g dw          g = sigma_min (sigma_max / sigma_min)^t sqrt(2 l)
    x_t - y = alpha (x_0 - y) + sigma xi              l = log(sigma_max / sigma_min)
    alpha = e^{-theta t}          sigma^2 = sigma_min^2 l (e^{2 l t} - e^{-2 theta t}) / (theta + l)

The offset is (1 - alpha) y. The prior is N(y, sigma(1)^2): e^{-theta} (x_0 - y) is left out of it.
Source: Richter et al. 2023, arXiv:2208.05830.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, divide, exp, expm1, full_like, lift, log, sqrt
from ..core.options import check_numbers, require
from ..core.process import Process


@dataclass(frozen=True)
class OUVE(Process):
    key = "ouve"
    const = "y"
    t_min, t_max = 0.03, 1.0

    theta: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self, "theta", "sigma_min", "sigma_max")
        require(self, self.theta >= 0, "theta >= 0", "theta")
        fits = 0 < self.sigma_min < self.sigma_max
        require(self, fits, "0 < sigma_min < sigma_max", "sigma_min", "sigma_max")

    def _growth(self, t: Number) -> Number:
        return log(lift(self.sigma_max, t) / self.sigma_min)

    def alpha(self, t: Number) -> Number:
        return exp(-self.theta * t)

    def _rho(self, t: Number) -> Number:
        """sigma / alpha."""
        both = self._growth(t) + self.theta
        return self.sigma_min * sqrt(self._growth(t) / both * expm1(2 * both * t))

    def sigma(self, t: Number) -> Number:
        return self.alpha(t) * self._rho(t)

    def offset(self, t: Number) -> Number:
        return -expm1(-self.theta * t)

    def dalpha(self, t: Number) -> Number:
        return -self.theta * self.alpha(t)

    def doffset(self, t: Number) -> Number:
        return self.theta * self.alpha(t)

    def dsigma(self, t: Number) -> Number:
        # (sigma^2)' = g^2 - 2 theta sigma^2, as a sum of positive terms
        growth, both = self._growth(t), self._growth(t) + self.theta
        grown = 2 * growth * exp(2 * growth * t) + 2 * self.theta * exp(-2 * self.theta * t)
        return divide(growth / both * grown * self.sigma_min * self.sigma_min, 2 * self.sigma(t))

    def f(self, t: Number) -> Number:
        return full_like(t, -1.0) * self.theta

    def g2(self, t: Number) -> Number:
        growth = self._growth(t)
        return 2 * growth * exp(2 * growth * t) * self.sigma_min * self.sigma_min

    def lam(self, t: Number) -> Number:
        return -log(self._rho(t))

    def dlam(self, t: Number) -> Number:
        both = self._growth(t) + self.theta
        return divide(both, expm1(-2 * both * t))

    def _time_of(self, lam: Any) -> Any:
        growth = np.log(self.sigma_max / self.sigma_min)
        both = growth + self.theta
        # log(1 + e^y): the level may be as far off as e^700
        return np.logaddexp(0.0, -2 * lam - 2 * np.log(self.sigma_min) + np.log(both / growth)) / (2 * both)
