"""How noisy the start must be: the horizon T with the least bound on the model's divergence from the data.

    ELBO gap(T) = prior_gap(T) + score_gap(T)
    prior_gap   KL(p_T || N(0, prior_std(T)^2)) of Gaussian data with the mean and variance given, a bound by
    second
                moments otherwise; in nats, summed over elements; falls with T
    score_gap   int_0^T g^2 / 2 E |s_net - s|^2 dt, what the network's error costs; grows with T

Source: Franzese et al. 2023, arXiv:2206.05173.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.process import Process


def prior_gap(process: Process, t: Any, mean: Any, variance: Any) -> np.ndarray:
    """KL(N(alpha mean, alpha^2 variance + sigma^2) || N(0, prior_std(t)^2)) at each t, summed over elements.

    mean, variance: of the data, numbers or arrays of one shape (elements independent).
    """
    mean, variance = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (mean, variance)))
    if (variance < 0).any():
        raise ValueError(f"prior_gap: variance must not be negative, got {variance.min():g}")
    found = []
    for one in np.atleast_1d(np.asarray(t, dtype=np.float64)):
        alpha, sigma = float(process.alpha(float(one))), float(process.sigma(float(one)))
        scale = process.prior_std(float(one)) ** 2
        ratio = (alpha**2 * variance + sigma**2) / scale
        found.append(((ratio - 1 - np.log(ratio) + (alpha * mean) ** 2 / scale) / 2).sum())
    return np.array(found).reshape(np.shape(t))


def horizon(
    process: Process, mean: Any, variance: Any, score_gap: Callable[[np.ndarray], Any], *, points: int = 1000
) -> float:
    """The T in [t_min, t_max] at which prior_gap + score_gap is least.

    score_gap  a function of an array of times, in nats: the training loss accumulated up to each, less what
    no
               network can avoid
    points     of the search; the best is refined once between its neighbours
    """
    if points < 3:
        raise ValueError(f"horizon: points must be at least 3, got {points}")

    def best(times: np.ndarray) -> int:
        gap = prior_gap(process, times, mean, variance) + np.asarray(score_gap(times), dtype=np.float64)
        if gap.shape != times.shape or not np.isfinite(gap).all():
            raise ValueError(f"horizon: score_gap must give {times.shape} finite numbers, got {gap.shape}")
        return int(gap.argmin())

    times = np.linspace(process.t_min, process.t_max, points)
    i = best(times)
    near = np.linspace(times[max(i - 1, 0)], times[min(i + 1, points - 1)], points)
    return float(near[best(near)])
