"""UniformLambda: lam uniform between its ends, weighted so that the mean over t is kept.

With weighting "elbo" every noise error then counts the same: -lam' dt = -d lam.
Source: Kingma et al. 2021, arXiv:2107.00630.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Process
from ._times import Times, lam_range, of_lam, uniforms


@dataclass(frozen=True)
class UniformLambda(Times):
    """lam uniform between its ends, weighted so that the mean over t is kept."""

    key = "uniform-lambda"

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        noisy, clean = lam_range(process, low, high, self.key)
        t = of_lam(process, clean + (noisy - clean) * uniforms(rng), low, high)
        return t, (clean - noisy) / (-process.dlam(t) * (high - low))
