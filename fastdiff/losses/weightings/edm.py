"""EDM: w_x = (rho^2 + sd^2) / (rho sd)^2, rho = sigma / alpha, sd of the data: the loss of the raw network is
flat.

Source: Karras et al. 2022, arXiv:2206.00364, table 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, positive, snr


@dataclass(frozen=True)
class EDM(Weighting):
    """w_x = (rho^2 + sd^2) / (rho sd)^2, rho = sigma / alpha, sd of the data: the loss of the raw network is
    flat."""

    key = "edm"
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        positive("edm", "sigma_data", self.sigma_data)

    def data(self, node: Node) -> Tensor:
        return 1 / self.sigma_data**2 + snr(node)
