"""WarmupClamp: another weighting, cut off at a bound that grows with training.

    w_x = min(base, c_k)          c_k = start (end / start)^{min(k / warmup, 1)},  5 to 500

k is `iteration`, which the training loop sets: `loss_fn.weighting.iteration = k`.
Source: Wu et al. 2023, arXiv:2306.08860, and its published code.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, positive, weightings


@dataclass
class WarmupClamp(Weighting):
    """w_x = min(base, c_k), c_k from `start` to `end` in `warmup` iterations."""

    key = "warmup-clamp"
    base: str | Weighting = "edm"
    warmup: int = 10_000
    start: float = 5.0
    end: float = 500.0
    iteration: int = 0

    def __post_init__(self) -> None:
        for name in ("warmup", "start", "end"):
            positive(self.key, name, getattr(self, name))
        if isinstance(self.base, str):
            self.base = weightings.make(self.base)
        if not isinstance(self.base, Weighting):
            raise TypeError(f"weighting {self.key!r}: base must be a key or a Weighting, got {self.base!r}")

    @property
    def bound(self) -> float:
        """c_k."""
        return self.start * (self.end / self.start) ** min(max(self.iteration, 0) / self.warmup, 1.0)

    def data(self, node: Node) -> Tensor:
        assert isinstance(self.base, Weighting)
        return self.base.data(node).clamp(max=self.bound)
