"""Rescaled classifier-free guidance: bring the guided prediction back to the spread of the conditional one.

    r = std(c) / std(out) over all but the batch axis          out' = phi r out + (1 - phi) out

Stands after `CFG` among the hooks. Acts on the network's own kind of prediction, as its authors do, or on the data prediction.

Source: Lin et al. 2024, arXiv:2305.08891, section 3.4.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..core.hook import Hook
from ..core.predict import convert


@dataclass(frozen=True)
class Rescale(Hook):
    phi: float = 0.7
    space: Literal["network", "data"] = "network"

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise ValueError(f"Rescale: phi must be in [0, 1], got {self.phi}")
        if self.space not in ("network", "data"):
            raise ValueError(f"Rescale: space must be 'network' or 'data', got {self.space!r}")

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        if len(ctx.outputs) < 2:  # outside the interval of guidance there is nothing to bring back
            return xhat
        p, q = (float(v) for v in convert(ctx.denoiser.predicts, "data", ctx.node))
        c = ctx.outputs[0].to(xhat.dtype)
        offset = p * ctx.x if self.space == "network" else 0  # xhat = p x + q out
        out = xhat - offset
        c = q * c if self.space == "network" else p * ctx.x + q * c
        axes = tuple(range(1, xhat.dim()))
        spread = out.std(axes, keepdim=True)
        ratio = (c.std(axes, keepdim=True) / spread).where(spread > 0, 1)
        return offset + (self.phi * ratio + 1 - self.phi) * out
