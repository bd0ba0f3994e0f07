"""RFInversion: a probability flow steered to a given end, up to a given noise or down to a given picture.

    up     u' = u + k (c - u),      c = (y_1 - x) / (1 - t)      strength k = 1 ends at the noise y_1
    down   u' = u + k (c - u),      c = (x - y_0) / t            strength k = 1 ends at the picture y_0

on the straight path x = (1 - t) x0 + t eps, u = eps - x0. In predictions that is a mixture, which holds on
every process: down  x0' = (1 - k) x0 + k y_0,  up  eps' = (1 - k) eps + k y_1. With a finite weight the way
up is the optimal control of  int |c|^2 / 2 + weight / 2 |x_1 - y_1|^2:  c = (y_1 - x) / (1 - t + 1 / weight).

Up with `fd.invert(denoiser, picture, "euler", hooks=[...])`, down with `fd.sample`, by `euler` or by `em`.

Source: Rout et al. 2024, arXiv:2410.10792.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..core.hook import Hook


class RFInversion(Hook):
    """target    y_1 or y_0, like x
    toward    "noise" (up) or "data" (down)
    strength  k in [0, 1]
    start, stop    the steps at which it acts, start <= step < stop; None: to the end
    decay     k is multiplied by (1 - step / steps)^decay
    weight    of the end in the optimal control; toward "noise" and on straight paths only
    """

    def __init__(
        self,
        target: Tensor,
        toward: str,
        strength: float = 0.5,
        *,
        start: int = 0,
        stop: int | None = None,
        decay: float = 0.0,
        weight: float = math.inf,
    ):
        if not isinstance(target, Tensor):
            raise TypeError(f"RFInversion: target must be a tensor, got {type(target).__name__}")
        if toward not in ("noise", "data"):
            raise ValueError(f"RFInversion: toward={toward!r}; allowed: 'noise', 'data'")
        if not 0 <= strength <= 1:
            raise ValueError(f"RFInversion: strength must be in [0, 1], got {strength}")
        if decay < 0 or not weight > 0:
            raise ValueError(f"RFInversion: need decay >= 0 and weight > 0, got {decay} and {weight}")
        if weight != math.inf and toward == "data":
            raise ValueError("RFInversion: weight goes with toward='noise'")
        self.target, self.toward, self.strength = target, toward, strength
        self.start, self.stop, self.decay, self.weight = start, stop, decay, weight

    def plan_key(self) -> Any:
        return RFInversion, self.start, self.stop

    def active(self, node: Any, step: int) -> bool:
        return self.start <= step and (self.stop is None or step < self.stop)

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        y, part = self.target.to(xhat), ctx.part
        if part is not None and y.shape[0] == part[2]:
            y = y[part[0] : part[1]]
        if self.toward == "noise":
            y = self._aim(ctx, y)
        k = self.strength * (1 - ctx.step / ctx.steps) ** self.decay
        return xhat + k * (y - xhat)

    def _aim(self, ctx: Any, y: Tensor) -> Tensor:
        """The data prediction that goes with the control."""
        if self.weight == math.inf:
            return (ctx.x - ctx.sigma * y) / ctx.alpha
        if ctx.denoiser.process.straight != "sum":
            raise ValueError(f"a finite weight is for straight paths, not for {ctx.denoiser.process!r}")
        return ctx.x - ctx.sigma / (ctx.alpha + 1 / self.weight) * (y - ctx.x)
