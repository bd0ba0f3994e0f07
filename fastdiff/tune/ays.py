"""Align Your Steps: the grid with the least bound on the distance from the true reverse SDE.

Freezing the data prediction D over each step costs at most (Girsanov; lambda = log(alpha / sigma))

    KLUB = sum_i int_{lambda_i}^{lambda_{i+1}} e^{2 lambda} E |D(x_lambda) - D(x_{lambda_i})|^2 dlambda

with x_lambda and the noisier x_{lambda_i} on one forward path. For a perfect denoiser the expectation is
P(lambda_i) - P(lambda), P the denoising loss E |x_0 - D|^2: a curve is enough ("mmse"). For the network as it
is ("klub") the paths are simulated. The bound is a sum over steps, so the best grid on a fine one is found
exactly.

Source: Sabour et al. 2024, arXiv:2404.14507; the search by dynamic programming is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.process import Process
from ..noise.seeds import resolve
from ..noise.streams import TRAINING
from ..ops.linear_step import linear_step
from ..runtime.denoiser import Denoiser
from ._path import cheapest

MODES = ("klub", "mmse")


def ays(
    denoiser: Denoiser | Process,
    data: Tensor | Callable[[np.ndarray], Any],
    *,
    steps: int,
    mode: str = "klub",
    fine: int = 120,
    final: str = "zero",
    seeds: Any = 0,
    cond: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Times for `fd.sample(..., times=...)`: float64, steps + 1 of them, strictly decreasing.

    data   (B, *) samples of the data. Or, with mode "mmse" and a Process in place of the denoiser, the loss
           P(lambda) itself: a function of an array of lambdas
    fine   steps of the grid, even in lambda, of which the best `steps` are chosen; so many network calls
    final  "zero": the last of the steps goes to the process's zero; "sigma_min": none does
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    if final not in ("zero", "sigma_min"):
        raise unknown("final", final, ("zero", "sigma_min"))
    jumps = steps - (final == "zero")
    if steps < 1 or not 0 <= jumps <= fine:
        raise ValueError(f"ays: steps={steps}; 1 .. {fine} (fine) are allowed")
    process = denoiser if isinstance(denoiser, Process) else denoiser.process
    low, high = float(process.lam(process.t_max)), float(process.lam(process.t_min))
    if not np.isfinite(low):
        raise ValueError(f"ays: lambda is {low} at t_max of {process!r}; its grid cannot be even in lambda")
    lam = np.linspace(low, high, fine + 1)
    if callable(data) and not isinstance(data, Tensor):
        if mode != "mmse":
            raise ValueError("ays: a curve P(lambda) goes with mode='mmse'")
        gap = _of_curve(np.asarray(data(lam), dtype=np.float64))
    elif isinstance(denoiser, Process):
        raise TypeError("ays: samples of the data want a Denoiser, a Process wants a curve P(lambda)")
    else:
        gap = _of_samples(denoiser, data, lam, mode, seeds, cond)
    times = np.asarray(process.time_of(lam))
    times[0], times[-1] = process.t_max, process.t_min
    if jumps == 0:
        return np.array([times[0], process.t_zero])
    chosen = times[cheapest(klub(lam, gap), jumps)]
    return np.append(chosen, process.t_zero) if final == "zero" else chosen


def klub(lam: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """cost[i, j] = int_{lambda_i}^{lambda_j} e^{2 lambda} gap[i](lambda) dlambda; gap (M, M) is taken to be
    straight between the nodes, the weight e^{2 lambda} is integrated exactly."""
    h = np.diff(lam)
    top = np.exp(2 * lam[1:])
    whole = top * -np.expm1(-2 * h) / 2  # int e^{2 lambda}
    late = top * (0.5 - (-np.expm1(-2 * h)) / (4 * h))  # int e^{2 lambda} (lambda - lambda_k) / h
    parts = gap[:, :-1] * (whole - late) + gap[:, 1:] * late
    sums = np.concatenate([np.zeros((len(lam), 1)), np.cumsum(parts, 1)], 1)
    return sums - np.diag(sums)[:, None]


def _of_curve(P: np.ndarray) -> np.ndarray:
    return P[:, None] - P[None, :]


def _of_samples(
    denoiser: Denoiser, x0: Tensor, lam: np.ndarray, mode: str, seeds: Any, cond: Any
) -> np.ndarray:
    """Mean squared distances between the data predictions along forward paths, or the differences of
    losses."""
    if x0.dim() < 1 or x0.numel() == 0:
        raise ValueError(f"ays: data has shape {tuple(x0.shape)}; at least 1 sample is allowed")
    process, n = denoiser.process, x0[0].numel()
    rng = resolve(seeds, x0.shape[0], x0.device)
    times = np.asarray(process.time_of(lam))
    x, found = x0, []
    before = 1.0, 0.0
    with torch.no_grad():
        for k in range(len(lam) - 1, -1, -1):  # the forward process, from clean to noisy
            alpha, sigma = float(process.alpha(times[k])), float(process.sigma(times[k]))
            a = alpha / before[0]
            row = [[a, np.sqrt(max(sigma**2 - (a * before[1]) ** 2, 0.0))]]
            wide = torch.float64 if x0.dtype == torch.float64 else torch.float32
            A = torch.tensor(row, dtype=wide, device=x0.device)
            (x,) = linear_step([x], A, rng=rng, draws=[k], streams=[TRAINING])
            before = alpha, sigma
            found.append(denoiser(x, float(times[k]), cond).flatten().double())
    D = torch.stack(found[::-1])
    if mode == "mmse":
        return _of_curve(((D - x0.flatten().double()) ** 2).mean(-1).cpu().numpy())
    square = (D * D).sum(-1)
    gram = square[:, None] + square[None, :] - 2 * D @ D.T
    return (gram.clamp_min(0) / (n * x0.shape[0])).cpu().numpy()
