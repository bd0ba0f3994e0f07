"""Field: the probability flow of a network with its divergence, in the angle theta = atan(sigma / alpha).

    u = x / r,  r = sqrt(alpha^2 + sigma^2)          du / dtheta = v / r,   v = alpha eps - sigma x0
    d log p(x) / dtheta = -div v - n (log r)'        along the flow; div by x

v is had from any prediction; nothing in it is singular at alpha = 0 or sigma = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.predict import convert, input_scale
from ..core.process import Node
from ..noise.streams import PROBES
from ..ops.dots import dots
from ..ops.noise import noise
from ..runtime.denoiser import Denoiser

KNOTS = 8192


class Field:
    """v and its divergence at samples that each stand at their own angle; (B,) float64 tensors, no waits."""

    def __init__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        cond: Mapping[str, Any],
        ends: tuple[float, float],
        probes: int | str,
        law: str,
        rng: Tensor,
        create_graph: bool,
    ):
        self.denoiser, self.process, self.cond = denoiser, denoiser.process, dict(cond)
        self.exact, self.create_graph, self.calls = probes == "exact", create_graph, 0
        self.dtype, self.wide = x.dtype, torch.float64 if x.dtype == torch.float64 else torch.float32
        self.low, self.high = ends
        self.theta = [float(np.arctan2(n.sigma, n.alpha)) for n in map(self.process.node, ends)]
        for t in ends:  # says so where the prediction has no velocity
            convert(denoiser.predicts, "velocity", self.process.node(t))
        angles = np.linspace(self.theta[0], self.theta[1], KNOTS)
        with np.errstate(divide="ignore"):
            times = np.asarray(self.process.time_of(np.log(np.cos(angles)) - np.log(np.sin(angles))))
        times[[0, -1]] = ends
        self.knots = torch.tensor(times, device=x.device)
        self.probes: list[Tensor] = []
        if not self.exact:
            shape, n = tuple(x.shape), int(probes)
            self.probes = [noise(law, shape, rng, k, PROBES, dtype=x.dtype) for k in range(n)]

    def node(self, theta: Tensor) -> Node:
        """The node at an angle: from a table, then two of Newton's steps."""
        first, last = self.theta
        at = ((theta - first) / (last - first)).clamp(0, 1) * (KNOTS - 1)
        k = at.long().clamp(max=KNOTS - 2)
        t = torch.lerp(self.knots[k], self.knots[k + 1], at - k)
        for _ in range(2):
            n = self.process.node(t)
            a, s, da, ds = (torch.as_tensor(v) for v in (n.alpha, n.sigma, n.dalpha, n.dsigma))
            t = t - (torch.atan2(s, a) - theta) * (a * a + s * s) / (ds * a - s * da)
            t = t.clamp(self.low, self.high)
        t = torch.where(theta <= first, self.low, torch.where(theta >= last, self.high, t))
        return self.process.node(t)

    def radius(self, n: Node) -> Tensor:
        return torch.as_tensor(n.alpha * n.alpha + n.sigma * n.sigma).sqrt()

    def __call__(self, u: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(du / dtheta like u, div v (B,) float64); u is float32 at least, the network sees x's own dtype."""
        n = self.node(theta)
        r = self.radius(n)
        p, q = convert(self.denoiser.predicts, "velocity", n, check=False)
        scale = input_scale(self.denoiser.predicts, n)

        def column(v: Any) -> Tensor:
            full = torch.as_tensor(v, dtype=torch.float64, device=u.device).expand(u.shape[0])
            return full.to(self.wide).reshape(-1, *[1] * (u.dim() - 1))

        with torch.enable_grad():
            x = (u * column(r)).to(self.dtype)
            x = x if self.create_graph else x.detach()
            x = x if x.requires_grad else x.requires_grad_()
            seen = x if isinstance(scale, int) else (x.to(self.wide) * column(scale)).to(x.dtype)
            raw = self.denoiser.raw(seen, self.denoiser.times_tensor(n.t, u), self.cond)
            v = column(p) * x.to(self.wide) + column(q) * raw.to(self.wide)
            trace = self._trace(raw, x)
        p, q = (torch.as_tensor(c, dtype=torch.float64, device=u.device) for c in (p, q))
        trace = p * u[:1].numel() + q * trace
        self.calls += 1
        slope = v / column(r)
        return (slope, trace) if self.create_graph else (slope.detach(), trace.detach())

    def _trace(self, raw: Tensor, x: Tensor) -> Tensor:
        """The divergence of the network's output: every unit vector's part, or a mean over probes."""
        if self.exact:
            total = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
            flat = raw.flatten(1)
            for i in range(flat.shape[1]):
                total = total + self._pull(flat[:, i].sum(), x, None).flatten(1)[:, i].double()
            return total
        parts = [dots([self._pull(raw, x, e.to(raw.dtype)), e], [(0, 1)])[:, 0].double() for e in self.probes]
        return torch.stack(parts).mean(0)

    def _pull(self, raw: Tensor, x: Tensor, e: Tensor | None) -> Tensor:
        g = None
        if raw.requires_grad:
            (g,) = torch.autograd.grad(
                raw, x, e, retain_graph=True, create_graph=self.create_graph, allow_unused=True
            )
        if g is None:
            raise ValueError(
                "likelihood.ode: the network's output has no derivative by its input; does it detach it, or "
                "run under no_grad?"
            )
        return g.contiguous()
