"""Discrete steps spaced from the data end: n = i floor(N / K) + offset, i = K - 1 .. 0.

The noisiest step is left out, so one step alone would start at the data: at least 2 are needed (or
drop_last). `drop_last=True` spaces K + 1 steps and leaves out the one nearest the data, as public multistep
schedulers do.
Source: the names are those of Lin et al. 2024, arXiv:2305.08891, table 2; `offset` is Stable Diffusion's
steps_offset.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._discrete import DiscreteGrid


@dataclass(frozen=True)
class Leading(DiscreteGrid):
    key = "leading"

    offset: int = 0
    drop_last: bool = False

    def indices(self, train_steps: int, count: int) -> np.ndarray:
        spaced = count + self.drop_last
        if spaced == 1:
            raise ValueError("grid 'leading' cannot take 1 step: it would start at the data; use 'trailing'")
        return (np.arange(spaced) * (train_steps // spaced))[::-1][:count] + self.offset
