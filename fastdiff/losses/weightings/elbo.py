"""ELBO: w_x = -lam' SNR, that is g^2 / 2 on the score: with t uniform the loss is the likelihood's bound.

Summed over elements and over t it is in nats:  -log p(x0) <= KL(q(x_T | x0) || prior) + reconstruction +
integral. Source: Kingma et al. 2021, arXiv:2107.00630; Song et al. 2021, arXiv:2101.09258.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, snr


@dataclass(frozen=True)
class ELBO(Weighting):
    """w_x = -lam' SNR, that is g^2 / 2 on the score: with t uniform the loss is the likelihood's bound."""

    key = "elbo"

    def data(self, node: Node) -> Tensor:
        return -node.process.dlam(node.t) * snr(node)
