"""Exact simulators of Gaussian processes on a regular grid of times: training data with a known law.

    fractional_brownian   E B_s B_t = (s^{2H} + t^{2H} - |t - s|^{2H}) / 2
    scaled_brownian       W(t^a): variance t^a, independent increments
    ou                    dX = -rate X dt + std sqrt(2 rate) dW, stationary: covariance std^2 e^{-rate |t-s|}

Paths (B, L, *) at times dt, 2 dt, .., L dt, by (seed, id) on stream 29; float64 inside, rounded once.

Source: Davies & Harte 1987, Biometrika 74(1), 95 (circulant embedding of the increments).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from . import streams
from .families import normal
from .gaussian_field import DTYPES, Exponential, GaussianField, positive, powers_of_two
from .seeds import SeedsLike

FAR = 8  # steps


def fractional_brownian(
    shape: Sequence[int],
    seeds: SeedsLike,
    hurst: float,
    *,
    dt: float = 1.0,
    draw: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Fractional Brownian motion: circulant embedding of its increments, then their sums. O(L log L)."""
    positive("fractional_brownian", hurst=hurst, dt=dt)
    if not hurst < 1:
        raise ValueError(f"fractional_brownian: hurst is {hurst!r}; a number in (0, 1) is allowed")
    dtype = _door("fractional_brownian", shape, dtype)
    noise = _fractional_noise(float(hurst), shape[1])
    x = noise(
        (shape[0], *shape[2:], shape[1]), seeds, stream=streams.SIMULATOR, draw=draw, dtype=torch.float64,
        device=device,
    )  # fmt: skip
    return (_sums(x.movedim(-1, 1)) * dt**hurst).to(dtype)


def scaled_brownian(
    shape: Sequence[int],
    seeds: SeedsLike,
    a: float,
    *,
    dt: float = 1.0,
    draw: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Brownian motion in the time t^a."""
    positive("scaled_brownian", a=a, dt=dt)
    dtype = _door("scaled_brownian", shape, dtype)
    z = normal(shape, seeds, stream=streams.SIMULATOR, draw=draw, dtype=torch.float64, device=device)
    clock = (torch.arange(shape[1] + 1, dtype=torch.float64, device=z.device) * dt) ** a
    return _sums(z * clock.diff().sqrt().view(-1, *(1,) * (z.dim() - 2))).to(dtype)


def ou(
    shape: Sequence[int],
    seeds: SeedsLike,
    rate: float,
    *,
    std: float = 1.0,
    dt: float = 1.0,
    draw: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The stationary Ornstein-Uhlenbeck process, by its exact recursion."""
    positive("ou", rate=rate, std=std, dt=dt)
    dtype = _door("ou", shape, dtype)
    field = GaussianField(Exponential(1 / rate), points=torch.arange(shape[1], dtype=torch.float64) * dt)
    x = field(
        (shape[0], *shape[2:], shape[1]), seeds, stream=streams.SIMULATOR, draw=draw, dtype=torch.float64,
        device=device,
    )  # fmt: skip
    return (x.movedim(-1, 1) * std).to(dtype)


@functools.lru_cache(maxsize=32)
def _fractional_noise(hurst: float, steps: int) -> GaussianField:
    h2 = 2 * hurst

    def covariance(d: Tensor) -> Tensor:
        near = ((d + 1) ** h2 + (d - 1).abs() ** h2 - 2 * d**h2) / 2
        # far away the three terms cancel: d^{2H} sum_k binom(2H, 2k) d^{-2k}, below rounding after ten terms
        inverse, term, total = d.clamp_min(FAR) ** -2, torch.ones_like(d), torch.zeros_like(d)
        for k in range(1, 11):
            term = term * inverse * ((h2 - 2 * k + 2) * (h2 - 2 * k + 1) / ((2 * k) * (2 * k - 1)))
            total = total + term
        return torch.where(d < FAR, near, d**h2 * total)

    return GaussianField(covariance, (steps,), periodic=False)


def _sums(x: Tensor) -> Tensor:
    """Cumulative sums along the times by doubling: in one order whatever the batch and the device."""
    for s in powers_of_two(x.shape[1]):
        x = torch.cat([x[:, :s], x[:, s:] + x[:, :-s]], 1)
    return x


def _door(call: str, shape: Sequence[int], dtype: torch.dtype | None) -> torch.dtype:
    if not isinstance(shape, (list, tuple)) or len(shape) < 2 or type(shape[1]) is not int or shape[1] < 1:
        raise ValueError(f"{call}: shape is {shape!r}; (B, L, *) with L >= 1 is allowed")
    dtype = dtype or torch.get_default_dtype()
    if dtype not in DTYPES:
        raise ValueError(f"{call}: dtype is {dtype}; float16, bfloat16, float32 or float64 is allowed")
    return dtype
