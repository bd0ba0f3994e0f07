"""The straight path of flow matching: alpha = 1 - t, sigma = t; pure noise at t = 1.

    f = -1 / (1 - t)          g^2 = 2 t / (1 - t)          lam = log((1 - t) / t)

Source: Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, divide, full_like
from ..core.process import Process


@dataclass(frozen=True)
class FlowMatching(Process):
    key = "flow-matching"
    straight = "sum"
    default_grid = "uniform-t"
    t_min, t_max = 1e-3, 1.0

    def alpha(self, t: Number) -> Number:
        return 1 - t

    def sigma(self, t: Number) -> Number:
        return t

    def dalpha(self, t: Number) -> Number:
        return full_like(t, -1.0)

    def dsigma(self, t: Number) -> Number:
        return full_like(t, 1.0)

    def g2(self, t: Number) -> Number:
        return divide(2 * t, 1 - t)

    def _time_of(self, lam: Any) -> Any:
        return np.exp(-np.logaddexp(0.0, lam))
