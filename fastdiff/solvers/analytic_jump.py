"""Analytic-Jump: at high noise by the exact flow of Gaussian data, then on by its inner solver.

    x_t = alpha_t mu + sum_k psi_k u_k u_k^T (x - alpha_s mu),   psi_k^2 = (alpha_t^2 l_k + sigma_t^2) /
                                                                           (alpha_s^2 l_k + sigma_s^2)

for data of mean mu and covariance factors factors^T + rest I = sum_k l_k u_k u_k^T. Where noise drowns all
but these moments a network says no more, so that the steps above `until` need no calls: one map goes to the
grid's first time at or below it, the others do nothing.

mean     like a sample; factors  (D, K), D its elements, or None: the covariance is rest I
until    a time; None: the inner solver, all the way

Two products with (D, K) for each sample, one by one (its bits must not hang on the batch), in a call stage.

Source: Wang and Vastola 2023, arXiv:2303.02490.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ..core.math import plain
from ..core.process import Node
from ..core.solver import check_range
from ._wrapper import Wrapper


@dataclass(frozen=True)
class AnalyticJump(Wrapper):
    key = "analytic-jump"
    source = "Wang and Vastola 2023, arXiv:2303.02490"

    inner: Any = "dpmpp-2m"
    mean: Any = None
    factors: Any = None
    rest: float = 0.0
    until: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "rest", 0)
        if self.until is None:
            return
        check_range(self, "until", 0)
        if self.mean is None:
            raise ValueError("solver 'analytic-jump': until goes with the mean of the data (and its factors)")
        _ = self.moments  # which says what is wrong with them

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.until is None and self.made.linear

    @cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """mu, the u_k as columns, and their l_k."""
        mean = _array("mean", self.mean)
        factors = np.zeros((mean.size, 0)) if self.factors is None else _array("factors", self.factors)
        if factors.ndim != 2 or factors.shape[0] != mean.size:
            raise ValueError(f"solver 'analytic-jump': factors are {factors.shape}; the mean {mean.shape} "
                             f"needs ({mean.size}, K)")
        if not (np.isfinite(mean).all() and np.isfinite(factors).all()):
            raise ValueError("solver 'analytic-jump': mean and factors must be finite")
        U, scale, _ = np.linalg.svd(factors, full_matrices=False)
        return mean, U, scale**2 + self.rest

    @cached_property
    def operators(self) -> Mapping[str, Callable[..., Any]]:  # type: ignore[override]
        own = {} if self.until is None else {"gaussian-map": self._map, "gaussian-data": self._data}
        return {**self.made.operators, **own}

    def describe(self) -> str:
        if self.until is None:
            return super().describe()
        mean, U, _ = self.moments
        return f"{self.key}(until={self.until!r}, mean{mean.shape}, factors{U.shape}, {self.made.describe()})"

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        if self.until is None:
            return self.made.record(p, nodes, route)
        skip = sum(plain(n.t) > self.until for n in nodes)
        if skip == 0:
            return self.made.record(p, nodes, route)
        if route is not None or nodes[0].process.const is not None:
            raise ValueError("analytic-jump takes no hook's route and no process with a const")
        if skip >= len(nodes) - 1:
            last = plain(nodes[-2].t)
            raise ValueError(f"analytic-jump: until={self.until:g}, but the last step starts at {last:g}")
        p.steps, past = len(nodes) - 1, []
        for i, (s, t) in enumerate(pairwise(nodes)):
            p.begin(i, s)
            if i == 0:
                if getattr(p, "emitting", False):
                    p.data = p.call("gaussian-data", s, p.x, params=(s.alpha, s.sigma))
                end = nodes[skip]
                p.x = p.call("gaussian-map", s, p.x, params=(s.alpha, s.sigma, end.alpha, end.sigma))
            elif i >= skip:
                past = self.made.move(p, s, t, past, self.made.limit(i - skip, p.steps - skip))
            past = p.finish(past, nodes[skip] if i < skip else t)
        return None

    def _map(self, x: Any, *, t: float, params: tuple[float, ...]) -> Any:
        a, s, b, r = params

        return self._apply(x, a, b, lambda v: ((b * b * v + r * r) / (a * a * v + s * s)) ** 0.5)

    def _data(self, x: Any, *, t: float, params: tuple[float, ...]) -> Any:
        """The data prediction."""
        return self._apply(x, params[0], 1.0, lambda v: params[0] * v / (params[0] ** 2 * v + params[1] ** 2))

    def _apply(self, x: Any, a: float, b: float, gain: Callable[[Any], Any]) -> Any:
        """b mu + sum_k gain(l_k) u_k u_k^T (x - a mu)."""
        mean, U, values = self.moments
        if tuple(x.shape[1:]) != mean.shape:
            raise ValueError(f"analytic-jump: the mean is of samples {mean.shape}, x is {tuple(x.shape)}")
        x = x if x.dtype == x.double().dtype else x.float()
        other = gain(self.rest)
        mu, U, more = (x.new_tensor(v) for v in (mean, U, gain(values) - other))
        off = (x - a * mu).flatten(1)
        made = other * off
        for i in range(len(off)):
            made[i] = made[i] + U @ (more * (off[i] @ U))
        return b * mu + made.reshape(x.shape)


def _array(name: str, v: Any) -> np.ndarray:
    v = v.detach().cpu() if hasattr(v, "detach") else v
    try:
        return np.asarray(v, dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise TypeError(f"solver 'analytic-jump': {name} must be a tensor or an array of numbers") from e
