"""EDM: time is the noise level itself, alpha = 1, sigma = t from sigma_max down to sigma_min, then 0.

    f = 0          g^2 = 2 t          lam = -log t

sigma_data is the data's standard deviation, for the preconditioning of raw networks.
Source: Karras et al. 2022, arXiv:2206.00364, table 1.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import Number, full_like
from ..core.options import check_numbers, require
from ..core.process import Process


@dataclass(frozen=True)
class EDM(Process):
    key = "edm"
    default_grid = "karras"

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self, "sigma_min", "sigma_max", "sigma_data")
        fits = 0 < self.sigma_min < self.sigma_max
        require(self, fits, "0 < sigma_min < sigma_max", "sigma_min", "sigma_max")
        require(self, self.sigma_data > 0, "sigma_data > 0", "sigma_data")

    @property
    def t_min(self) -> float:
        return self.sigma_min

    @property
    def t_max(self) -> float:
        return self.sigma_max

    def alpha(self, t: Number) -> Number:
        return full_like(t, 1.0)

    def sigma(self, t: Number) -> Number:
        return t

    def dalpha(self, t: Number) -> Number:
        return full_like(t, 0.0)

    def dsigma(self, t: Number) -> Number:
        return full_like(t, 1.0)

    def _time_of(self, lam: Any) -> Any:
        return np.exp(-lam)

    def model_index(self, t: Any, count: int) -> Any:
        raise ValueError('EDM has no discrete steps; give the network time="sigma" or time="c_noise"')
