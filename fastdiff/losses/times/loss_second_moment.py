"""LossSecondMoment: times in proportion to the root mean square of the losses lately seen there.

    p_n ~ sqrt(mean of the last `history` squared losses of bin n), mixed with `floor` of the uniform law

over `bins` equal parts of [low, high]; uniform until every bin has its history. It is a memory: `observe` is
called by the loss, `state_dict` keeps it, and under an initialised torch.distributed group all ranks remember
the same losses.
Source: Nichol & Dhariwal 2021, arXiv:2102.09672, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.process import Process
from ._times import Times, uniforms


@dataclass
class LossSecondMoment(Times):
    """Times where the loss is large."""

    key = "loss-second-moment"
    bins: int = 1000
    history: int = 10
    floor: float = 1e-3
    _losses: Tensor = field(init=False, repr=False)  # (bins, history), the newest last
    _count: Tensor = field(init=False, repr=False)
    _range: tuple[float, float] | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("bins", 1), ("history", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(
                    f"time sampler 'loss-second-moment': {name} must be a whole number >= {least}, "
                    f"got {value!r}"
                )
        if not 0 < self.floor <= 1:
            raise ValueError(
                f"time sampler 'loss-second-moment': floor must lie in (0, 1], got {self.floor!r}"
            )
        self._losses = torch.zeros(self.bins, self.history, dtype=torch.float64)
        self._count = torch.zeros(self.bins, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """Of the bins, float64."""
        rms = self._losses.square().mean(1).sqrt()
        even = torch.full_like(rms, 1 / self.bins)
        mixed = (1 - self.floor) * rms / rms.sum() + self.floor / self.bins
        return torch.where((self._count >= self.history).all() & (rms.sum() > 0), mixed, even)

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        self._range = (low, high)
        self._move(rng.device)
        p, u = self.probabilities(), uniforms(rng)
        below = p.cumsum(0)
        n = torch.searchsorted(below / below[-1], u, right=True).clamp(max=self.bins - 1)
        within = uniforms(rng, draw=1)
        return low + (high - low) * (n + within) / self.bins, 1 / (self.bins * p[n])

    def observe(self, t: Tensor, loss: Tensor) -> None:
        if self._range is None:
            raise ValueError("time sampler 'loss-second-moment': observe before any draw")
        low, high = self._range
        t, loss = t.detach().double(), loss.detach().double()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            t, loss = _gathered(t), _gathered(loss)
        self._move(t.device)
        bins = ((t - low) / (high - low) * self.bins).long().clamp(0, self.bins - 1)
        for n, value in zip(bins, loss, strict=True):  # in order: two samples may share a bin
            self._losses[n] = torch.cat([self._losses[n, 1:], value[None]])
            self._count[n] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._losses.clone(), "count": self._count.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["losses"].shape != self._losses.shape:
            came, want = tuple(state["losses"].shape), tuple(self._losses.shape)
            raise ValueError(
                f"time sampler 'loss-second-moment': a state of {came} for (bins, history) = {want}"
            )
        self._losses, self._count = state["losses"].clone().double(), state["count"].clone()

    def _move(self, device: torch.device) -> None:
        if self._losses.device != device:
            self._losses, self._count = self._losses.to(device), self._count.to(device)


def _gathered(x: Tensor) -> Tensor:
    """All ranks' values in the order of ranks; batches may differ in size."""
    size = torch.tensor([x.numel()], device=x.device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    most = max(int(s) for s in sizes)
    parts = [x.new_zeros(most) for _ in sizes]
    dist.all_gather(parts, torch.nn.functional.pad(x, (0, most - x.numel())))
    return torch.cat([p[: int(s)] for p, s in zip(parts, sizes, strict=True)])
