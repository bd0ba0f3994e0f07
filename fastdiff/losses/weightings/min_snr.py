"""MinSNR: w_x = min(SNR, gamma): in noise min(SNR, gamma) / SNR, in v on the unit circle min(SNR, gamma) /
(SNR + 1).

Source: Hang et al. 2023, arXiv:2303.09556.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, positive, snr


@dataclass(frozen=True)
class MinSNR(Weighting):
    """w_x = min(SNR, gamma): in noise min(SNR, gamma) / SNR, in v on the unit circle min(SNR, gamma) / (SNR +
    1)."""

    key = "min-snr"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        positive("min-snr", "gamma", self.gamma)

    def data(self, node: Node) -> Tensor:
        return snr(node).clamp(max=self.gamma)
