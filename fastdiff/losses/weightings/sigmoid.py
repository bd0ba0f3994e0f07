"""Sigmoid: w_x = SNR sigmoid(b - log SNR).

Source: Kingma & Gao 2023, arXiv:2303.00848; Hoogeboom et al. 2024, arXiv:2410.19324.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, snr


@dataclass(frozen=True)
class Sigmoid(Weighting):
    """w_x = SNR sigmoid(b - log SNR)."""

    key = "sigmoid"
    b: float = -1.0

    def data(self, node: Node) -> Tensor:
        r = snr(node)
        return r * torch.sigmoid(self.b - r.log())
