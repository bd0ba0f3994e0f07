"""Uniform log(1 + std^2 / s^2): the grid of the least KL bound (KLUB) for Gaussian data of standard
deviation `std`.

    KLUB = (1/2) sum_i (q_i - 1 - log q_i),  q_i = (1 + std^2 / s_{i+1}^2) / (1 + std^2 / s_i^2)

It is least at equal q_i.

s is sigma / alpha. The bound is that of Sabour et al. 2024, arXiv:2404.14507 (Align Your Steps), for the
SDE with the denoiser frozen on each step; `tan` is the answer to the same question for the ODE.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.options import check_numbers, require
from ._sigma import SigmaGrid


@dataclass(frozen=True)
class KlubGauss(SigmaGrid):
    key = "klub-gauss"

    std: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "std")
        require(self, self.std > 0, "std > 0", "std")

    def levels(self, top: float, bottom: float, count: int) -> np.ndarray:
        first, last = (np.log1p((self.std / s) ** 2) for s in (top, bottom))
        return self.std / np.sqrt(np.expm1(np.linspace(first, last, count)))
