"""elbo: a bound on the log likelihood, term by term.

    -log p(x0) <= KL(q(x_T | x0) || prior) + diffusion + recon

    discrete     diffusion = sum over the grid's steps of KL(q(x_s | x_t, x0) || p(x_s | x_t)), the exact
    bound of
                 the ancestral sampler on that grid
    continuous   its limit, the integral of E|eps - eps_hat|^2 over lambda from the noisy to the clean end,
                 by points spread evenly for each sample
    recon        -log p(x0 | x_s) at the clean end, normal with mean x0_hat and deviation sigma / alpha; with
                 `levels` the mass of the level's cell, for data on [-1, 1]

One network call a term; the noise of term k is draw k of the training stream.
Source: Kingma et al. 2021, arXiv:2107.00630; Nichol & Dhariwal 2021, arXiv:2102.09672.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.math import expm1
from ..core.predict import convert, input_scale, row
from ..core.process import Node
from ..noise.seeds import resolve
from ..noise.streams import TIMES
from ..ops.gaussian_kl import gaussian_kl
from ..ops.normal import uniform
from ..ops.perturb import perturb
from ..ops.regression_loss import regression_loss
from ..runtime.checks import check_x
from ..runtime.denoiser import Denoiser
from .ode import interval, without_const

MODES = ("continuous", "discrete")


@dataclass(frozen=True)
class Bound:
    """Nats of the whole sample, (B,) float64 each: prior, diffusion and recon."""

    prior: Tensor
    diffusion: Tensor
    recon: Tensor

    @property
    def log_p(self) -> Tensor:
        """The bound itself, from below."""
        return -(self.prior + self.diffusion + self.recon)


@torch.no_grad()
def elbo(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    mode: str = "continuous",
    steps: int = 100,
    times: Any = None,
    cond: Mapping[str, Any] | None = None,
    seeds: Any = None,
    levels: int | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Bound:
    """The parts of the bound for x0 (B, *).

    mode          "continuous" | "discrete"
    steps         points of the integral, or steps of equal lambda between t_max and t_min
    times         of the discrete mode: strictly decreasing, of a sampler of yours, the last one noisy still
    levels        of data that lie on -1, .., 1 in equal distances, 256 for pictures; None: data of a density

    A network with a learned variance ("learned-range") is judged with it in discrete mode.
    Raises TypeError and ValueError that name the argument.
    """
    call = "likelihood.elbo"
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"{call}: denoiser must be a Denoiser, got {type(denoiser).__name__}")
    check_x(x0, f"{call}: x0")
    if mode not in MODES:
        raise ValueError(f"{call}: mode must be 'continuous' or 'discrete', got {mode!r}")
    if type(steps) is not int or steps < 1:
        raise ValueError(f"{call}: steps must be a whole number >= 1, got {steps!r}")
    if levels is not None and (type(levels) is not int or levels < 2):
        raise ValueError(f"{call}: levels must be a whole number >= 2, got {levels!r}")
    process = without_const(denoiser.process, call)
    if times is None:
        low, high = interval(process, t_min, t_max, call)
        ends = [float(process.lam(t)) for t in (high, low)]
        if not np.isfinite(ends).all():
            raise ValueError(f"{call}: lambda is infinite at t_max={high:g} or t_min={low:g}; choose others")
        grid = np.asarray(process.time_of(np.linspace(ends[0], ends[1], steps + 1)))
        grid[[0, -1]] = high, low
    else:
        grid = np.asarray(times, dtype=np.float64)
        if mode != "discrete" or t_min is not None or t_max is not None:
            raise ValueError(f"{call}: times go with mode='discrete', without t_min and t_max")
        if (
            grid.ndim != 1
            or len(grid) < 2
            or not (np.diff(grid) < 0).all()
            or not process.sigma(grid[-1]) > 0
        ):
            raise ValueError(f"{call}: times must be strictly decreasing to one with sigma > 0, two at least")
    run = _Run(denoiser, x0, dict(cond or {}), resolve(seeds, x0.shape[0], x0.device))
    terms = run.continuous(grid) if mode == "continuous" else run.discrete(grid)
    return Bound(run.prior(float(grid[0])), terms, run.recon(float(grid[-1]), levels, len(grid) - 1))


class _Run:
    def __init__(self, denoiser: Denoiser, x0: Tensor, cond: dict[str, Any], rng: Tensor):
        self.denoiser, self.process, self.cond, self.rng, self.x0 = denoiser, denoiser.process, cond, rng, x0
        self.wide = torch.float64 if x0.dtype == torch.float64 else torch.float32
        self.size = x0[0].numel() if x0.shape[0] else 0

    def network(self, n: Node, draw: int, whole: bool = False) -> tuple[Tensor, Tensor]:
        """(x_t, what the network says), at one node for all, or of (B,) tensors."""
        a, s = (self.like(v) for v in (n.alpha, n.sigma))
        x_t = perturb(self.x0, a, s, self.rng, draw=draw)
        assert isinstance(x_t, Tensor)
        scale = input_scale(self.denoiser.predicts, n)
        seen = x_t
        if not isinstance(scale, int):
            seen = (x_t.to(self.wide) * self.like(scale).reshape(-1, *[1] * (x_t.dim() - 1))).to(x_t.dtype)
        t = n.t if isinstance(n.t, Tensor) else np.full(self.x0.shape[0], float(n.t))
        return x_t, self.denoiser.raw(seen, self.denoiser.times_tensor(t, self.x0), self.cond, whole)

    def like(self, v: Any) -> Tensor:
        full = torch.as_tensor(v, dtype=torch.float64, device=self.x0.device).expand(self.x0.shape[0])
        return full.to(self.wide).contiguous()

    def prior(self, t: float) -> Tensor:
        """KL of N(alpha x0, sigma^2) from the prior N(0, std^2)."""
        a, s2, p2 = (
            float(self.process.alpha(t)),
            float(self.process.sigma(t)) ** 2,
            self.process.prior_std(t) ** 2,
        )
        square = self.x0.double().flatten(1).square().sum(1)
        return 0.5 * (a * a * square / p2 + self.size * (s2 / p2 - 1 - log(s2 / p2)))

    def continuous(self, grid: np.ndarray) -> Tensor:
        steps, (first, last) = len(grid) - 1, (float(self.process.lam(t)) for t in (grid[0], grid[-1]))
        total = torch.zeros(self.x0.shape[0], dtype=torch.float64, device=self.x0.device)
        shift = uniform((self.x0.shape[0],), self.rng, 0, TIMES, dtype=torch.float64)
        for k in range(steps):
            lam = first + (last - first) * (k + shift) / steps
            t = self.process.time_of(lam).clamp(float(grid[-1]), float(grid[0]))
            n = self.process.node(t)
            _, raw = self.network(n, k)
            a, b = row(self.denoiser.predicts, n)
            weight = 1 / (b - a * n.sigma / n.alpha) ** 2  # of the noise that the error amounts to
            total += regression_loss(
                raw,
                self.x0,
                p=self.like(a),
                q=self.like(b),
                rng=self.rng,
                draw=k,
                w=self.like(weight),
                reduction="sum",
            ).double()
        return total * (last - first) / steps

    def discrete(self, grid: np.ndarray) -> Tensor:
        learned = self.denoiser.variance is not None
        total = torch.zeros(self.x0.shape[0], dtype=torch.float64, device=self.x0.device)
        nodes = [self.process.node(float(t)) for t in grid]
        for k, (t, s) in enumerate(zip(nodes[:-1], nodes[1:], strict=True)):
            x_t, out = self.network(t, k, learned)
            pred, second = (out.chunk(2, 1)) if learned else (out, None)
            part = -expm1(2 * (t.lam - s.lam))  # of the noise at t that is newer than s
            p, q = convert(self.denoiser.predicts, "data", t)
            c, small = s.alpha * part, log(s.sigma**2 * part)
            total += gaussian_kl(
                pred.contiguous(),
                self.x0,
                x_t,
                by_xt=float(-c * p),
                by_x0=float(c),
                by_pred=float(-c * q),
                log_var=small,
                low=small,
                **self._range(second, t, part),
            ).double()
        return total

    def _range(self, second: Tensor | None, t: Node, part: float) -> dict[str, Any]:
        if second is None:
            return {}
        if self.denoiser.variance != "learned-range":
            raise ValueError(
                "likelihood.elbo: variance='learned' is not known as a range; 'learned-range' is"
            )
        return {"var": second.contiguous(), "high": log(t.sigma**2 * part)}

    def recon(self, t: float, levels: int | None, draw: int) -> Tensor:
        n = self.process.node(t)
        x_t, raw = self.network(n, draw)
        p, q = convert(self.denoiser.predicts, "data", n)
        log_var = -2 * float(n.lam)
        nats = gaussian_kl(
            raw,
            self.x0,
            x_t,
            by_xt=float(-p),
            by_x0=1.0,
            by_pred=float(-q),
            log_var=log_var,
            low=log_var,
            bin=torch.full((self.x0.shape[0],), levels is not None, device=self.x0.device),
            bins=256 if levels is None else levels,
        ).double()
        # without levels the op gives |x0 - x0_hat|^2 / (2 var): what is left is the normal's own factor
        return nats if levels is not None else nats + self.size * 0.5 * (log(2 * pi) + log_var)
