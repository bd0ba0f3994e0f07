"""Restoration: maximum a posteriori training of a network that undoes a degradation of growing strength.

    y = alpha A_t x0 + sigma xi
    loss = E |alpha A_t G(y, t) - y|^2 / (2 sigma^2) + lam prior(G(y, t), x0)

A_t is any operator: block means of growing size, a blur, a mask, the identity. Fidelity and prior are summed
over a sample's elements, a negative log posterior in nats: for linear A_t and a Gaussian prior the minimiser
is the posterior mean. The prior is yours: an adversary's score, a distance of distributions, a quadratic.

Source: Choi, Park & Kang 2023, arXiv:2303.05456.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..core.process import Process
from ..noise.streams import LATENT, SOLVER
from ..ops.normal import normal
from ..ops.perturb import perturb
from ..ops.regression_loss import regression_loss
from ._loss import Loss, Net, Terms, begin, wide
from .denoising import Denoising

Operator = Callable[[Tensor, Tensor], Tensor]


class Restoration(Loss):
    """|alpha A_t G - y|^2 / (2 sigma^2) + lam prior(G, x0), summed over a sample, the mean over samples.

    process   a Process without a const: alpha and sigma of the measurement, alpha = 1 for EDM and VE
    operator  A: callable(x, t) -> tensor (B, *), t (B,) float64, differentiable in x; default the identity
    prior     callable(x_hat, x0) -> (B,) nats, or a scalar for the batch
    lam       of the prior
    latent    shape of a normal that the network is given as `z` (a generator of many answers)
    options   those of `Denoising`: time, time_sampler, t_min, t_max, steps

    `loss(net, x0, cond=None, seeds=None)`; net(y, t, **cond) is like x0. `restore` runs the network down a
    row of times.
    """

    key = "restoration"

    def __init__(
        self,
        process: Process,
        operator: Operator | None = None,
        prior: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        lam: float = 1.0,
        latent: Sequence[int] | None = None,
        **options: Any,
    ):
        for name, f in (("operator", operator), ("prior", prior)):
            if f is not None and not callable(f):
                raise TypeError(f"Restoration: {name} must be callable, got {type(f).__name__}")
        if not (isinstance(lam, (int, float)) and 0 <= lam < float("inf")):
            raise ValueError(f"Restoration: lam must be a number >= 0, got {lam!r}")
        allowed = {"time", "time_sampler", "t_min", "t_max", "steps", "x_dtype"}
        if taken := sorted(set(options) - allowed):
            raise ValueError(
                f"Restoration: unknown option {taken[0]!r}; allowed: {', '.join(sorted(allowed))}"
            )
        self.denoising = Denoising(process, "data", **options)
        if process.const is not None:
            raise ValueError(f"Restoration: process must pull to nothing, got {process!r}")
        self.process, self.operator, self.prior, self.lam = process, operator, prior, float(lam)
        self.latent = None if latent is None else tuple(latent)

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`, whose x_t is the measurement y; t (B,): times of your own instead of drawn ones."""
        given, rng = begin("Restoration", net, x0, cond, seeds)
        t, importance = self.denoising._times(rng, t)
        node, dtype = self.process.node(t), wide(x0)
        clean = self._degraded(x0, t)
        alpha, sigma = node.alpha.to(dtype), node.sigma.to(dtype)
        made = perturb(clean, alpha, sigma, rng, noise=not x0.is_cuda)
        y, xi = made if isinstance(made, tuple) else (made, None)
        output = net(y, self.denoising.model.times_tensor(t, x0), **self._latent(given, rng, x0, 0))
        guess = self.denoising.model.take(output, x0)
        loss = regression_loss(
            self._degraded(guess, t),
            clean,
            p=1.0,
            q=sigma / alpha,
            noise=xi,
            rng=rng if xi is None else None,
            w=(node.alpha / node.sigma).square().to(dtype) / 2,
            reduction="sum",
        )
        if self.prior is not None and self.lam:
            prior = self.prior(guess, x0)
            if not isinstance(prior, Tensor) or prior.shape not in ((), (x0.shape[0],)):
                came = tuple(prior.shape) if isinstance(prior, Tensor) else type(prior).__name__
                raise ValueError(f"Restoration: prior must give ({x0.shape[0]},) or a scalar, got {came}")
            loss = loss + self.lam * prior
        weight = torch.ones_like(t) if importance is None else importance
        if torch.is_grad_enabled():
            self.denoising.times.observe(t, loss)
        return Terms(loss, weight.to(dtype), t, y, output)

    def restore(
        self,
        net: Net,
        y: Tensor,
        times: Sequence[float],
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
    ) -> Tensor:
        """From y at times[0]: restore, degrade anew to the next time, and so on; the last is only
        restored."""
        given, rng = begin("Restoration", net, y, cond, seeds)
        levels = [float(t) for t in times]
        if not levels or any(s >= t for t, s in pairwise(levels)):
            raise ValueError(f"Restoration: times must be one or more, decreasing, got {levels}")
        for k, level in enumerate(levels):
            t = torch.full((y.shape[0],), level, dtype=torch.float64, device=y.device)
            guess = net(y, self.denoising.model.times_tensor(t, y), **self._latent(given, rng, y, k))
            if k + 1 == len(levels):
                return guess
            node = self.process.node(torch.full_like(t, levels[k + 1]))
            clean = self._degraded(guess, node.t)
            noise = normal(clean.shape, rng, k, SOLVER, dtype=clean.dtype)
            a, s = (v.to(wide(clean)).reshape(-1, *[1] * (clean.dim() - 1)) for v in (node.alpha, node.sigma))
            y = (a * clean + s * noise).to(clean.dtype)
        raise AssertionError("the loop returns")

    def _latent(self, given: dict[str, Any], rng: Tensor, like: Tensor, draw: int) -> dict[str, Any]:
        if self.latent is None:
            return given
        return given | {"z": normal((rng.shape[0], *self.latent), rng, draw, LATENT, dtype=like.dtype)}

    def _degraded(self, x: Tensor, t: Tensor) -> Tensor:
        y = x if self.operator is None else self.operator(x, t)
        if not isinstance(y, Tensor) or y.dim() < 1 or y.shape[0] != x.shape[0]:
            came = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"Restoration: operator(x, t) must give a tensor ({x.shape[0]}, *), got {came}")
        return y

    def __repr__(self) -> str:
        return f"Restoration({self.process!r}, operator={self.operator!r}, lam={self.lam!r})"
