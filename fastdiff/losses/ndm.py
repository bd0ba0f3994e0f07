"""NDM: diffusion of data that a map changes as the noise grows, the network naming the data themselves.

    z = alpha F(x0, l) + sigma eps,     l = log SNR = 2 lam
    loss = E  w_x(t) |(F + dF/dl)(x0, l) - (F + dF/dl)(x_hat, l)|^2,   x_hat = net(z, t)

dF/dl by jvp. With weighting "elbo", t uniform and sums over elements it is the diffusion part of the bound;
the two ends are yours to add, as F stands in them too. F(x, l) = x is `Denoising` of the data. `DiffEnc`
differs in what the network names: F(x0), not x0.

Source: Bartosh, Vetrov & Naesseth 2024, arXiv:2310.08337.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.process import Process
from ..ops.perturb import perturb
from ..ops.regression_loss import regression_loss
from ..runtime.train import check_process
from ._loss import Loss, Net, Terms, begin, wide
from .denoising import Denoising
from .weightings import Weighting


class NDM(Loss):
    """E w_x(t) |(F + dF/dl)(x0) - (F + dF/dl)(x_hat)|^2, the mean over elements and samples.

    process    a Process without a const
    transform  F: callable(x (B, *), l (B,)) -> tensor like x, differentiable in x and, in forward mode, in l;
               its parameters are trained too
    weighting  w_x, as in `Denoising`; default "elbo"
    options    those of `Denoising`: time, time_sampler, t_min, t_max, steps, drop, x_dtype

    `loss(net, x0, cond=None, seeds=None)`; the network gives a data prediction.
    """

    key = "ndm"

    def __init__(
        self,
        process: Process,
        transform: Callable[[Tensor, Tensor], Tensor],
        weighting: str | Weighting | Callable[[Tensor, Process], Tensor] = "elbo",
        **options: Any,
    ):
        if not callable(transform):
            raise TypeError(f"NDM: transform must be callable, got {type(transform).__name__}")
        if taken := sorted({"precondition", "rho", "c", "offset_noise", "noise", "predicts"} & set(options)):
            raise ValueError(f"NDM: {taken[0]} is not one of its options")
        self.denoising = Denoising(check_process("NDM", process), "data", weighting, **options)
        self.process, self.transform = process, transform

    def transformed(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """F and dF/dl at times t (B,)."""
        level = (2 * self.process.node(t).lam).to(wide(x))
        F, slope, *_ = torch.func.jvp(lambda v: self.transform(x, v), (level,), (torch.ones_like(level),))
        if not isinstance(F, Tensor) or F.shape != x.shape:
            came = tuple(F.shape) if isinstance(F, Tensor) else type(F).__name__
            raise ValueError(f"NDM: transform(x, l) must give a tensor {tuple(x.shape)}, got {came}")
        return F, slope

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`, whose x_t is z; t (B,): times of your own instead of drawn ones."""
        given, rng = begin("NDM", net, x0, cond, seeds)
        how, dtype = self.denoising, wide(x0)
        t, importance = how._times(rng, t)
        node = self.process.node(t)
        F, slope = self.transformed(x0, t)
        z = perturb(F, node.alpha.to(dtype), node.sigma.to(dtype), rng)
        assert isinstance(z, Tensor)  # one result was asked for
        asked = z if how.model.x_dtype is None else z.to(how.model.x_dtype)
        output = net(asked, how.model.times_tensor(t, x0), **how._dropped(given, x0, rng))
        F_hat, slope_hat = self.transformed(how.model.take(output, asked).to(x0.dtype), t)
        loss = regression_loss(F_hat + slope_hat, F, extra=slope, p=1.0, e=1.0)
        weight = how.weigh(node)
        weight = weight if importance is None else weight * importance
        if torch.is_grad_enabled():
            how.times.observe(t, loss)
        return Terms(loss, weight.to(dtype), t, z, output)

    def __repr__(self) -> str:
        return f"NDM({self.process!r}, {self.transform!r})"
