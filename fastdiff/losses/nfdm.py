"""NFDM: diffusion whose way from the data to the noise is learned with the network.

    z = mu(x, t) + s(x, t) eps          b(z, x) = mu' + s' eps + (g^2 / 2) eps / s,   eps = (z - mu) / s
    loss = E  |b(z, x0) - b(z, x_hat)|^2 / (2 g^2),   x_hat = net(z, t)

b is the drift of the reverse SDE of noise g if the data are x: the velocity at a fixed eps less g^2 / 2 times
the score. Slopes in t come by jvp. Summed over elements, times t_max - t_min, it is a part of the bound in
nats, beside `prior` and a reconstruction at t_min. With mu = alpha x, s = sigma and the process's g it is
`Denoising` of the data under "elbo". `straight` adds |d^2 z / dt^2|^2, for paths that few steps follow.

Source: Bartosh, Vetrov & Naesseth 2024, arXiv:2404.12940.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor

from ..noise.streams import TRAINING
from ..ops.normal import normal
from ..processes.flow_matching import FlowMatching as Straight
from ..runtime.denoiser import Denoiser
from ._loss import Loss, Net, Terms, begin, wide
from .times import Times

Path = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class NFDM(Loss):
    """E |b(z, x0) - b(z, x_hat)|^2 / (2 g^2), the mean over elements and samples; the network gives data.

    path          callable(x (B, *), t (B,)) -> (mu, s), s > 0, both like x or broadcast to it; twice
                  differentiable in t in forward mode where `straight` is asked. Its parameters are trained
                  too
    g2            the squared noise of the reverse SDE: a number, or a callable(t (B,)) -> (B,), positive,
    with
                  parameters or without
    straight      weight of the mean of |d^2 z / dt^2|^2
    time_sampler  a key of fd.losses.times.names(), or a Times; between t_min and t_max in [0, 1]

    `loss(net, x0, cond=None, seeds=None)`; `prior(x0)` (B,) is KL(q(z_{t_max} | x0) || N(0, 1)) in nats.
    """

    key = "nfdm"

    def __init__(
        self,
        path: Path,
        g2: float | Callable[[Tensor], Tensor] = 1.0,
        *,
        straight: float = 0.0,
        time_sampler: str | Times = "uniform",
        t_min: float = 1e-3,
        t_max: float = 1.0,
    ):
        if not callable(path):
            raise TypeError(f"NFDM: path must be callable as path(x, t), got {type(path).__name__}")
        if not callable(g2) and not 0 < g2 < inf:
            raise ValueError(f"NFDM: g2 must be a number > 0 or a callable, got {g2!r}")
        if not 0 <= straight < inf:
            raise ValueError(f"NFDM: straight must be a number >= 0, got {straight!r}")
        if not 0 <= t_min < t_max <= 1:
            raise ValueError(f"NFDM: t_min={t_min:g} and t_max={t_max:g} must be increasing in [0, 1]")
        self.times = Times.of("NFDM", time_sampler)
        self.path, self.g2, self.straight = path, g2, float(straight)
        self.t_min, self.t_max = float(t_min), float(t_max)
        self.model = Denoiser(lambda *_: None, Straight(), predicts="data")  # how networks are called

    def at(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """mu and s, like x."""
        out = self.path(x, t)
        shapes = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in out]
        try:
            mu, s = (o.expand(x.shape) for o in out)
        except (RuntimeError, ValueError, AttributeError):
            need = tuple(x.shape)
            raise ValueError(f"NFDM: path(x, t) must give two tensors {need}, got {shapes}") from None
        return mu, s

    def slopes(self, x: Tensor, t: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(mu, s) and (mu', s')."""
        at, by_t, *_ = torch.func.jvp(lambda u: self.at(x, u), (t,), (torch.ones_like(t),))
        return at, by_t

    def prior(self, x0: Tensor) -> Tensor:
        """KL(q(z_{t_max} | x0) || N(0, 1)) of each sample, in nats."""
        mu, s = self.at(x0, torch.full((x0.shape[0],), self.t_max, dtype=wide(x0), device=x0.device))
        return 0.5 * (mu * mu + s * s - 1 - 2 * s.log()).to(wide(x0)).flatten(1).sum(1)

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`, whose x_t is z and whose weight is 1 / (2 g^2); t (B,): times of your own."""
        given, rng = begin("NFDM", net, x0, cond, seeds)
        t, importance = self.times.at("NFDM", t, Straight(), rng, self.t_min, self.t_max)
        dtype, shape = wide(x0), (-1, *[1] * (x0.dim() - 1))
        u, data = t.to(dtype), x0.to(dtype)
        half = (self.g2(u) if callable(self.g2) else torch.full_like(u, self.g2)).to(dtype) / 2
        eps = normal(x0.shape, rng, 0, TRAINING, dtype=dtype)
        (mu, s), (dmu, ds) = self.slopes(data, u)
        z = mu + s * eps
        output = net(z.to(x0.dtype), self.model.times_tensor(t, x0), **given)
        x_hat = self.model.take(output, x0).to(dtype)
        (mu_hat, s_hat), (dmu_hat, ds_hat) = self.slopes(x_hat, u)
        eps_hat = (z - mu_hat) / s_hat
        pull = half.reshape(shape) * (eps / s - eps_hat / s_hat)
        loss = (dmu - dmu_hat + ds * eps - ds_hat * eps_hat + pull).square().flatten(1).mean(1)
        weight = 0.25 / half if importance is None else 0.25 / half * importance.to(dtype)
        if self.straight:
            bend, turn = torch.func.jvp(lambda v: self.slopes(data, v)[1], (u,), (torch.ones_like(u),))[1]
            loss = loss + self.straight / weight * (bend + turn * eps).square().flatten(1).mean(1)
        return Terms(loss, weight, t, z, output)

    def __repr__(self) -> str:
        return f"NFDM(g2={self.g2!r}, straight={self.straight:g})"
