"""Variance preserving diffusion with a linear beta(t) = beta_min + t (beta_max - beta_min), t in [0, 1].

    log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2          sigma^2 = 1 - alpha^2
    f = -beta / 2          g^2 = beta

Source: Song et al. 2021, arXiv:2011.13456, appendix C.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, expm1, log, sqrt
from ._linear_beta import LinearBeta
from ._variance_preserving import VariancePreserving


@dataclass(frozen=True)
class VP(LinearBeta, VariancePreserving):
    key = "vp"
    t_min, t_max = 1e-3, 1.0

    def sigma(self, t: Number) -> Number:
        return sqrt(-expm1(2 * self.log_alpha(t)))

    def lam(self, t: Number) -> Number:
        return self.log_alpha(t) - log(self.sigma(t))

    def _time_of(self, lam: Any) -> Any:
        return self._time_at(np.logaddexp(0.0, -2 * lam))
