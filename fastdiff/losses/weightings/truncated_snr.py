"""TruncatedSNR: w_x = max(SNR, 1).

Source: Salimans & Ho 2022, arXiv:2202.00512.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, snr


@dataclass(frozen=True)
class TruncatedSNR(Weighting):
    """w_x = max(SNR, 1)."""

    key = "truncated-snr"

    def data(self, node: Node) -> Tensor:
        return snr(node).clamp(min=1.0)
