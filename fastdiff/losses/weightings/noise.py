"""Noise: w_x = SNR: every error of the noise prediction counts the same.

Source: Ho et al. 2020, arXiv:2006.11239 (its simple loss).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, snr


@dataclass(frozen=True)
class Noise(Weighting):
    """w_x = SNR: every error of the noise prediction counts the same."""

    key = "noise"

    def data(self, node: Node) -> Tensor:
        return snr(node)
