"""P2: w_x = SNR / (k + SNR)^gamma: little weight on what is almost clean.

Source: Choi et al. 2022, arXiv:2204.00227.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, positive, snr


@dataclass(frozen=True)
class P2(Weighting):
    """w_x = SNR / (k + SNR)^gamma: little weight on what is almost clean."""

    key = "p2"
    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        positive("p2", "k", self.k)

    def data(self, node: Node) -> Tensor:
        r = snr(node)
        return r * (self.k + r) ** -self.gamma
