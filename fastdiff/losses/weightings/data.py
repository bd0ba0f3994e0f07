"""Data: w_x = 1: every error of the data prediction counts the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting


@dataclass(frozen=True)
class Data(Weighting):
    """w_x = 1: every error of the data prediction counts the same."""

    key = "data"

    def data(self, node: Node) -> Tensor:
        return torch.ones_like(node.alpha)
