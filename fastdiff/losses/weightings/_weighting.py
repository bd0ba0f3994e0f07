"""Weighting: how much an error of the network counts at each time, said once for all predictions.

A weighting gives w_x, the weight of ||x0 - x0_hat||^2. In x = alpha x0 + sigma eps an error e_x of the data
prediction is an error (a - b alpha / sigma) e_x of a prediction a x0 + b eps, so in the network's own space
the weight is

    w = w_x / (a - b alpha / sigma)^2

Formulas run over float64 tensors (B,) on the data's device; nothing here waits for a GPU.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.predict import row
from ...core.process import Node
from ...core.registry import Registry

weightings: Registry[Weighting] = Registry(
    "weighting",
    "fastdiff.losses.weightings",
    {
        "simple": "noise",
        "eps": "noise",
        "x0": "data",
        "v": "velocity",
        "likelihood": "elbo",
        "min_snr": "min-snr",
    },
)
FAR = 350.0  # stands for |lam| = infinity: e^(2 FAR) is still a float64


class Weighting:
    """Base of every weighting: a frozen dataclass with a `key` and `data(node) -> w_x`."""

    key: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        weightings.add(cls)

    def data(self, node: Node) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define data(node)")

    def weight(self, node: Node, predicts: str) -> Tensor:
        """The weight of the squared error of a network that predicts `predicts`."""
        node = inside(node)
        return self.data(node) / error_factor(predicts, node)


def inside(node: Node) -> Node:
    """The node with alpha and sigma off zero, where ratios of weights have their limits."""
    tiny = torch.exp(torch.full_like(node.alpha, -FAR))
    alpha = torch.where(node.alpha == 0, node.sigma * tiny, node.alpha)
    sigma = torch.where(node.sigma == 0, node.alpha * tiny, node.sigma)
    return Node(node.process, node.t, alpha, sigma)


def positive(key: str, name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"weighting {key!r}: {name} must be > 0, got {value!r}")


def snr(node: Node) -> Tensor:
    """(alpha / sigma)^2."""
    return (node.alpha / node.sigma) ** 2


def error_factor(predicts: str, node: Node) -> Tensor:
    """||error of the prediction||^2 over ||error of x0_hat||^2, x_t given."""
    a, b = row(predicts, node)
    return (a - b * node.alpha / node.sigma) ** 2
