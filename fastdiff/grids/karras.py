"""Noise levels whose rho-th root is uniform, dense near the data.

    s_i = (s_max^(1/rho) + i / (N - 1) (s_min^(1/rho) - s_max^(1/rho)))^rho,  i = 0 .. N - 1;  then 0

s is sigma / alpha. Source: Karras et al. 2022, arXiv:2206.00364, equation 5.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.options import check_numbers, require
from ._sigma import SigmaGrid


@dataclass(frozen=True)
class Karras(SigmaGrid):
    key = "karras"

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "rho")
        require(self, self.rho > 0, "rho > 0", "rho")

    def levels(self, top: float, bottom: float, count: int) -> np.ndarray:
        return np.linspace(top ** (1 / self.rho), bottom ** (1 / self.rho), count) ** self.rho
