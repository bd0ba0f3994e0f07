"""The scale of VP and SubVP: log alpha = -B / 2 with B(t) = t beta_min + t^2 (beta_max - beta_min) / 2."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, exp
from ..core.options import check_numbers, require
from ..core.process import Process


@dataclass(frozen=True)
class LinearBeta(Process):
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        check_numbers(self, "beta_min", "beta_max")
        require(self, 0 < self.beta_min <= self.beta_max, "0 < beta_min <= beta_max", "beta_min", "beta_max")

    def beta(self, t: Number) -> Number:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Number) -> Number:
        return -(t * t * (self.beta_max - self.beta_min) / 4 + t * self.beta_min / 2)

    def alpha(self, t: Number) -> Number:
        return exp(self.log_alpha(t))

    def dalpha(self, t: Number) -> Number:
        return -self.beta(t) / 2 * self.alpha(t)

    def f(self, t: Number) -> Number:
        return -self.beta(t) / 2

    def _time_at(self, B: Any) -> Any:
        # the quadratic's root in the form that does not cancel at small B
        return 2 * B / (np.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * B) + self.beta_min)
