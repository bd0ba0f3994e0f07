"""The exact law of a sampler's output on Gaussian data, without Monte Carlo.

For data N(mean, std^2) every prediction is affine in x. So a sampler, stochastic or not, is an affine map
of (1, start, draws), and running it on vectors in which each of these owns one coordinate gives that map's
row:

    x = v_0 + v_1 start + sum_k v_k xi_k          mean = v_0          variance = sum_{k >= 1} v_k^2
"""
from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.predict import PREDICTIONS
from ..core.process import Process


@dataclass(frozen=True)
class Law:
    mean: float
    variance: float
    row: Tensor  # (constant, start, draw 1, draw 2, ...)
    draws: int

    @property
    def std(self) -> float:
        return math.sqrt(self.variance)


def affine_law(
    run: Callable[[Callable[..., Tensor], Tensor, Callable[..., Tensor]], Tensor],
    process: Process,
    t0: float,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    predicts: str = "noise",
    start: tuple[float, float] | None = None,
    draws: int = 256,
) -> Law:
    """The law of run(model, x, noise).

    run     samples with what it is given. x is its start at t0, float64 of shape (1, 2 + draws), to which
            only linear operations may be done. model(x, t) is the exact network for the data, t a number, a
            tensor or a Node. noise(*key) is a standard normal draw like x: for the same key the same one, for
            no key a new one each time.
    start   mean and standard deviation of x at t0; by default those of the process.
    """
    if predicts not in PREDICTIONS:
        raise unknown("prediction", predicts, PREDICTIONS)
    unit = torch.eye(2 + draws, dtype=torch.float64)
    keys: dict[Hashable, int] = {}

    def node(t: Any) -> tuple[float, float, Any]:
        if hasattr(t, "alpha"):  # a Node, of floats or of Reals
            return float(t.alpha), float(t.sigma), t
        t = float(t.reshape(-1)[0]) if hasattr(t, "reshape") else float(t)
        return float(process.alpha(t)), float(process.sigma(t)), process.node(t)

    def model(x: Tensor, t: Any, **cond: Any) -> Tensor:
        a, s, n = node(t)
        score = (a * mean * unit[0] - x) / ((a * std) ** 2 + s**2)
        x0, eps = mean * unit[0] - a * std**2 * score, -s * score
        if predicts == "score":
            return score
        if predicts == "velocity":
            return a * eps - s * x0
        if predicts == "flow":
            return float(n.dalpha) * x0 + float(n.dsigma) * eps
        # E[x0 | x] = mean + a std^2 (x - a mean) / v
        return eps if predicts == "noise" else x0

    def noise(*key: Hashable) -> Tensor:
        k = keys.setdefault(key or ("fresh", len(keys)), len(keys))
        if k >= draws:
            raise ValueError(f"affine_law: more than draws={draws} noise draws; raise draws")
        return unit[2 + k].unsqueeze(0)

    a, s, _ = node(t0)
    m0, s0 = start if start is not None else (a * mean, math.hypot(a * std, s))
    row = run(model, (m0 * unit[0] + s0 * unit[1]).unsqueeze(0), noise).reshape(-1)
    return Law(float(row[0]), float((row[1:] ** 2).sum()), row[: 2 + len(keys)], len(keys))
