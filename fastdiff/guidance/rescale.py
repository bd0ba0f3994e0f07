"""Rescaled classifier-free guidance: bring the guided prediction back to the spread of the conditional one.

    r = std(c) / std(out) over all but the batch axis          out' = phi r out + (1 - phi) out

Stands after `CFG` among the hooks. Acts on the network's own kind of prediction, as its authors do, or on the
data prediction.

Source: Lin et al. 2024, arXiv:2305.08891, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.hook import Hook
from ..core.options import check_numbers, require


@dataclass(frozen=True)
class Rescale(Hook):
    phi: float = 0.7
    space: Literal["network", "data"] = "network"

    def __post_init__(self) -> None:
        check_numbers(self, "phi")
        require(self, 0 <= self.phi <= 1, "phi in [0, 1]", "phi")
        if self.space not in ("network", "data"):
            raise unknown("space of Rescale", self.space, ("network", "data"))

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        if len(ctx.outputs) < 2:  # outside the interval of guidance there is nothing to bring back
            return xhat
        if xhat.numel() < 2 * len(xhat):
            raise ValueError(f"Rescale: a sample of shape {tuple(xhat.shape[1:])} has no spread")
        p, q = ctx.conversion  # xhat = p x + q out
        x, xhat, c = (_wide(v) for v in (ctx.x, xhat, ctx.outputs[0]))
        c, offset = (q * c, p * x) if self.space == "network" else (p * x + q * c, 0)
        out = xhat - offset
        spread = _std(out)
        ratio = (_std(c) / spread).where(spread > 0, 1)
        return offset + (self.phi * ratio + 1 - self.phi) * out


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _std(x: Tensor) -> Tensor:
    return x.std(tuple(range(1, x.dim())), keepdim=True)
