"""Coupling: which of the batch's noises each sample is paired with.

A coupling keeps both marginals: it reorders the rows of the noise (or draws among them), so a network trained
on it samples the same law. Pairs that lie nearer make straighter paths and losses of less variance. The data
and what belongs to them (labels, captions) stay in their order.

Coupled samples depend on the batch they stand in; every rank of a job couples its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.registry import Registry

couplings: Registry[Coupling] = Registry(
    "coupling", "fastdiff.losses.couplings", {"ot": "assignment", "exact": "assignment"}
)


class Coupling:
    """Base of every coupling: a frozen dataclass with a `key` and `pair`."""

    key: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        couplings.add(cls)

    @staticmethod
    def of(what: str, given: Any) -> Coupling | Callable[[Tensor, Tensor], Tensor]:
        """A key's coupling, or a coupling or callable itself."""
        found = couplings.make(given) if isinstance(given, str) else given
        if not callable(found) and not isinstance(found, Coupling):
            raise TypeError(f"{what}: coupling must be a key, a Coupling or a callable, got {given!r}")
        return found  # type: ignore[return-value]

    def pair(self, x0: Tensor, x1: Tensor, rng: Tensor) -> Tensor:
        """The rows of x1 in the order in which they belong to x0's; nothing here has a derivative."""
        raise TypeError(f"{type(self).__name__} does not define pair")


def squared_distances(x0: Tensor, x1: Tensor) -> Tensor:
    """|x0_i - x1_j|^2 (n, m), float32 or wider. Both are moved by x0's mean: less is cancelled."""
    wide = torch.float64 if torch.float64 in (x0.dtype, x1.dtype) else torch.float32
    a, b = (x.detach().flatten(1).to(wide) for x in (x0, x1))
    mean = a.mean(0)
    a, b = a - mean, b - mean
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * (a @ b.T)).clamp(min=0)


def square(call: str, cost: Any) -> Tensor:
    """cost as a float64 matrix (n, n), or TypeError and ValueError that say what is wrong."""
    if not isinstance(cost, Tensor) or not cost.is_floating_point():
        came = cost.dtype if isinstance(cost, Tensor) else type(cost).__name__
        raise TypeError(f"{call}: cost must be a tensor of a float type, got {came}")
    if cost.dim() != 2 or cost.shape[0] != cost.shape[1] or not cost.shape[0]:
        raise ValueError(f"{call}: cost must be a matrix (n, n), n >= 1, got {tuple(cost.shape)}")
    return cost.detach().double()
