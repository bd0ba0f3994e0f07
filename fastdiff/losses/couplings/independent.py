"""Independent: every sample keeps the noise that was drawn for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ._coupling import Coupling


@dataclass(frozen=True)
class Independent(Coupling):
    """Every sample keeps the noise that was drawn for it."""

    key = "independent"

    def pair(self, x0: Tensor, x1: Tensor, rng: Tensor) -> Tensor:
        return x1
