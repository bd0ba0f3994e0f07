"""SoftMinSNR: w_x = SNR gamma / (SNR + gamma), min-SNR without its corner.

Source: Crowson et al. 2024, arXiv:2401.11605.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, positive, snr


@dataclass(frozen=True)
class SoftMinSNR(Weighting):
    """w_x = SNR gamma / (SNR + gamma), min-SNR without its corner."""

    key = "soft-min-snr"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        positive("soft-min-snr", "gamma", self.gamma)

    def data(self, node: Node) -> Tensor:
        return self.gamma / (1 + self.gamma / snr(node))
