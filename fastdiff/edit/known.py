"""Known: elements of the data that are known put into every data prediction.

    xhat <- mask xhat + (1 - mask) known

On a bridge from a picture with holes, known is x_T by default: DBIM's inpainting. On other processes it is
the replacement of the prediction, not of the state: what is known comes out exactly, and the rest is told of
it only by the network's own input.

Source: Zheng et al. 2025, arXiv:2405.15885.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.hook import Hook


class Known(Hook):
    """mask     1 where the network's word counts, 0 where the data are known; broadcast to x
    known    the data, like x; None: the process's const (x_T of a bridge, mu of a mean reversion)
    """

    def __init__(self, mask: Tensor, known: Tensor | None = None):
        for name, v in (("mask", mask), ("known", known)):
            if not isinstance(v, Tensor) and not (v is None and name == "known"):
                raise TypeError(f"Known: {name} must be a tensor, got {type(v).__name__}")
        if not bool(torch.isfinite(mask).all()) or bool((mask < 0).any()) or bool((mask > 1).any()):
            raise ValueError("Known: mask must lie in [0, 1]")
        self.mask, self.known = mask, known

    def plan_key(self) -> Any:
        return Known

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        known, name = self.known, ctx.denoiser.process.const
        if known is None and name is None:
            raise ValueError(f"Known: {ctx.denoiser.process!r} has no const; give known=")
        known = ctx.consts[name] if known is None else _rows(known, ctx.part)
        return torch.lerp(known.to(xhat), xhat, _rows(self.mask, ctx.part).to(xhat))


def _rows(v: Tensor, part: tuple[int, int, int] | None) -> Tensor:
    """Those of the samples that run here, of a tensor with a row for each."""
    return v[part[0] : part[1]] if part is not None and v.dim() and v.shape[0] == part[2] else v
