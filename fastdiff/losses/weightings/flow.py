"""Flow: w_x = (alpha lam')^2: every error of the flow dx/dt counts the same.

Source: Lipman et al. 2023, arXiv:2210.02747.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, error_factor


@dataclass(frozen=True)
class Flow(Weighting):
    """w_x = (alpha lam')^2: every error of the flow dx/dt counts the same."""

    key = "flow"

    def data(self, node: Node) -> Tensor:
        return error_factor("flow", node)
