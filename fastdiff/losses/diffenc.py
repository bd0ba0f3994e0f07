"""DiffEnc: diffusion of data that an encoder changes as the noise grows.

    z_t = alpha x_t + sigma eps,     x_t = alpha^2 x + sigma^2 y(x, l),     l = log SNR = 2 lam
    loss = E  w_x(t) |x_t + dx_t/dl - (x_hat + m_hat)|^2
    dx_t/dl = alpha^2 sigma^2 (x - y) + sigma^2 dy/dl

m_hat stands for dx_t/dl, which the network does not know: sigma^2 x_hat ("scaled", exact for y = 0), or 0
("zero", exact for y = x, where this is `Denoising`). With weighting "elbo", t uniform and sums over elements
it is the diffusion part of the bound; the two ends, KL(q(z_T | x) || prior) and the reconstruction, are
yours to add, as the encoder stands in them too.

Source: Nielsen et al. 2024, arXiv:2310.19789, and its published code (velocity, "scaled").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.predict import convert
from ..core.process import Process
from ..ops.perturb import perturb
from ..ops.regression_loss import regression_loss
from ..processes._variance_preserving import VariancePreserving
from ._loss import Loss, Net, Terms, begin, wide
from .denoising import Denoising
from .weightings import Weighting

DRIFTS = ("scaled", "zero")


class DiffEnc(Loss):
    """E w_x(t) |x_t + dx_t/dl - (x_hat + m_hat)|^2, the mean over elements and samples.

    process    a variance preserving Process
    encoder    y: callable(x, l) -> tensor like x, l (B,) log SNR, differentiable in l in forward mode; its
               parameters are trained too
    predicts   "velocity" | "data" | "noise" | "flow" | "score" of z_t and x_t
    weighting  w_x, as in `Denoising`; default "elbo"
    drift      m_hat: "scaled" | "zero"
    options    those of `Denoising`: time, time_sampler, t_min, t_max, steps, drop
    """

    key = "diffenc"

    def __init__(
        self,
        process: Process,
        encoder: Callable[[Tensor, Tensor], Tensor],
        predicts: str = "velocity",
        weighting: str | Weighting | Callable[[Tensor, Process], Tensor] = "elbo",
        *,
        drift: str = "scaled",
        **options: Any,
    ):
        if not isinstance(process, VariancePreserving):
            raise TypeError(f"DiffEnc: process must be variance preserving, got {process!r}")
        if not callable(encoder):
            raise TypeError(f"DiffEnc: encoder must be callable, got {type(encoder).__name__}")
        if drift not in DRIFTS:
            raise ValueError(f"DiffEnc: drift must be 'scaled' or 'zero', got {drift!r}")
        if taken := sorted({"precondition", "rho", "c", "offset_noise", "noise"} & set(options)):
            raise ValueError(f"DiffEnc: {taken[0]} is not one of its options")
        self.denoising = Denoising(process, predicts, **options)
        self.data = Denoising(process, "data", weighting)  # weighs the error of x_hat + m_hat
        self.process, self.encoder, self.predicts, self.drift = process, encoder, predicts, drift

    def encoded(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, dx_t/dl) at times t (B,)."""
        node, dtype, shape = self.process.node(t), wide(x0), (-1, *[1] * (x0.dim() - 1))
        level = (2 * node.lam).to(dtype)
        y, dy, *_ = torch.func.jvp(lambda v: self.encoder(x0, v), (level,), (torch.ones_like(level),))
        if not isinstance(y, Tensor) or y.shape != x0.shape:
            came = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"DiffEnc: encoder(x, l) must give a tensor {tuple(x0.shape)}, got {came}")
        a2, s2 = ((v * v).to(dtype).reshape(shape) for v in (node.alpha, node.sigma))
        return (a2 * x0 + s2 * y).to(x0.dtype), (a2 * s2 * (x0 - y) + s2 * dy).to(x0.dtype)

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`, whose x_t is z_t; t (B,): times of your own instead of drawn ones."""
        given, rng = begin("DiffEnc", net, x0, cond, seeds)
        how, dtype = self.denoising, wide(x0)
        t, importance = how._times(rng, t)
        node = self.process.node(t)
        code, slope = self.encoded(x0, t)
        z = perturb(code, node.alpha.to(dtype), node.sigma.to(dtype), rng)
        assert isinstance(z, Tensor)  # one result was asked for
        asked = z if how.model.x_dtype is None else z.to(how.model.x_dtype)
        output = net(asked, how.model.times_tensor(t, x0), **how._dropped(given, x0, rng))
        p, q = (v + torch.zeros_like(t) for v in convert(self.predicts, "data", node, check=False))
        scale = q * (1 + node.sigma**2) if self.drift == "scaled" else q
        loss = regression_loss(
            how.model.take(output, asked),
            code,
            z,
            slope,
            p=(1 / scale).to(dtype),
            r=(-p / q).to(dtype),
            e=(1 / scale).to(dtype),
        )
        weight = self.data.weigh(node) * scale**2
        weight = weight if importance is None else weight * importance
        if torch.is_grad_enabled():
            how.times.observe(t, loss)
        return Terms(loss, weight.to(dtype), t, z, output)

    def __repr__(self) -> str:
        return f"DiffEnc({self.process!r}, predicts={self.predicts!r}, drift={self.drift!r})"
