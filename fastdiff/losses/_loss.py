"""Loss: what every training loss is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core.registry import Registry
from ..runtime.train import Net, begin, wide

__all__ = ["Loss", "Net", "Terms", "begin", "losses", "wide"]

losses: Registry[Loss] = Registry("loss", "fastdiff.losses")


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
