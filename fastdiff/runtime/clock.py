"""Clock: the nodes of samples that each stand at their own time, as (B,) tensors on the device.

Formulas of a process run over tensors as they are; what they have none of, the time of a lambda and the index
of a discrete network, is looked up in a table that the host makes once. Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.process import Node
from .denoiser import Denoiser

KNOTS = 8192


@dataclass(frozen=True)
class DeviceNode(Node):
    """A node of (B,) tensors."""

    clock: Any = None

    def at(self, lam: Any) -> Node:
        return self.clock.at_lam(lam)


class Clock:
    """Nodes at lambdas and at times, and what the network is told of them: (B,) tensors, and no waits."""

    def __init__(self, denoiser: Denoiser, s: Node, t: Node, like: Tensor):
        self.process, self.time, self.device = denoiser.process, denoiser.time, like.device
        self.real = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.low, self.high = float(s.lam), float(t.lam)
        knots = np.asarray(self.process.time_of(np.linspace(self.low, self.high, KNOTS)))
        self.knots = torch.tensor(knots, device=like.device)
        self.t0, self.t1 = float(s.t), float(t.t)
        if isinstance(self.time, tuple):
            at = np.asarray(self.process.model_index(np.linspace(self.t0, self.t1, KNOTS), self.time[1]))
            self.index = torch.tensor(at, device=like.device, dtype=torch.float64)

    def at_time(self, t: Tensor) -> DeviceNode:
        return DeviceNode(self.process, t, self.process.alpha(t), self.process.sigma(t), self)

    def at_lam(self, lam: Tensor) -> DeviceNode:
        """The time from a table of knots, then one of Newton's steps."""
        t = _between(self.knots, (lam - self.low) / (self.high - self.low))
        t = t + (lam - self.process.lam(t)) / self.process.dlam(t)
        return self.at_time(t.clamp(self.t1, self.t0))

    def told(self, n: Node) -> Tensor:
        """What the network gets as its time."""
        if isinstance(self.time, tuple):
            index = _between(self.index, (n.t - self.t0) / (self.t1 - self.t0))
            return index.round().clamp(0, self.time[1] - 1).long()
        if self.time == "t":
            return n.t.to(self.real)
        lam = n.lam
        told = lam if self.time == "lambda" else (-lam).exp() if self.time == "sigma" else -lam / 4
        return told.to(self.real)


def _between(values: Tensor, part: Tensor) -> Tensor:
    """A table over [0, 1] by straight lines between its knots."""
    last = len(values) - 1
    at = part.clamp(0, 1) * last
    k = at.long().clamp(max=last - 1)
    a, b = values[k], values[k + 1]
    return a + (b - a) * (at - k)
