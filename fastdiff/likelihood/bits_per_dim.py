"""bits_per_dim: nats of a whole sample as bits of each of its numbers.

    bits = -log_p / (n ln 2) + log2(levels / 2)          the last term for a density of data on [-1, 1]

The one place where units change.
"""

from __future__ import annotations

from math import log, log2
from typing import Any

from torch import Tensor


def bits_per_dim(log_p: Tensor, size: Any, levels: int | None = None) -> Tensor:
    """-log_p / (n ln 2), plus log2(levels / 2) where log_p is a density of data on [-1, 1].

    size    n, or a sample's shape
    levels  of the data before they were scaled to [-1, 1] and dequantised by uniform noise: 256 for pictures.
            None: log_p is a probability of levels already, or its data have no levels

    Raises TypeError and ValueError that name the argument.
    """
    n = size
    if not isinstance(size, int):
        n = 1
        for side in size:
            n *= int(side)
    if n < 1:
        raise ValueError(f"bits_per_dim: size must count at least one number, got {size!r}")
    if levels is not None and (type(levels) is not int or levels < 2):
        raise ValueError(f"bits_per_dim: levels must be a whole number >= 2, got {levels!r}")
    if not isinstance(log_p, Tensor) or not log_p.is_floating_point():
        raise TypeError(f"bits_per_dim: log_p must be a tensor of a float type, got {type(log_p).__name__}")
    bits = -log_p / (n * log(2))
    return bits if levels is None else bits + log2(levels / 2)
