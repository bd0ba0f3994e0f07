"""Variance exploding diffusion: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1].

    f = 0          g^2 = 2 sigma^2 log(sigma_max / sigma_min)          lam = -log sigma

sigma reaches 0 only at t = -inf, which is this process's zero.
Source: Song et al. 2021, arXiv:2011.13456, appendix C; its exact variance, sigma^2 - sigma_min^2, is left
there too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, exp, full_like, lift, log
from ..core.options import check_numbers, require
from ..core.process import Process


@dataclass(frozen=True)
class VE(Process):
    key = "ve"
    default_grid = "karras"
    t_min, t_max, t_zero = 0.0, 1.0, -float("inf")

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        check_numbers(self, "sigma_min", "sigma_max")
        fits = 0 < self.sigma_min < self.sigma_max
        require(self, fits, "0 < sigma_min < sigma_max", "sigma_min", "sigma_max")

    def _rate(self, t: Number) -> Number:
        return log(lift(self.sigma_max, t) / self.sigma_min)

    def alpha(self, t: Number) -> Number:
        return full_like(t, 1.0)

    def sigma(self, t: Number) -> Number:
        return self.sigma_min * exp(t * self._rate(t))

    def dalpha(self, t: Number) -> Number:
        return full_like(t, 0.0)

    def dsigma(self, t: Number) -> Number:
        return self.sigma(t) * self._rate(t)

    def lam(self, t: Number) -> Number:
        return -(t * self._rate(t) + log(lift(self.sigma_min, t)))

    def _time_of(self, lam: Any) -> Any:
        return -(lam + np.log(self.sigma_min)) / np.log(self.sigma_max / self.sigma_min)

    def model_index(self, t: Any, count: int) -> Any:
        """Its discrete networks put level n of `count` at t = n / (count - 1)."""
        return (t if hasattr(t, "new_full") else np.asarray(t, dtype=np.float64)) * (count - 1)
