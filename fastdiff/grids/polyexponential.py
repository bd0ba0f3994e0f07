"""Noise levels polynomial in log s: log s_i = (1 - i / (N - 1))^rho (log s_max - log s_min) + log s_min.

rho = 1 is `exponential`; larger rho puts more steps near the data.
Source: k-diffusion (Crowson 2022), get_sigmas_polyexponential.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.options import check_numbers, require
from ._sigma import SigmaGrid


@dataclass(frozen=True)
class Polyexponential(SigmaGrid):
    key = "polyexponential"

    rho: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "rho")
        require(self, self.rho > 0, "rho > 0", "rho")

    def levels(self, top: float, bottom: float, count: int) -> np.ndarray:
        ramp = np.linspace(1.0, 0.0, count) ** self.rho
        return np.exp(ramp * (np.log(top) - np.log(bottom)) + np.log(bottom))
