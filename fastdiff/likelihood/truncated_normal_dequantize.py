"""truncated_normal_dequantize: levels as points of the noised space, with the density of where they landed.

    c = (2 i + 1) / L - 1          x = alpha c + sigma z,   z normal on [-tau, tau],   tau = alpha / (L sigma)

is the forward process at t0 inside the level's own cell: no gap between training and evaluation. Then

    log P(i) >= E[log p_t0(x) - log q(x | i)]          -E log q = n (ln(2 pi e sigma^2) / 2 + ln Z
                                                                     - tau e^{-tau^2 / 2} / (sqrt(2 pi) Z))

Z = erf(tau / sqrt 2). With K draws log-mean-exp of log p - log q is tighter. Choose t0 such that tau is about
3. Source: Zheng et al. 2023, arXiv:2305.03935, section 4.1.
"""

from __future__ import annotations

from math import erf, exp, log, pi, sqrt
from typing import Any

import torch
from torch import Tensor

from ..core.process import Process
from ..noise.seeds import resolve
from ..noise.streams import DEQUANTISATION
from ..ops.normal import uniform


def truncated_normal_dequantize(
    x: Tensor,
    process: Process,
    t0: float,
    seeds: Any = None,
    *,
    levels: int = 256,
    draw: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """(points at t0 like x, log q (B,) float64) for whole numbers x (B, *) in 0 .. levels - 1.

    draw numbers the K draws of one sample. Raises TypeError and ValueError that name the argument.
    """
    call = "truncated_normal_dequantize"
    if not isinstance(x, Tensor) or x.dim() < 1 or x.is_floating_point() or x.is_complex():
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{call}: x must be a tensor (B, *) of whole numbers, got {came}")
    if type(levels) is not int or levels < 2:
        raise ValueError(f"{call}: levels must be a whole number >= 2, got {levels!r}")
    if x.numel() and not (0 <= int(x.min()) and int(x.max()) < levels):
        raise ValueError(f"{call}: x must lie in 0 .. {levels - 1}, got {int(x.min())} .. {int(x.max())}")
    alpha, sigma = (float(f(float(t0))) for f in (process.alpha, process.sigma))
    if not (alpha > 0 and sigma > 0):
        raise ValueError(f"{call}: t0={t0:g} has alpha={alpha:g}, sigma={sigma:g}; both must be > 0")
    tau = alpha / (levels * sigma)
    Z = erf(tau / sqrt(2))
    rng = resolve(seeds, x.shape[0], x.device)
    u = uniform(x.shape, rng, draw, DEQUANTISATION, dtype=torch.float64)
    z = (sqrt(2) * torch.special.erfinv(Z * (2 * u - 1))).clamp(-tau, tau)
    points = alpha * ((2.0 * x.double() + 1) / levels - 1) + sigma * z
    n = x[0].numel() if x.shape[0] else 0
    log_q = -n * log(sigma * Z * sqrt(2 * pi)) - z.flatten(1).square().sum(1) / 2
    return points.to(dtype), log_q


def entropy(tau: float, sigma: float) -> float:
    """Of one number's dequantisation, -E log q, in nats."""
    Z = erf(tau / sqrt(2))
    return 0.5 * (1 + log(2 * pi * sigma**2)) + log(Z) - tau * exp(-(tau**2) / 2) / (sqrt(2 * pi) * Z)
