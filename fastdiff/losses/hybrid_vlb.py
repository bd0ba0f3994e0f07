"""HybridVLB: a simple loss for the prediction and the discrete bound for a learned variance.

    loss = E  w |F - target|^2 + lam N b_n / ln 2,     b_n in nats a dimension, n of 1 .. N steps

    b_n, n > 1   KL( q(x_s | x_t, x0) || N(mean of q with x0_hat for x0, e^l) ),   t = n / N,  s = (n - 1) / N
    b_1          -ln of the mass of N(x0_hat, e^l) in x0's bin, the two end bins open
    l            (v + 1) / 2 log beta_t + (1 - v) / 2 log betatilde_t,   v the network's second half

with betatilde_t = sigma_s^2 r the variance of q, beta_t = sigma_t^2 r that of the forward step, and r = 1 -
e^{2 (lam_t - lam_s)}: the range that solver `ddpm` with variance="learned-range" samples from. betatilde is
0 at n = 1; that of n = 2 stands there. Inside the bound the mean is held, so that it trains the variance
alone.

Source: Nichol & Dhariwal 2021, arXiv:2102.09672, equations 14 to 16, and its published code: terms of the
bound in bits, the normal distribution function exact where theirs is a tanh.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.predict import convert
from ..core.process import Process
from ..ops.gaussian_kl import gaussian_kl
from ..runtime.denoiser import VARIANCES
from ._loss import Loss, Net, Terms, wide
from .denoising import Denoising, Noised
from .weightings import Weighting


class HybridVLB(Loss):
    """E w |F - target|^2 + lam N b_n / ln 2 for a network of 2C channels: a prediction, then v.

    process    a Process over [0, 1] without a const; a continuous one with steps=N
    predicts   "noise" | "data" | "velocity" | "flow" | "score"
    lam        of the bound, a sum over steps in bits a dimension; None is the bound alone, which then trains
               the mean too
    variance   "learned-range", or "learned": the network gives log of the variance itself
    bins       how many values the data have in [-1, 1]; 256 for 8 bits
    options    those of `Denoising`: weighting (of the simple loss), time_sampler, drop, rho, ...

    `loss(net, x0, cond=None, seeds=None)`. `bound(net, x0, t)` is b_n of each sample in nats, summed over its
    dimensions: over n = 1 .. N, with KL(q(x_T | x0) || prior), they bound -log p(x0).
    """

    key = "hybrid-vlb"

    def __init__(
        self,
        process: Process,
        predicts: str = "noise",
        weighting: str | Weighting | Any = "constant",
        time_sampler: Any = "uniform",
        *,
        lam: float | None = 1e-3,
        variance: str = "learned-range",
        bins: int = 256,
        **options: Any,
    ):
        if variance not in VARIANCES:
            raise unknown("variance", variance, VARIANCES)
        if lam is not None and not 0 <= lam < math.inf:
            raise ValueError(f"HybridVLB: lam must be a number >= 0 or None, got {lam!r}")
        if type(bins) is not int or bins < 2:
            raise ValueError(f"HybridVLB: bins must be a whole number >= 2, got {bins!r}")
        if "precondition" in options:
            raise ValueError("HybridVLB: precondition leaves no room for a variance; say predicts=")
        self.simple = Denoising(process, predicts, weighting, time_sampler, **options)
        if process.const is not None or (process.t_zero, process.t_max) != (0.0, 1.0):
            raise ValueError(f"HybridVLB: process must run over [0, 1] and pull to nothing, got {process!r}")
        if self.simple.steps is None or self.simple.steps < 2:
            raise ValueError(
                f"HybridVLB: {process!r} is continuous: say steps=N, 2 or more of them, "
                f"got {self.simple.steps}"
            )
        convert(predicts, "data", process.node(process.t_max))  # or ValueError: noise says nothing where
        self.process, self.predicts = process, self.simple.predicts  # there is nothing else
        self.steps, self.lam, self.variance, self.bins = self.simple.steps, lam, variance, bins
        self.simple.model.variance = variance

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`; the weighting is inside the loss, the weight is the time sampler's; t (B,): steps n / N
        of your own."""
        made, simple = self.simple.noised("HybridVLB", net, x0, cond, seeds, t=t), self.simple
        scale = self.steps / math.log(2) * (1.0 if self.lam is None else self.lam)
        loss = self._nats(made, x0, stop_mean=self.lam is not None, scale=scale, reduction="mean")
        if self.lam is not None:
            loss = loss + simple.compare(made, x0, simple.weigh(made.node).to(wide(x0)))
        weight = torch.ones_like(made.node.t) if made.importance is None else made.importance
        if torch.is_grad_enabled():
            simple.times.observe(made.node.t, loss)
        return Terms(loss, weight.to(loss.dtype), made.node.t, made.x_t, made.output)

    def bound(
        self,
        net: Net,
        x0: Tensor,
        t: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
    ) -> Tensor:
        """The bound's term at steps t = n / N, (B,) nats of the sample, one draw of x_t; differentiable in
        both halves."""
        made = self.simple.noised("HybridVLB", net, x0, cond, seeds, t=t)
        return self._nats(made, x0, stop_mean=False, scale=None, reduction="sum")

    def _nats(self, made: Noised, x0: Tensor, stop_mean: bool, scale: float | None, reduction: str) -> Tensor:
        N, t = self.steps, made.node.t
        n = (t * N).round().clamp(1, N)
        process = self.process
        node, s = process.node(n / N), process.node((n - 1) / N)
        fresh = -torch.expm1(2 * (node.lam - s.lam))
        p, q = convert(self.predicts, "data", node, check=False)
        share = s.alpha * fresh  # of x0 in the mean of q
        whole = self.simple.model.take(made.output, made.x_t, whole=True)
        pred, var = whole.chunk(2, 1)
        low, high = self._range(n)
        truth = 2 * s.sigma.log() + fresh.log()
        last = n == 1
        if self.variance == "learned":  # v is the log variance: the range in which it is that
            low, high = torch.full_like(n, -1), torch.full_like(n, 1)
        return gaussian_kl(
            pred,
            x0,
            made.x_t,
            var=var,
            low=low,
            high=high,
            by_xt=-share * p,
            by_x0=share,
            by_pred=-share * q,
            log_var=torch.where(last, 0.0, truth),  # of no meaning for a bin, but a number
            bin=last,
            bins=self.bins,
            w=scale,
            reduction=reduction,
            stop_mean=stop_mean,
        )

    def _range(self, n: Tensor) -> tuple[Tensor, Tensor]:
        """log betatilde and log beta of step n, the first's betatilde that of the second."""

        def ends(n: Tensor) -> tuple[Tensor, Tensor]:
            t, s = (self.process.node(k / self.steps) for k in (n, n - 1))
            fresh = torch.log(-torch.expm1(2 * (t.lam - s.lam)))
            return 2 * s.sigma.log() + fresh, 2 * t.sigma.log() + fresh

        return ends(n.clamp(min=2))[0], ends(n)[1]

    def __repr__(self) -> str:
        return f"HybridVLB({self.process!r}, predicts={self.predicts!r}, lam={self.lam}, steps={self.steps})"
