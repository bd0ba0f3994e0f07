"""Operators of solvers that are no linear maps: `p.call(name, node, *tensors, params=...)` in a formula.

Each is fn(*tensors, t=, params=) -> a tensor like the first, of samples apart: a sample's result depends on
that sample alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def langevin(x: Tensor, eps: Tensor, z: Tensor, *, t: float, params: tuple[float, ...]) -> Tensor:
    """x + e score + sqrt(2 e) z with e = 2 a (snr |z| / |score|)^2 for each sample; params = (a, snr, sigma).

    Written by the noise prediction eps = -sigma score, which stays of size 1: with k = e / sigma^2 it is
    x - k sigma eps + sqrt(2 k) sigma z,  k = 2 a (snr |z| / |eps|)^2.

    Source: Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5.
    """
    a, snr, sigma = params
    wide = torch.promote_types(x.dtype, torch.float32)
    k = 2 * a * (snr * _norm(z) / _norm(eps)) ** 2
    x, eps, z = (v.to(wide) for v in (x, eps, z))
    return torch.addcmul(torch.addcmul(x, (-k * sigma).to(wide), eps), ((2 * k).sqrt() * sigma).to(wide), z)


def learned_noise(mean: Tensor, v: Tensor, z: Tensor, *, t: float, params: tuple[float, ...]) -> Tensor:
    """mean + std z with log std^2 = w high + (1 - w) low, w = (v + 1) / 2, params = (low, high); without
    params log std^2 = v.

    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, equation 15.
    """
    wide = torch.promote_types(mean.dtype, torch.float32)
    log_variance = v.to(wide)
    if params:
        low, high = params
        log_variance = (log_variance + 1) / 2 * (high - low) + low
    return mean.to(wide) + (log_variance / 2).exp() * z.to(wide)


def _norm(v: Tensor) -> Tensor:
    """The Euclidean norm of each sample, float64, shaped to broadcast. Row by row: the order of a sum must
    not hang on the batch."""
    rows = [torch.linalg.vector_norm(row, dtype=torch.float64) for row in v.flatten(1).unbind(0)]
    return (torch.stack(rows) if rows else v.new_zeros(0)).reshape(-1, *[1] * (v.dim() - 1))


OPERATORS: dict[str, Callable[..., Any]] = {"langevin": langevin, "learned-noise": learned_noise}
