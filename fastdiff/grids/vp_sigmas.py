"""The noise levels that a VP process has at uniform times, for any process.

    s = sqrt(expm1(beta_d t^2 / 2 + beta_min t)),  t uniform from 1 to eps

The part of [eps, 1] whose levels the process reaches is used. On VP(beta_min, beta_min + beta_d) this is
uniform-t.
Source: Song et al. 2021, arXiv:2011.13456; k-diffusion (Crowson 2022), get_sigmas_vp.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.options import check_numbers, require
from ._sigma import SigmaGrid


@dataclass(frozen=True)
class VPSigmas(SigmaGrid):
    key = "vp-sigmas"

    beta_d: float = 19.9
    beta_min: float = 0.1
    eps: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "beta_d", "beta_min", "eps")
        fits = self.beta_d >= 0 and self.beta_min > 0
        require(self, fits, "beta_d >= 0 and beta_min > 0", "beta_d", "beta_min")
        require(self, 0 < self.eps < 1, "0 < eps < 1", "eps")

    def _time(self, sigma: float) -> float:
        B = np.log1p(sigma * sigma)
        return 2 * B / (np.sqrt(self.beta_min**2 + 2 * self.beta_d * B) + self.beta_min)

    def levels(self, top: float, bottom: float, count: int) -> np.ndarray:
        t = np.linspace(min(1.0, self._time(top)), max(self.eps, self._time(bottom)), count)
        return np.sqrt(np.expm1(self.beta_d * t * t / 2 + self.beta_min * t))
