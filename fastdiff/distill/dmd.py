"""DMD: the generator follows the difference of two denoisers, of the data's law and of its own.

    x_t = alpha x + sigma eps         G = (x0_fake(x_t) - x0_real(x_t)) / mean |x - x0_real(x_t)|

The loss is 1/2 |G|^2 in value and G in slope, by x: descent on KL(law of x || law of the data) under noise.
The fake denoiser is trained beside it, by an ordinary denoising loss on x.detach(). An element of G that is
no number (a sample that is its own prediction: 0 / 0) counts as 0.

Sources: Yin et al. 2023, arXiv:2311.18828, equations 7 and 8; Starodubcev et al. 2025, arXiv:2503.16397.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import unknown
from ..noise.streams import TRAINING
from ..ops.dots import dots
from ..ops.linear_step import linear_step
from ..runtime.denoiser import Denoiser
from ..runtime.train import begin, check_process, data_prediction, table, uniform_times, wide


class DMD:
    """real, fake    Denoisers on one process; fake's network is trained by you, between calls
    scale, uncond    classifier-free guidance of the real one: uncond's entries take the place of cond's
    times            part of the process between which t is drawn, of t_max
    reduction        of a sample's elements: "mean", or "sum", whose slope by x is G / B itself

    `loss(x, cond=None, seeds=None)`: x (B, *) from the generator, with its graph; a scalar. `direction(x,
    ...)` is G alone. No gradient reaches the denoisers. Raises ValueError and TypeError before anything runs.
    """

    def __init__(
        self,
        real: Denoiser,
        fake: Denoiser,
        *,
        scale: float = 1.0,
        uncond: Mapping[str, Any] | None = None,
        times: tuple[float, float] = (0.02, 0.98),
        reduction: str = "mean",
    ):
        for name, d in (("real", real), ("fake", fake)):
            if not isinstance(d, Denoiser):
                raise TypeError(f"DMD: {name} must be a fd.Denoiser, got {type(d).__name__}")
        process = check_process("DMD", real.process)
        if fake.process != process:
            raise ValueError(f"DMD: real is of {process!r}, fake of {fake.process!r}; need one process")
        if scale != 1 and uncond is None:
            raise ValueError(f"DMD: scale={scale!r} guides real away from uncond, which is missing")
        if not (len(times) == 2 and 0 < times[0] < times[1] <= 1):
            raise ValueError(f"DMD: times must be (low, high) with 0 < low < high <= 1, got {times!r}")
        if reduction not in ("mean", "sum"):
            raise unknown("reduction", reduction, ("mean", "sum"))
        self.real, self.fake, self.process = real, fake, process
        self.scale, self.uncond, self.reduction = float(scale), dict(uncond or {}), reduction
        span = process.t_max - process.t_zero
        self.low, self.high = (process.t_zero + part * span for part in times)

    def direction(self, x: Tensor, *, cond: Mapping[str, Any] | None = None, seeds: Any = None) -> Tensor:
        """G, like x in the arithmetic's dtype, without a graph."""
        given, rng = begin("DMD", self.real.net, x, cond, seeds)
        x = x.detach()
        t, dtype = uniform_times(rng, self.low, self.high, self.process.train_steps), wide(x)
        with torch.no_grad():
            node = self.process.node(t)
            A = table([node.alpha, node.sigma], t, dtype)
            (x_t,) = linear_step([x], A, rng=rng, draws=[0], streams=[TRAINING])
            real = data_prediction(self.real, x_t, t, given)
            if self.scale != 1:
                bare = data_prediction(self.real, x_t, t, {**given, **self.uncond})
                real = bare + self.scale * (real - bare)
            fake = data_prediction(self.fake, x_t, t, given)
            away = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]], dtype=dtype, device=x.device)
            size = dots([x, real], [(0, 1)], kinds="l1", rows=away)[:, 0] / x[0].numel()
            inverse = 1 / size
            (G,) = linear_step([fake, real], table([inverse, -inverse], inverse, dtype), dtype=dtype)
            return torch.nan_to_num(G, nan=0.0, posinf=0.0, neginf=0.0)

    def __call__(self, x: Tensor, *, cond: Mapping[str, Any] | None = None, seeds: Any = None) -> Tensor:
        G = self.direction(x, cond=cond, seeds=seeds)
        by_x, square = dots([x, G], [(0, 1)])[:, 0], dots([G], [(0, 0)])[:, 0]
        loss = by_x - by_x.detach() + square / 2  # the slope is G to the last bit
        return loss.mean() / (x[0].numel() if self.reduction == "mean" else 1)
