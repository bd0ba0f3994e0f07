"""CoupledDiffusion: what is known and what is forecast, noised on one clock with two schedules.

    x_t = alpha x + sigma eps          y_t = alpha' y + sigma' eps',   alpha' = alpha^c
    loss = E  w(t) rho(net(x_t, t) - y_t)

alpha^c is beta'(t) = c beta(t). The network reads the noised past and is held to the noised future, which
makes pairs out of few. x and y may differ in shape. eps' is never stored: the one pass that compares makes
it.

Source: Li et al. 2022 (D3VAE), arXiv:2301.03028, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.process import Process
from ..ops.perturb import perturb
from ..ops.regression_loss import regression_loss
from ..processes._variance_preserving import VariancePreserving
from ._loss import Loss, Net, Terms, begin, wide
from .denoising import Denoising

FUTURE_COLUMN = 1  # of the training noise; the past has column 0


class CoupledDiffusion(Loss):
    """E w(t) rho(net(x_t, t, **cond) - y_t), the mean over elements of y and samples.

    process    a variance preserving Process, of the past x
    c          beta' = c beta of the future y; 0 leaves it clean
    weighting  callable(t, process) -> (B,), default 1
    options    those of `Denoising`: time, time_sampler, t_min, t_max, steps, rho, c of rho as `huber`

    `loss(net, x, y, cond=None, seeds=None)`; the network's output is like y.
    """

    key = "coupled-diffusion"

    def __init__(
        self,
        process: Process,
        c: float = 1.0,
        weighting: Callable[[Tensor, Process], Tensor] | None = None,
        *,
        huber: float | None = None,
        **options: Any,
    ):
        if not isinstance(process, VariancePreserving):
            raise TypeError(f"CoupledDiffusion: process must be variance preserving, got {process!r}")
        if not (isinstance(c, (int, float)) and 0 <= c < float("inf")):
            raise ValueError(f"CoupledDiffusion: c must be a number >= 0, got {c!r}")
        if taken := sorted({"predicts", "precondition", "drop", "offset_noise", "noise"} & set(options)):
            raise ValueError(f"CoupledDiffusion: {taken[0]} is not one of its options")
        one = "constant" if weighting is None else weighting
        self.denoising = Denoising(process, "data", one, c=huber, **options)
        self.process, self.c = process, float(c)

    def per_sample(  # type: ignore[override]
        self,
        net: Net,
        x0: Tensor,
        y0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`; t (B,): times of your own instead of drawn ones."""
        given, rng = begin("CoupledDiffusion", net, x0, cond, seeds)
        if not isinstance(y0, Tensor) or y0.dim() < 1 or y0.shape[0] != x0.shape[0]:
            came = tuple(y0.shape) if isinstance(y0, Tensor) else type(y0).__name__
            raise ValueError(f"CoupledDiffusion: y0 must be a tensor ({x0.shape[0]}, *), got {came}")
        how = self.denoising
        t, importance = how._times(rng, t)
        node, dtype = self.process.node(t), wide(x0)
        x_t = perturb(x0, node.alpha.to(dtype), node.sigma.to(dtype), rng)
        assert isinstance(x_t, Tensor)  # one result was asked for
        asked = x_t if how.model.x_dtype is None else x_t.to(how.model.x_dtype)
        output = net(asked, how.model.times_tensor(t, x0), **given)
        log_alpha = self.c * node.alpha.log()
        alpha, sigma = log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()
        loss = regression_loss(
            how.model.take(output, y0),
            y0,
            p=alpha.to(wide(y0)),
            q=sigma.to(wide(y0)),
            rng=rng,
            column=FUTURE_COLUMN,
            rho=how.rho,
            c=how.c,
            reduction="sum" if how.rho == "pseudo_huber" else "mean",
        )
        weight = how.weigh(node)
        weight = weight if importance is None else weight * importance
        if torch.is_grad_enabled():
            how.times.observe(t, loss)
        return Terms(loss, weight.to(loss.dtype), t, x_t, output)

    def __call__(  # type: ignore[override]
        self,
        net: Net,
        x0: Tensor,
        y0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
    ) -> Tensor:
        """The mean over the batch, a scalar."""
        return self.per_sample(net, x0, y0, cond=cond, seeds=seeds).weighted.mean()

    def __repr__(self) -> str:
        return f"CoupledDiffusion({self.process!r}, c={self.c!r})"
