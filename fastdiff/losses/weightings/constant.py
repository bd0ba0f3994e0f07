"""Constant: w = 1 in the space of the network's own prediction, whatever that is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, error_factor


@dataclass(frozen=True)
class Constant(Weighting):
    """w = 1 on the network's own prediction."""

    key = "constant"

    def data(self, node: Node) -> Tensor:
        return error_factor("noise", node)

    def weight(self, node: Node, predicts: str) -> Tensor:
        return torch.ones_like(node.alpha)
