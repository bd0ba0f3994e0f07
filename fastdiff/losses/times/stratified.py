"""Stratified: a batch spread evenly over [low, high].

    t_i = u0 + i / n  mod 1            one u0 for the batch (low discrepancy)
    t_i = (i + u_i) / n                with `apart`, each sample in its own stratum

i is the sample's id, so that ranks of one job share the strata: n is `count`, by default the batch's size. u0
is a function of the batch's first seed. Samples with seeds of their own all have id 0; then i is the row.
Source: Kingma et al. 2021, arXiv:2107.00630, appendix I.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.process import Process
from ._times import Times, uniforms


@dataclass(frozen=True)
class Stratified(Times):
    """t = low + (high - low) (u0 + i / n mod 1), one u0 for the batch."""

    key = "stratified"
    apart: bool = False
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and (type(self.count) is not int or self.count < 1):
            raise ValueError(
                f"time sampler 'stratified': count must be a whole number >= 1, got {self.count!r}"
            )

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        n = self.count or max(1, rng.shape[0])
        rows = torch.arange(rng.shape[0], device=rng.device)
        i = torch.where((rng[:, 1] == rng[:1, 1]).all(), rows, rng[:, 1]) % n
        if self.apart:
            p = (i + uniforms(rng)) / n
        else:
            first = rng[:1].clone()
            first[:, 1] = 0  # the same for every rank, whatever its ids
            p = (uniforms(first) + i / n) % 1.0
        return low + (high - low) * p, None
