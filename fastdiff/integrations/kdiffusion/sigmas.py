"""get_sigmas_*: k-diffusion's lists of noise levels, by fastdiff's grids in float64, the closing 0 included.

They have torch's default dtype, as theirs; where that is float32 they are rounded to it once, at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...grids.exponential import Exponential
from ...grids.karras import Karras
from ...grids.laplace import Laplace
from ...grids.polyexponential import Polyexponential
from ...grids.vp_sigmas import VPSigmas


def get_sigmas_karras(
    n: int, sigma_min: Any, sigma_max: Any, rho: float = 7.0, device: Any = "cpu"
) -> Tensor:
    """Levels whose rho-th root is uniform, then 0: n + 1 of them."""
    low, high = float(sigma_min), float(sigma_max)
    grid = Karras(sigma_min=low, sigma_max=high, rho=float(rho))
    return _closed(grid.levels(high, low, _count(n)), device)


def get_sigmas_exponential(n: int, sigma_min: Any, sigma_max: Any, device: Any = "cpu") -> Tensor:
    """Levels uniform in log sigma, then 0."""
    low, high = float(sigma_min), float(sigma_max)
    return _closed(Exponential(sigma_min=low, sigma_max=high).levels(high, low, _count(n)), device)


def get_sigmas_polyexponential(
    n: int, sigma_min: Any, sigma_max: Any, rho: float = 1.0, device: Any = "cpu"
) -> Tensor:
    """Levels polynomial in log sigma, then 0."""
    low, high = float(sigma_min), float(sigma_max)
    grid = Polyexponential(sigma_min=low, sigma_max=high, rho=float(rho))
    return _closed(grid.levels(high, low, _count(n)), device)


def get_sigmas_vp(
    n: int, beta_d: float = 19.9, beta_min: float = 0.1, eps_s: float = 1e-3, device: Any = "cpu"
) -> Tensor:
    """Levels of a VP process at uniform times from 1 to eps_s, then 0."""
    grid = VPSigmas(beta_d=float(beta_d), beta_min=float(beta_min), eps=float(eps_s))
    return _closed(grid.levels(1e150, 0.0, _count(n)), device)  # no level is out of reach


def get_sigmas_laplace(
    n: int,
    sigma_min: Any,
    sigma_max: Any,
    mu: float = 0.0,
    beta: float = 0.5,
    device: Any = "cpu",
    *,
    legacy: bool = True,
) -> Tensor:
    """ComfyUI's: n levels at the quantiles of a Laplace law of log sigma, no 0 after them.

    legacy=True clamps them, so that some may be equal, and samplers refuse those; False spreads them.
    """
    low, high = float(sigma_min), float(sigma_max)
    grid = Laplace(sigma_min=low, sigma_max=high, mu=float(mu), beta=float(beta))
    if not legacy:
        return _tensor(grid.levels(high, low, _count(n)), device)
    free = grid.levels(1e300, 1e-300, _count(n))  # bounds that clamp nothing
    return _tensor(np.clip(free, low, high), device)


def _count(n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an int, got {type(n).__name__}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return int(n)


def _closed(levels: np.ndarray, device: Any) -> Tensor:
    return _tensor(np.append(levels, 0.0), device)


def _tensor(levels: np.ndarray, device: Any) -> Tensor:
    return torch.tensor(levels, dtype=torch.get_default_dtype(), device=device)
