"""sample_dpm_adaptive with eta: DPM-Solver-12 and -23 down to the sigma of an ancestral step, noise back up.

    from s to t    sigma_d from (s, t, eta) as ancestral Euler's        x = step(x, s -> d) + up xi
    up^2 = sigma_t^2 - sigma_d^2                                        d is sigma_end where it would be lower

The error is that of the step to d, one number for the batch; the controller is k-diffusion's PID of order
1.5.

Facts: k-diffusion 0.1.1, DPMSolver.dpm_solver_adaptive. Source: Lu et al. 2022, arXiv:2206.00927, appendix C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import atan, exp, expm1, isnan, log
from typing import Any

import torch
from torch import Tensor

from ...core.errors import NonFinite
from ...ops.linear_step import linear_step
from .run import show

ORDER = 1.5
NEAR = 1e-5  # of the end, in log sigma
Known = list[tuple[float, Tensor]]  # log sigma and slope (x - x0) / sigma there, oldest first


@dataclass
class Controller:
    """h: length of the next attempt in log sigma."""

    h: float
    gains: tuple[float, float, float]
    safety: float
    known: list[float] = field(default_factory=list)

    def accepts(self, error: float) -> bool:
        now = 1 / (error + 1e-8)
        one, two = self.known or [now, now]
        a, b, c = self.gains
        factor = 1 + atan(now**a * one**b * two**c - 1)
        accepted = factor >= self.safety
        self.known = [now, one] if accepted else [one, two]
        self.h *= factor
        return accepted


def gains(p: float, i: float, d: float) -> tuple[float, float, float]:
    return (p + i + d) / ORDER, -(p + 2 * d) / ORDER, d / ORDER


def attempt(
    slope: Callable[[Tensor, float], Tensor], x: Tensor, u: float, v: float, d: Tensor, order: int
) -> Any:
    """(lower, higher) order results of a step from log sigma u to v; d: the slope at u."""
    h, sigma = u - v, exp(v)
    low1 = x_of(x, [d], [-sigma * expm1(h)])

    def inner(r: float, weights: list[float], slopes: list[Tensor]) -> Tensor:
        return slope(x_of(x, slopes, weights), u - r * h)

    def two(r: float, d1: Tensor) -> Tensor:
        w = sigma * expm1(h) / (2 * r)
        return x_of(x, [d, d1], [w - sigma * expm1(h), -w])

    def at(r: float) -> float:
        return exp(u - r * h)

    if order == 2:
        return low1, two(0.5, inner(0.5, [-at(0.5) * expm1(h / 2)], [d]))
    r, q = 1 / 3, 2 / 3
    d1 = inner(r, [-at(r) * expm1(r * h)], [d])
    w = at(q) * (q / r) * (expm1(q * h) / (q * h) - 1)
    d2 = inner(q, [w - at(q) * expm1(q * h), -w], [d, d1])
    w = sigma / q * (expm1(h) / h - 1)
    return two(r, d1), x_of(x, [d, d2], [w - sigma * expm1(h), -w])


def x_of(x: Tensor, slopes: list[Tensor], weights: list[float]) -> Tensor:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return linear_step([x, *slopes], torch.tensor([[1.0, *weights]], dtype=wide, device=x.device))[0]


def ancestral(
    model: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    top: float,
    low: float,
    *,
    order: int,
    rtol: float,
    atol: float,
    controller: Controller,
    eta: float,
    s_noise: float,
    noise: Callable[[float, float], Tensor],
    callback: Callable[..., Any] | None,
    max_steps: int,
) -> tuple[Tensor, dict[str, int]]:
    """x at sigma `low`, and the counts."""

    def denoised(y: Tensor, u: float) -> Tensor:
        return model(y, y.new_full((y.shape[0],), exp(u)))

    def slope(y: Tensor, u: float) -> Tensor:
        return (y - denoised(y, u)) / exp(u)

    u, end, before = log(top), log(low), x
    counts = {"steps": 0, "nfe": 0, "n_accept": 0, "n_reject": 0}
    while u > end + NEAR and len(x):
        if counts["steps"] == max_steps:
            raise ValueError(
                f"sample_dpm_adaptive: {max_steps} attempts do not reach sigma_min; the next, at "
                f"sigma={exp(u):g}, has a step of {controller.h:.3g} in log sigma; raise rtol or atol"
            )
        t = max(end, u - controller.h)
        s2, t2 = exp(2 * u), exp(2 * t)
        up2 = min(t2, eta**2 * t2 * (s2 - t2) / s2)
        down = max(end, log(t2 - up2) / 2) if up2 < t2 else end
        up = max(t2 - exp(2 * down), 0.0) ** 0.5
        x0 = denoised(x, u)
        lower, higher = attempt(slope, x, u, down, (x - x0) / exp(u), order)
        allowed = torch.maximum(lower.abs(), before.abs()).mul(rtol).clamp(min=atol)
        error = float(((lower - higher) / allowed).square().mean().sqrt())
        if isnan(error):
            raise NonFinite(
                f"sample_dpm_adaptive: the error of a step is NaN (step from sigma={exp(u):g}); the model's "
                "output or the state is not finite there"
            )
        took = controller.accepts(error)
        if callback is not None:
            time = x.new_tensor(-u)
            sigma = time.neg().exp()
            show(callback, x, x0, i=counts["steps"], sigma=sigma, sigma_hat=sigma, t=time, t_up=time)
        if took:
            before, x = lower, x_of(higher, [noise(exp(u), exp(t))], [up * s_noise])
            u = t
        counts["n_accept" if took else "n_reject"] += 1
        counts["steps"] += 1
        counts["nfe"] += order
    return x, counts
