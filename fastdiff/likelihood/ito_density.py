"""ItoDensity: the log density of samples while they are drawn, from scores alone.

    d log q = <s, dx> + (f n + f <x, s> - (g^2 / 2) |s|^2) dtau          dtau = -dt > 0, at the left point

holds along any path whose noise has the size g of the reverse SDE, whatever its drift (of another model, or
of a mixture). No divergence is needed; the error falls as the root of the steps.
Source: Skreta et al. 2025, "The superposition of diffusion models", arXiv:2412.17762, theorem 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.hook import Hook
from ..ops.dots import dots
from ..ops.linear_step import linear_step
from .ode import normal_log_density, without_const


class ItoDensity(Hook):
    """A hook for stochastic solvers of one network call a step whose noise is the SDE's: `em`, and others to
    their order.

    start   callable(x_T) -> log density (B,); default that of the prior

    `log_q` (B,) float64 is the density of the latest run's samples at its last time with noise: a step to
    sigma = 0 does not count, for there the SDE's density need not exist.
    """

    def __init__(self, start: Callable[[Tensor], Tensor] | None = None):
        if start is not None and not callable(start):
            raise TypeError(f"ItoDensity: start must be callable as start(x), got {type(start).__name__}")
        self.start = start
        self.parts: dict[int, Tensor] = {}

    @property
    def log_q(self) -> Tensor:
        """(B,) float64."""
        if not self.parts:
            raise ValueError("ItoDensity: no run has been made with it yet")
        return torch.cat([self.parts[k] for k in sorted(self.parts)])

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        """Remember what the step's left point tells: the score, and its products."""
        mine, process, x = ctx.registers, ctx.denoiser.process, ctx.x
        if not mine:
            without_const(process, "ItoDensity")
            prior = process.prior_std(ctx.t)
            mine["log_q"] = normal_log_density(x, prior) if self.start is None else self.start(x).double()
        if mine.get("step") == ctx.step:
            raise ValueError("ItoDensity: it goes with solvers of one network call a step")
        wide = torch.float64 if torch.float64 in (x.dtype, xhat.dtype) else torch.float32
        A = torch.tensor([[-1.0, ctx.alpha]], dtype=torch.float64) / ctx.sigma**2
        (s,) = linear_step([x.contiguous(), xhat.contiguous()], A.to(x.device, wide), dtype=wide)
        known = dots([x, s], [(0, 1), (1, 1)]).double()
        f, g2 = float(process.f(ctx.t)), float(process.g2(ctx.t))
        n = x[0].numel() if x.shape[0] else 0
        mine |= {"step": ctx.step, "t": ctx.t, "s": s, "xs": known[:, 0]}
        mine["rate"] = f * n + f * known[:, 0] - g2 / 2 * known[:, 1]
        return xhat

    def state(self, ctx: Any, x: Tensor) -> Tensor:
        mine = ctx.registers
        if ctx.sigma > 0 and mine.get("step") == ctx.step:
            moved = dots([x, mine["s"]], [(0, 1)])[:, 0].double() - mine["xs"]
            mine["log_q"] = mine["log_q"] + moved + mine["rate"] * (mine["t"] - ctx.t)
        if ctx.step == 0:
            if ctx.part is None or ctx.part[0] == 0:
                self.parts = {}
        self.parts[0 if ctx.part is None else ctx.part[0]] = mine["log_q"]
        return x
