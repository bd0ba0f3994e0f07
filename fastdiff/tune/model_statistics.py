"""What a network does over data, element by element: the statistics that DPM-Solver-v3 is fitted by.

    l = E[diag d(sigma eps)/dx] = 1 - alpha E[diag dD/dx]       v * J^T v with random signs v
    f = (1 - l) x / alpha - D,      f' = its derivative along the probability flow, d(x / alpha) = (D - x /
    alpha) s = Cov(f, f') / Var(f),        b = E f' - s E f

D is the data prediction, expectations are over data noised to each node, derivatives over lambda. l makes f
as independent of x as a number for each element can, s and b take the straight part of its change.

Source: Zheng et al. 2023, arXiv:2310.13268, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.grid import check_times
from ..core.statistics import ModelStatistics
from ..noise.seeds import resolve
from ..noise.streams import PROBES, TRAINING
from ..ops.linear_step import linear_step
from ..ops.noise import noise
from ..runtime.conditions import rows
from ..runtime.denoiser import Denoiser

PER = ("element", "channel", "all")
STRAIGHT, ROUNDING = 1e-10, 32  # f that varies less, as a fraction or in units of eps x / alpha, is rounding


def model_statistics(
    denoiser: Denoiser,
    data: Tensor,
    *,
    nodes: int = 120,
    times: Any = None,
    per: str = "element",
    step: float | None = None,
    seeds: Any = 0,
    chunk: int = 64,
    cond: Mapping[str, Any] | None = None,
) -> ModelStatistics:
    """For `fd.sample(..., solver="dpm-v3", statistics=...)`.

    data    (B, *) samples of the data; the error of s falls as 1 / sqrt(B times the elements of a group)
    nodes   intervals, even in lambda from t_max to t_min
    times   of the nodes instead, strictly decreasing. Where alpha(t_max) = 0 they must start later; the
            solver's first step from there needs no statistics
    per     what has numbers of its own: each "element", each "channel" (first axis of a sample), or "all"
    step    in lambda, of the differences that give f' (two more network calls, no forward-mode derivative);
            None: from the dtype, or from the nodes where the network knows discrete times only
    chunk   samples at a time
    cond    keyword arguments of the network, per-sample tensors of B rows

    Costs three network calls and one backward pass for each sample and node. Raises ValueError or TypeError
    before any of them.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"model_statistics: denoiser must be a fd.Denoiser, got {type(denoiser).__name__}")
    if not isinstance(data, Tensor) or not data.is_floating_point():
        raise TypeError("model_statistics: data must be a tensor of floats (B, *)")
    if data.dim() < 1 or data.numel() == 0:
        raise ValueError(f"model_statistics: data is {tuple(data.shape)}; at least 1 sample is allowed")
    if per not in PER:
        raise unknown("per", per, PER)
    if per == "channel" and data.dim() < 2:
        raise ValueError(f"model_statistics: data {tuple(data.shape)} has no channels; use per='all'")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"model_statistics: chunk must be a positive int, got {chunk!r}")
    process = denoiser.process
    if process.const is not None:
        raise ValueError(
            f"model_statistics: {process!r} pulls to a const of each sample; there is no common l"
        )
    at, lam = _nodes(denoiser, nodes, times)
    h = _difference(denoiser, data, lam) if step is None else float(step)
    if not 0 < h <= (lam[-1] - lam[0]) / 2:
        raise ValueError(f"model_statistics: step must be in (0, {(lam[-1] - lam[0]) / 2:g}], got {step}")
    keep = {"element": data.shape[1:], "channel": data.shape[1:2], "all": ()}[per]
    keys = resolve(seeds, data.shape[0], data.device)
    wide = torch.promote_types(data.dtype, torch.float32)
    sums = np.zeros((9, len(lam), *keep))
    for first in range(0, data.shape[0], chunk):
        part = first, min(first + chunk, data.shape[0]), data.shape[0]
        x0, rng, given = data[slice(*part[:2])], keys[slice(*part[:2])], rows(dict(cond or {}), *part)
        for k, t in enumerate(at):
            alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
            A = torch.tensor([[alpha, sigma]], dtype=wide, device=data.device)
            (x,) = linear_step([x0], A, rng=rng, draws=[k], streams=[TRAINING])
            signs = noise("rademacher", x.shape, rng, k, PROBES, dtype=x.dtype)
            D, diagonal = _diagonal(denoiser, x, t, signs, given)
            y = x.double() / alpha
            slope = _slope(denoiser, y, D, lam, k, h, given, x.dtype)
            found = 1 - alpha * diagonal.double(), y, D, slope, y * y, y * D, D * D, y * slope, D * slope
            sums[:, k] += np.stack([_sum(v, len(keep)) for v in found])
    count = data.numel() // max(1, int(np.prod(keep)))
    l, s, b = _fit(lam, sums / count, _eps(denoiser, data))  # noqa: E741
    shape = (len(lam), *keep, *(1,) * (data.dim() - 1 - len(keep))) if keep else (len(lam),)
    return ModelStatistics(lam, l.reshape(shape), s.reshape(shape), b.reshape(shape), repr(process))


def _nodes(denoiser: Denoiser, nodes: int, times: Any) -> tuple[list[float], np.ndarray]:
    """Times from noise to data, and their lambda."""
    process = denoiser.process
    if times is not None:
        at = check_times(times, process)
        lam = np.array([float(process.lam(float(t))) for t in at])
        if not np.isfinite(lam).all():
            raise ValueError("model_statistics: times must not reach alpha = 0 or sigma = 0")
        return at.tolist(), lam
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 2:
        raise ValueError(f"model_statistics: nodes must be an int of at least 2, got {nodes!r}")
    low, high = (float(process.lam(t)) for t in (process.t_max, process.t_min))
    if not np.isfinite(low):
        raise ValueError(
            f"model_statistics: lambda is {low} at t_max of {process!r}; give times that start later"
        )
    lam = np.linspace(low, high, nodes + 1)
    at = [process.t_max, *(float(process.time_of(v)) for v in lam[1:-1]), process.t_min]
    return at, lam


def _difference(denoiser: Denoiser, data: Tensor, lam: np.ndarray) -> float:
    """Where the differences' own error meets that of rounding, for a network of size 1."""
    return float(np.diff(lam).max()) if isinstance(denoiser.time, tuple) else _eps(denoiser, data) ** (1 / 3)


def _eps(denoiser: Denoiser, data: Tensor) -> float:
    return max(torch.finfo(v).eps for v in (data.dtype, denoiser.x_dtype or data.dtype))


def _diagonal(denoiser: Denoiser, x: Tensor, t: float, signs: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """The data prediction and an estimate of the diagonal of its Jacobian."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        D = denoiser(leaf, t, cond)
        back = None
        if D.requires_grad:
            (back,) = torch.autograd.grad(D, leaf, signs, allow_unused=True)
    return D.detach().double(), torch.zeros_like(x) if back is None else signs * back


@torch.no_grad()
def _slope(
    denoiser: Denoiser, y: Tensor, D: Tensor, lam: np.ndarray, k: int, h: float, cond: Any, dtype: torch.dtype
) -> Tensor:
    """dD/dlambda along the flow: central differences on the tangent, one-sided within h of an end."""
    process = denoiser.process

    def ahead(u: float) -> Tensor:
        v = min(max(lam[k] + u, lam[0]), lam[-1])
        n = process.node(float(process.time_of(v)))
        x = float(n.alpha) * (y + u * (D - y))
        return denoiser(x.to(dtype), float(n.t), cond).double()

    if lam[k] - h < lam[0]:
        return (-3 * D + 4 * ahead(h) - ahead(2 * h)) / (2 * h)
    if lam[k] + h > lam[-1]:
        return (3 * D - 4 * ahead(-h) + ahead(-2 * h)) / (2 * h)
    return (ahead(h) - ahead(-h)) / (2 * h)


def _sum(v: Tensor, kept: int) -> np.ndarray:
    """Over the batch and all but the first `kept` axes of a sample."""
    axes = [0, *range(1 + kept, v.dim())]
    return v.sum(axes).cpu().numpy()


def _fit(lam: np.ndarray, mean: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """l, s, b from the means of l, y, D, D', y^2, y D, D^2, y D', D D';  y = x / alpha.

    f = a y - D,  f' = (a' - a) y + a D - D',  a = 1 - l
    """
    l, y, D, slope, yy, yD, DD, yslope, Dslope = mean  # noqa: E741
    vy, vD, cyD = yy - y * y, DD - D * D, yD - y * D
    cy, cD = yslope - y * slope, Dslope - D * slope
    a = 1 - l
    c = np.gradient(a, lam, axis=0, edge_order=2) - a
    variance = a * a * vy - 2 * a * cyD + vD
    covariance = a * (c * vy + a * cyD - cy) - (c * cyD + a * vD - cD)
    moves = variance > np.maximum(STRAIGHT * (a * a * vy + vD), (ROUNDING * eps) ** 2 * yy)
    s = np.where(moves, covariance / np.where(moves, variance, 1), 0.0)
    return l, s, c * y + a * D - slope - s * (a * y - D)
