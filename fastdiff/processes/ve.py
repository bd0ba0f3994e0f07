"""Variance exploding diffusion: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1].

    f = 0          g^2 = 2 sigma_min^2 (sigma_max / sigma_min)^{2 t} log(sigma_max / sigma_min)

sigma reaches 0 only at t = -inf, which is this process's zero. What the SDE from t = 0 adds is less,
sigma_min^2 ((sigma_max / sigma_min)^{2 t} - 1): exact_variance=True takes that, and its zero is t = 0.
Source: Song et al. 2021, arXiv:2011.13456, appendix C, where the sigma_min^2 is left out too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, divide, exp, expm1, full_like, lift, log, sqrt
from ..core.options import check_numbers, require
from ..core.process import Process


@dataclass(frozen=True)
class VE(Process):
    key = "ve"
    default_grid = "karras"
    t_max = 1.0

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    exact_variance: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "sigma_min", "sigma_max")
        fits = 0 < self.sigma_min < self.sigma_max
        require(self, fits, "0 < sigma_min < sigma_max", "sigma_min", "sigma_max")
        if not isinstance(self.exact_variance, bool):
            raise TypeError(f"VE: exact_variance must be a bool, got {self.exact_variance!r}")

    @property
    def t_min(self) -> float:
        return 1e-3 if self.exact_variance else 0.0

    @property
    def t_zero(self) -> float:  # type: ignore[override]
        return 0.0 if self.exact_variance else -float("inf")

    def _rate(self, t: Number) -> Number:
        return log(lift(self.sigma_max, t) / self.sigma_min)

    def alpha(self, t: Number) -> Number:
        return full_like(t, 1.0)

    def sigma(self, t: Number) -> Number:
        if self.exact_variance:
            return self.sigma_min * sqrt(expm1(2 * t * self._rate(t)))
        return self.sigma_min * exp(t * self._rate(t))

    def dalpha(self, t: Number) -> Number:
        return full_like(t, 0.0)

    def dsigma(self, t: Number) -> Number:
        if self.exact_variance:
            return divide(self.g2(t), 2 * self.sigma(t))
        return self.sigma(t) * self._rate(t)

    def g2(self, t: Number) -> Number:
        grown = self.sigma_min * exp(t * self._rate(t))
        return 2 * grown * grown * self._rate(t)

    def lam(self, t: Number) -> Number:
        if self.exact_variance:
            return -log(self.sigma(t))
        return -(t * self._rate(t) + log(lift(self.sigma_min, t)))

    def _time_of(self, lam: Any) -> Any:
        rate = np.log(self.sigma_max / self.sigma_min)
        if self.exact_variance:
            return np.log1p(np.exp(-2 * (lam + np.log(self.sigma_min)))) / (2 * rate)
        return -(lam + np.log(self.sigma_min)) / rate

    def model_index(self, t: Any, count: int) -> Any:
        """Its discrete networks put level n of `count` at t = n / (count - 1)."""
        return (t if hasattr(t, "new_full") else np.asarray(t, dtype=np.float64)) * (count - 1)
