"""MeanRevertingML: one reverse Euler step of a mean-reverting SDE against the most likely earlier state.

    x*_{i-1} = mu + (1 - C^2) A / (1 - B^2) (x_i - mu) + (1 - A^2) C / (1 - B^2) (x0 - mu)
    x^_{i-1} = x_i - d (mu - x_i) + 2 d s_inf^2 s(x_i)             loss = gamma_i |x^_{i-1} - x*_{i-1}|^p

A = e^{-d}, B = e^{-Theta_i}, C = e^{-Theta_{i-1}}, d = Theta_i - Theta_{i-1}, i = 1 .. N. x* is the mean of
x_{i-1} given x_i and x0, and at i = 1 x0 itself. Everything is affine in the network's output, so it is one
regression with x0, x_i and mu in its target.

Source: Luo et al. 2023, arXiv:2301.11699, equations 13 to 15 and its published code (p = 1, gamma = 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.predict import convert
from ..ops.regression_loss import regression_loss
from ..processes.mean_reverting import MeanReverting
from ._loss import Loss, Net, Terms, wide
from .denoising import Denoising

POWERS = {"l1": 1, "l2": 2}


class MeanRevertingML(Loss):
    """gamma_i |x^_{i-1} - x*_{i-1}|^p, the mean over elements and samples.

    process   MeanReverting, with its steps; a continuous one with steps=N
    predicts  "noise" | "data" | "velocity" | "score"
    rho       "l1" | "l2"
    gamma     callable(i) -> (B,) of the steps i = 1 .. N, float64; default 1
    options   those of `Denoising`: time, time_sampler, drop, steps, ...

    `loss(net, x0, mu=mu, cond=None, seeds=None)`, mu like x0: what the data decay to.
    """

    key = "mean-reverting-ml"

    def __init__(
        self,
        process: MeanReverting,
        predicts: str = "noise",
        *,
        rho: str = "l1",
        gamma: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ):
        if not isinstance(process, MeanReverting):
            raise TypeError(f"MeanRevertingML: process must be a MeanReverting, got {type(process).__name__}")
        if rho not in POWERS:
            raise ValueError(f"MeanRevertingML: rho must be 'l1' or 'l2', got {rho!r}")
        if predicts == "flow":
            raise ValueError("MeanRevertingML: predicts='flow' moves with mu; train it with Denoising")
        if gamma is not None and not callable(gamma):
            raise TypeError(f"MeanRevertingML: gamma must be callable, got {type(gamma).__name__}")
        if taken := sorted({"weighting", "precondition", "offset_noise", "noise", "c"} & set(options)):
            raise ValueError(f"MeanRevertingML: {taken[0]} is not one of its options")
        self.denoising = Denoising(process, predicts, **options)
        self.process, self.predicts, self.rho, self.gamma = process, predicts, rho, gamma
        if self.denoising.steps is None:
            raise ValueError(f"MeanRevertingML: {process!r} is continuous: say steps=N")
        self.steps = self.denoising.steps

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        mu: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`; t (B,): steps i / N of your own instead of drawn ones."""
        if not isinstance(mu, Tensor):
            raise TypeError(f"MeanRevertingML: mu must be a tensor like x0, got {type(mu).__name__}")
        consts = {str(self.process.const): mu}
        made = self.denoising.noised("MeanRevertingML", net, x0, cond, seeds, consts, t)
        i = (made.node.t * self.steps).round().clamp(1, self.steps)
        by_pred, by_x, by_x0, by_mu = self._difference(i)
        to, dtype = 1 / by_pred, wide(x0)
        weight = by_pred.abs() ** POWERS[self.rho]
        if self.gamma is not None:
            gamma = self.gamma(i)
            if not isinstance(gamma, Tensor) or gamma.shape != i.shape:
                came = tuple(gamma.shape) if isinstance(gamma, Tensor) else type(gamma).__name__
                raise ValueError(f"MeanRevertingML: gamma(i) must give a tensor {tuple(i.shape)}, got {came}")
            weight = weight * gamma
        loss = regression_loss(
            made.pred,
            x0,
            made.x_t,
            mu,
            p=(-by_x0 * to).to(dtype),
            r=(-by_x * to).to(dtype),
            e=(-by_mu * to).to(dtype),
            rho=self.rho,
            w=weight.to(dtype),
        )
        importance = torch.ones_like(i) if made.importance is None else made.importance
        if torch.is_grad_enabled():
            self.denoising.times.observe(made.node.t, loss)
        return Terms(loss, importance.to(dtype), made.node.t, made.x_t, made.output)

    def __call__(
        self,
        net: Net,
        x0: Tensor,
        *,
        mu: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
    ) -> Tensor:
        """The mean over the batch, a scalar."""
        return self.per_sample(net, x0, mu=mu, cond=cond, seeds=seeds).weighted.mean()

    def _difference(self, i: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x^ - x* by the network's output, x_i, x0 and mu; float64 (B,)."""
        process, t = self.process, i / self.steps
        now, before = process.Theta(t), process.Theta((i - 1) / self.steps)
        d, m = now - before, torch.expm1
        by_x = m(-2 * before) * torch.exp(-d) / m(-2 * now)
        by_x0 = m(-2 * d) * torch.exp(-before) / m(-2 * now)
        p, q = convert(self.predicts, "score", process.node(t), check=False)
        rate = 2 * d * process.s_inf**2
        return (
            rate * q,
            1 + d + rate * p - by_x,
            -by_x0,
            by_x + by_x0 - 1 - d - rate * p * process.offset(t),
        )

    def __repr__(self) -> str:
        return f"MeanRevertingML({self.process!r}, predicts={self.predicts!r}, rho={self.rho!r})"
