"""ode: the log density of data under the probability flow, exact but for the solver's error.

    log p(x) = log prior(x_T) + integral of div(dx/dt) from t_min to T          x_T by the flow from x

div is exact (n products with the Jacobian a call) or Hutchinson's e^T J e, with one probe e for a sample all
the way (stream 4): unbiased, and still an ODE. Signs have the least variance; for a diagonal Jacobian none.
Steps go by the angle atan(sigma / alpha), in which the flow is regular at both ends; each sample has its own.

Source: Song et al. 2021, arXiv:2011.13456, section 4.3; Grathwohl et al. 2019, arXiv:1810.01367; pairs and
controller: Hairer, Norsett & Wanner 1993, section II.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import NonFinite, unknown
from ..core.process import Process
from ..noise.seeds import resolve
from ..ops.error_norm import error_norm
from ..ops.linear_step import linear_step
from ..runtime.checks import check_x
from ..runtime.denoiser import Denoiser
from ..solvers._tableaus import PAIRS, TABLEAUS
from ._field import Field

SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
FIRST = 0.01  # step, as part of the way
SMALLEST = 2.0**-40
LAWS = ("rademacher", "normal")


@dataclass(frozen=True)
class Density:
    """log_p (B,) float64, in nats of the whole sample; z (B, *), where the flow ends; calls of the
    network."""

    log_p: Tensor
    z: Tensor
    calls: int


def ode(
    denoiser: Denoiser,
    x: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int = 100,
    times: Any = None,
    probes: int | str = 1,
    law: str = "rademacher",
    seeds: Any = None,
    t_min: float | None = None,
    t_max: float | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    max_steps: int = 10_000,
    create_graph: bool = False,
) -> Density:
    """log p(x) for x (B, *) that stands at t_min (by default 1e-5 of the way).

    method        adaptive: "dopri5" | "tsit5" | "bosh3" | "heun21", by rtol and atol; an error of the
                  density counts by the number of elements. Fixed: "rk4" | "midpoint" | "heun" | "euler" in
                  `steps` of equal angle, or between `times`, increasing from t_min to t_max
    probes        how many to take the mean over, or "exact"
    law           "rademacher" | "normal", of the probes
    prior         callable(z) -> log density (B,); default N(0, sigma(t_max)^2)
    create_graph  keep it all for derivatives, by x and by parameters

    Raises TypeError and ValueError that name the argument, NonFinite's kin for a flow that cannot be
    followed.
    """
    call = "likelihood.ode"
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"{call}: denoiser must be a Denoiser, got {type(denoiser).__name__}")
    check_x(x, f"{call}: x")
    process = without_const(denoiser.process, call)
    adaptive = method in PAIRS and (method not in TABLEAUS or times is None)
    if not adaptive and method not in TABLEAUS:
        raise unknown("method", method, [*PAIRS, *TABLEAUS])
    if law not in LAWS:
        raise unknown("law", law, LAWS)
    if probes != "exact" and (type(probes) is not int or probes < 1):
        raise ValueError(f"{call}: probes must be a whole number >= 1 or 'exact', got {probes!r}")
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ValueError(f"{call}: rtol={rtol!r} and atol={atol!r} must be >= 0, one of them more")
    if times is not None and adaptive:
        raise ValueError(f"{call}: times go with a method of fixed steps, got method={method!r}")
    low, high = interval(process, t_min, t_max, call)
    rng = resolve(seeds, x.shape[0], x.device)
    x = x if create_graph else x.detach()
    with torch.enable_grad() if create_graph else torch.no_grad():
        field = Field(denoiser, x, cond or {}, (low, high), probes, law, rng, create_graph)
        ends = [
            field.node(torch.full((x.shape[0],), v, dtype=torch.float64, device=x.device))
            for v in field.theta
        ]
        radii = [field.radius(n) for n in ends]
        shape = (-1, *[1] * (x.dim() - 1))
        u = x.to(field.wide) / radii[0].to(field.wide).reshape(shape)
        if adaptive:
            u, total = _adaptive(field, u, method, rtol, atol, max_steps)
        else:
            u, total = _fixed(field, u, method, _angles(field, steps, times, call))
        z = (u * radii[1].to(field.wide).reshape(shape)).to(x.dtype)
        n = x[0].numel() if x.shape[0] else 0
        log_prior = normal_log_density(z, process.prior_std(high)) if prior is None else prior(z)
        log_p = log_prior.double() + total + n * (radii[1].log() - radii[0].log())
    return Density(log_p, z, field.calls)


def interval(process: Process, t_min: Any, t_max: Any, call: str) -> tuple[float, float]:
    """(t_min, t_max), checked."""
    zero, end = process.t_zero, process.t_max
    low = float(zero + 1e-5 * (end - zero) if t_min is None else t_min)
    high = float(end if t_max is None else t_max)
    if not zero < low < high <= end * (1 + 1e-12):
        raise ValueError(
            f"{call}: t_min={low:g} and t_max={high:g} must be increasing in ({zero:g}, {end:g}]"
        )
    return low, high


def without_const(process: Process, call: str) -> Process:
    if process.const is not None:
        raise ValueError(f"{call}: {process!r} pulls to {process.const!r} and ends in no known law")
    return process


def normal_log_density(z: Tensor, std: float) -> Tensor:
    """Of N(0, std^2) at each sample, float64."""
    flat = z.double().flatten(1)
    return -0.5 * flat.square().sum(1) / std**2 - flat.shape[1] * (log(std) + 0.5 * log(2 * pi))


def _angles(field: Field, steps: Any, times: Any, call: str) -> list[float]:
    if times is None:
        if type(steps) is not int or steps < 1:
            raise ValueError(f"{call}: steps must be a whole number >= 1, got {steps!r}")
        return [float(v) for v in np.linspace(field.theta[0], field.theta[1], steps + 1)]
    t = np.asarray(times, dtype=np.float64)
    if t.ndim != 1 or len(t) < 2 or not (np.diff(t) > 0).all():
        raise ValueError(f"{call}: times must be strictly increasing, two of them at least")
    if t[0] != field.low or t[-1] != field.high:
        raise ValueError(
            f"{call}: times must go from t_min={field.low:g} to t_max={field.high:g}, "
            f"got {t[0]:g} .. {t[-1]:g}"
        )
    nodes = field.process.node(t)
    return [float(v) for v in np.arctan2(nodes.sigma, nodes.alpha)]


def _stages(
    field: Field, u: Tensor, theta: Tensor, h: Tensor, a: Any, first: tuple[Tensor, Tensor] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Slopes of u and divergences at the stages of one step."""
    slopes, traces = ([], []) if first is None else ([first[0]], [first[1]])
    for row in a[len(slopes) :]:
        y = _combined(u, slopes, h, row, field.wide) if row else u
        k, div = field(y, theta + h * float(sum(row)))
        slopes.append(k)
        traces.append(div)
    return slopes, traces


def _combined(u: Tensor, slopes: list[Tensor], h: Tensor, weights: Any, wide: torch.dtype) -> Tensor:
    """u + h sum w k in one pass; what weighs nothing is not read."""
    used = [(k, float(w)) for k, w in zip(slopes, weights, strict=True) if w]
    A = torch.stack([torch.ones_like(h), *(h * w for _, w in used)], -1)[:, None].to(wide)
    return linear_step([u.contiguous(), *(k.contiguous() for k, _ in used)], A.contiguous(), dtype=u.dtype)[0]


def _summed(traces: list[Tensor], weights: Any) -> Tensor:
    return sum(float(w) * d for d, w in zip(traces, weights, strict=True) if w)  # type: ignore[return-value]


def _fixed(field: Field, u: Tensor, method: str, angles: list[float]) -> tuple[Tensor, Tensor]:
    a, b = TABLEAUS[method]
    one = torch.ones(u.shape[0], dtype=torch.float64, device=u.device)
    total = torch.zeros_like(one)
    for s, t in zip(angles[:-1], angles[1:], strict=True):
        h = one * (t - s)
        slopes, traces = _stages(field, u, one * s, h, a, None)
        u, total = _combined(u, slopes, h, b, field.wide), total + h * _summed(traces, b)
    return u, total


def _adaptive(
    field: Field, u: Tensor, method: str, rtol: float, atol: float, max_steps: int
) -> tuple[Tensor, Tensor]:
    """Each sample by its own steps; those that are done stand still, at no step."""
    pair = PAIRS[method]
    start, end = field.theta
    way = end - start
    batch, n = u.shape[0], max(1, u[:1].numel())
    theta = torch.full((batch,), start, dtype=torch.float64, device=u.device)
    h, total = torch.full_like(theta, FIRST * way), torch.zeros_like(theta)
    done = torch.zeros(batch, dtype=torch.bool, device=u.device)
    first: tuple[Tensor, Tensor] | None = None
    shape = (-1, *[1] * (u.dim() - 1))
    for _ in range(max_steps if batch else 0):
        last = end - (theta + h) < 1e-6 * way
        step = torch.where(last, end - theta, h)
        slopes, traces = _stages(field, u, theta, step, pair.a, first)
        new, more = _combined(u, slopes, step, pair.b, field.wide), step * _summed(traces, pair.b)
        with torch.no_grad():
            used = [(k.detach().contiguous(), w) for k, w in zip(slopes, pair.e, strict=True) if w]
            C = torch.stack([step * w for _, w in used], -1).to(field.wide)
            e = error_norm([k for k, _ in used], new.detach(), u.detach(), atol=atol, rtol=rtol, C=C).double()
            off = (step * _summed(traces, pair.e)).abs() / n
            size = torch.maximum((total + more).abs(), total.abs()) / n
            e = torch.maximum(e, off / (rtol * size).clamp(min=max(atol, 1e-300)))
            accepted = (e <= 1) & ~done
            change = (SAFETY * (e.clamp(min=1e-12)) ** (-1 / pair.order)).clamp(SHRINK, GROW)
            finished = done | accepted & last
            lost = ~done & (e.isnan() | ~accepted & (step < SMALLEST * way))
        pick = accepted.reshape(shape)
        if pair.last_is_first:
            first = (
                torch.where(pick, slopes[-1], slopes[0]),
                torch.where(accepted, traces[-1], traces[0]),
            )
        u, total = torch.where(pick, new, u), torch.where(accepted, total + more, total)
        theta = torch.where(accepted, torch.where(last, end, theta + step), theta)
        done = finished
        h = torch.where(done, 0.0, step * change)
        state = torch.stack([done.all(), lost.any()]).tolist()
        if state[1]:
            at = field.node(theta).t[lost][0].item()  # type: ignore[index]
            raise NonFinite(
                f"likelihood.ode: the flow cannot be followed at t={at:g}: its error is not a number, or no "
                "step is small enough"
            )
        if state[0]:
            return u, total
    if batch:
        raise RuntimeError(
            f"likelihood.ode: {max_steps} steps (max_steps) do not reach the end; rtol={rtol:g}"
        )
    return u, total
