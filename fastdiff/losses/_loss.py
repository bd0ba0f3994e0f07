"""Loss: what every training loss is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.registry import Registry
from ..noise.seeds import resolve
from ..runtime.checks import check_x

losses: Registry[Loss] = Registry("loss", "fastdiff.losses")
Net = Callable[..., Any]


@dataclass(frozen=True)
class Terms:
    """A loss sample by sample.

    loss     (B,) float32 (float64 for float64 data): mean over a sample's elements, unweighted in time
    weight   (B,) what it is multiplied by: the weighting's and the time sampler's
    t        (B,) float64 times
    x_t      what the network was given, before any cast of its own
    output   what the network gave
    """

    loss: Tensor
    weight: Tensor
    t: Tensor
    x_t: Tensor
    output: Any

    @property
    def weighted(self) -> Tensor:
        return self.loss * self.weight.to(self.loss.dtype)


class Loss:
    """Base of every loss: a class with a `key` and `per_sample`; the scalar is the batch's mean."""

    key: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        losses.add(cls)

    def per_sample(
        self, net: Net, x0: Tensor, *, cond: Mapping[str, Any] | None = None, seeds: Any = None
    ) -> Terms:
        raise TypeError(f"{type(self).__name__} does not define per_sample")

    def __call__(
        self, net: Net, x0: Tensor, *, cond: Mapping[str, Any] | None = None, seeds: Any = None
    ) -> Tensor:
        """The mean over the batch, a scalar."""
        return self.per_sample(net, x0, cond=cond, seeds=seeds).weighted.mean()


def begin(what: str, net: Any, x0: Any, cond: Any, seeds: Any) -> tuple[dict[str, Any], Tensor]:
    """(cond, rng) of a loss's arguments, or TypeError and ValueError that name what is wrong."""
    if not callable(net):
        raise TypeError(f"{what}: net must be callable as net(x, t, **cond), got {type(net).__name__}")
    check_x(x0, f"{what}: x0")
    if x0.shape[0] == 0 or x0.numel() == 0:
        raise ValueError(f"{what}: x0 of shape {tuple(x0.shape)} holds no samples")
    if cond is not None and not (isinstance(cond, Mapping) and all(isinstance(k, str) for k in cond)):
        raise TypeError(
            f"{what}: cond must be a dict of the network's keyword arguments, got {type(cond).__name__}"
        )
    return dict(cond or {}), resolve(seeds, x0.shape[0], x0.device)


def wide(x: Tensor) -> torch.dtype:
    """The arithmetic of a tensor's losses."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
