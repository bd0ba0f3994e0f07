"""LocalDSM: the score of an SDE whose law is not known, from its short transitions.

    dx = F(x, t) dt + G(t) dW          x_t = m(x_s) + L xi,   h = t - s small
    loss = E |L^T s(x_t, t) + xi|^2

E[grad log p(x_t | x_s) | x_t] = grad log p_t(x_t): exact for the law of the simulated chain. Moments of order

    1    m = x + F h                                                 L = G sqrt(h)
    2    m = x + F h + (h^2 / 2)(F_t + J F + (G^2 / 2) lap F)        L = G sqrt(h) (1 + (h / 2) J)

J F and J v by jvp, L^T by vjp, the Laplacian by a sign probe (exact where F acts element by element). L L^T
is the Taylor variance to h^3. x_s comes from Euler-Maruyama steps from the data, each sample to its own s.

Source: Singhal, Goldstein & Ranganath 2024, "What's the score? Automated denoising score matching for
nonlinear diffusions", arXiv:2407.07998.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..noise.streams import FORWARD, PROBES, TIMES, TRAINING
from ..ops.noise import noise
from ..ops.normal import normal, uniform
from ._loss import Loss, Net, Terms, begin, wide

Drift = Callable[[Tensor, Tensor], Tensor]


class LocalDSM(Loss):
    """E |L^T net(x_t, t, **cond) + xi|^2, the mean over elements and samples; the network gives the score.

    drift      drift(x (B, *), t (B,)) -> like x; order 2 wants it twice differentiable
    diffusion  G, a number or a callable(t) -> (B,)
    t_max      the end of time; t is uniform in [h, t_max]
    h          length of the local step; at most t_max / 2
    steps      Euler-Maruyama steps that take a sample from the data to s
    order      1 | 2

    The bias of the score is that of the simulation and, of order 1, O(h).
    """

    key = "local-dsm"

    def __init__(
        self,
        drift: Drift,
        diffusion: float | Callable[[Tensor], Tensor],
        t_max: float = 1.0,
        h: float = 0.01,
        steps: int = 100,
        order: int = 2,
    ):
        if not callable(drift):
            raise TypeError(f"LocalDSM: drift must be callable as drift(x, t), got {type(drift).__name__}")
        if not callable(diffusion) and not diffusion > 0:
            raise ValueError(f"LocalDSM: diffusion must be > 0, got {diffusion!r}")
        if not 0 < h <= t_max / 2:
            raise ValueError(f"LocalDSM: h must lie in (0, t_max / 2 = {t_max / 2:g}], got {h!r}")
        if type(steps) is not int or steps < 1:
            raise ValueError(f"LocalDSM: steps must be a whole number >= 1, got {steps!r}")
        if order not in (1, 2):
            raise ValueError(f"LocalDSM: order must be 1 or 2, got {order!r}")
        self.drift, self.diffusion = drift, diffusion
        self.t_max, self.h, self.steps, self.order = float(t_max), float(h), steps, order

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`; t (B,): times in [h, t_max] of your own instead of drawn ones."""
        given, rng = begin("LocalDSM", net, x0, cond, seeds)
        batch, dtype = x0.shape[0], wide(x0)
        if t is None:
            u = uniform((batch,), rng, 0, TIMES, dtype=torch.float64)
            t = self.h + (self.t_max - self.h) * u
        t = t.to(x0.device, torch.float64)
        if t.shape != (batch,):
            raise ValueError(f"LocalDSM: t must be ({batch},), got {tuple(t.shape)}")
        s = t - self.h
        with torch.no_grad():
            x = self._simulated(x0.to(dtype), s, rng)
        xi = normal(x0.shape, rng, 0, TRAINING, dtype=dtype)
        x_t, turned = self._local(x, s, xi, rng)
        clock = torch.float64 if x0.dtype == torch.float64 else torch.float32
        output = net(x_t.to(x0.dtype), t.to(clock), **given)
        if not isinstance(output, Tensor) or output.shape != x0.shape:
            came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"LocalDSM: the network must return a tensor {tuple(x0.shape)}, got {came}")
        loss = (turned(output.to(dtype)) + xi).square().flatten(1).mean(1)
        return Terms(loss, torch.ones_like(loss), t, x_t, output)

    def _column(self, v: Tensor, like: Tensor) -> Tensor:
        return v.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))

    def _size(self, t: Tensor, like: Tensor) -> Tensor:
        """G beside x."""
        g = self.diffusion(t) if callable(self.diffusion) else torch.full_like(t, float(self.diffusion))
        return self._column(g, like)

    def _simulated(self, x: Tensor, s: Tensor, rng: Tensor) -> Tensor:
        dt = s / self.steps
        wide_dt = self._column(dt, x)
        for k in range(self.steps):
            at = dt * k
            xi = normal(tuple(x.shape), rng, k, FORWARD, dtype=x.dtype)
            x = x + self.drift(x, at) * wide_dt + self._size(at, x) * wide_dt.sqrt() * xi
        return x

    def _local(
        self, x: Tensor, s: Tensor, xi: Tensor, rng: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """x_t, and v -> L^T v."""
        h, size = self.h, self._size(s, x)
        root = size * h**0.5
        if self.order == 1:
            return (x + self.drift(x, s) * h + root * xi).detach(), lambda v: root * v

        def along(v: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda x: torch.func.jvp(lambda x: self.drift(x, s), (x,), (v,))[1]

        e = noise("rademacher", tuple(x.shape), rng, 0, PROBES, dtype=x.dtype)
        F, F_t, *_ = torch.func.jvp(lambda s: self.drift(x, s), (s,), (torch.ones_like(s),))
        bent = torch.func.jvp(along(e), (x,), (e,))[1]
        mean = x + F * h + h * h / 2 * (F_t + along(F)(x) + size * size / 2 * bent)
        x_t = mean + root * (xi + h / 2 * along(xi)(x))
        back = torch.func.vjp(lambda x: self.drift(x, s), x)[1]
        return x_t.detach(), lambda v: root * v + h / 2 * back(root * v)[0]
