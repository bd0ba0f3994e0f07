"""EDM: log(sigma / alpha) normal with the given mean and deviation.

What falls outside [low, high] lies on its end.
Source: Karras et al. 2022, arXiv:2206.00364, table 1 (P_mean, P_std).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.process import Process
from ._times import Times, normals, of_lam, positive, root_tau


@dataclass(frozen=True)
class EDM(Times):
    """log(sigma / alpha) normal with the given mean and deviation."""

    key = "edm"
    mean: float = -1.2
    std: float = 1.2
    unbiased: bool = False

    def __post_init__(self) -> None:
        positive("edm", "std", self.std)

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        z = normals(rng)
        t = of_lam(process, -self.mean - self.std * z, low, high)
        if not self.unbiased:
            return t, None
        return t, self.std * root_tau * torch.exp(z * z / 2) / (-process.dlam(t) * (high - low))
