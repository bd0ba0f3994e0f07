"""Noise levels s = sigma / alpha uniform in log s. This is `logsnr` with sigma_min and sigma_max as options.

Source: k-diffusion (Crowson 2022), get_sigmas_exponential.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._sigma import SigmaGrid


@dataclass(frozen=True)
class Exponential(SigmaGrid):
    key = "exponential"

    def levels(self, top: float, bottom: float, count: int) -> np.ndarray:
        return np.exp(np.linspace(np.log(top), np.log(bottom), count))
