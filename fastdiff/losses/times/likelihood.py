"""Likelihood: the density proportional to alpha^2 in lam, under which the likelihood loss of a velocity is
flat.

The distribution function is tabulated on 4096 levels of lam in float64 and inverted along its chords; the
weight belongs to just that law, so the mean over t is kept exactly.
Source: Zheng et al. 2023, "Improved techniques for maximum likelihood estimation for diffusion ODEs",
arXiv:2305.03935, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...core.process import Process
from ._times import Times, lam_range, of_lam, uniforms

LEVELS = 4096


@dataclass(frozen=True)
class Likelihood(Times):
    """Density proportional to alpha^2 in lam."""

    key = "likelihood"

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        lam, below = (v.to(rng.device) for v in _table(process, *lam_range(process, low, high, self.key)))
        u = uniforms(rng)
        j = torch.searchsorted(below, u, right=True).clamp(1, LEVELS - 1)
        slope = (lam[j] - lam[j - 1]) / (below[j] - below[j - 1])  # d lam / d u
        t = of_lam(process, lam[j - 1] + (u - below[j - 1]) * slope, low, high)
        return t, slope / (-process.dlam(t) * (high - low))


@lru_cache(maxsize=32)
def _table(process: Process, noisy: float, clean: float) -> tuple[Tensor, Tensor]:
    """lam, and the probability of lying below it."""
    lam = np.linspace(noisy, clean, LEVELS)
    density = np.asarray(process.alpha(process.time_of(lam))) ** 2
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return torch.from_numpy(lam), torch.from_numpy(below / below[-1])
