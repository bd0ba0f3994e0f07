"""The Brownian motion that a stochastic adaptive solver is driven by, asked for interval by interval."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..noise.streams import SOLVER
from ..ops.brownian import brownian
from ..ops.normal import normal

DEPTH = 24
CELLS = 2**DEPTH  # a stochastic solver's steps are whole numbers of them


class Walked:
    """Increments of one Brownian path for each sample: what is refused is walked again in smaller steps."""

    def __init__(self, run: Any):
        self.run = run

    def increment(self, i: Tensor, j: Tensor) -> Tensor:
        """W(j) - W(i) of a Brownian motion on [0, 1] in CELLS cells, for each sample: (B, *)."""
        run = self.run
        at, dtype = torch.stack([i, j], 1), run.wide
        return brownian(run.x.shape, run.rng, at, DEPTH, dtype=dtype, backend=run.backend)[0][0]


class Redrawn(Walked):
    """Increments that are drawn anew for each attempt, independent of those refused."""

    def increment(self, i: Tensor, j: Tensor) -> Tensor:
        run = self.run
        xi = normal(run.x.shape, run.rng, run.attempts, SOLVER, dtype=run.wide, backend=run.backend)
        width = ((j - i).double() / CELLS).sqrt()
        return xi * width.to(xi.dtype).reshape(-1, *[1] * (xi.dim() - 1))


def motion_of(run: Any) -> Walked:
    return Redrawn(run) if getattr(run.solver, "legacy", False) else Walked(run)
