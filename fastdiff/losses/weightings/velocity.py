"""Velocity: w_x = (alpha^2 + sigma^2)^2 / sigma^2, SNR + 1 on the unit circle: every error of v counts the
same.

Source: Salimans & Ho 2022, arXiv:2202.00512.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting, error_factor


@dataclass(frozen=True)
class Velocity(Weighting):
    """w_x = (alpha^2 + sigma^2)^2 / sigma^2, SNR + 1 on the unit circle: every error of v counts the same."""

    key = "velocity"

    def data(self, node: Node) -> Tensor:
        return error_factor("velocity", node)
