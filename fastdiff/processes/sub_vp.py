"""sub-VP diffusion: the drift of VP with less noise, so that sigma = 1 - alpha^2 and not its root.

    log alpha = -B / 2          sigma = -expm1(-B)          f = -beta / 2          g^2 = beta (1 - e^{-2B})

with B and beta of VP. The prior is N(0, I), as in the paper; sigma(t_max) is 1 - 4e-5.
Source: Song et al. 2021, arXiv:2011.13456, appendix C.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, exp, expm1, log
from ._linear_beta import LinearBeta


@dataclass(frozen=True)
class SubVP(LinearBeta):
    key = "sub-vp"
    t_min, t_max = 1e-3, 1.0

    def sigma(self, t: Number) -> Number:
        return -expm1(2 * self.log_alpha(t))

    def dsigma(self, t: Number) -> Number:
        return self.beta(t) * exp(2 * self.log_alpha(t))

    def lam(self, t: Number) -> Number:
        return self.log_alpha(t) - log(self.sigma(t))

    def g2(self, t: Number) -> Number:
        return -self.beta(t) * expm1(4 * self.log_alpha(t))

    def _time_of(self, lam: Any) -> Any:
        # sigma / alpha = 1 / alpha - alpha = 2 sinh(B / 2)
        return self._time_at(2 * np.arcsinh(np.exp(-lam) / 2))

    def prior_std(self, t: float) -> float:
        return 1.0
