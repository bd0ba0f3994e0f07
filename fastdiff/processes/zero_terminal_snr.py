"""A variance preserving process rescaled to end in pure noise, alpha(t_max) = 0.

    continuous   alpha' = (alpha - alpha_T) / (1 - alpha_T)                               keeps alpha'(0) = 1
    DiscreteVP   a'_n = (a_n - a_N) a_1 / (a_1 - a_N) on its table a_n = sqrt(abar_n)     keeps the first step

and sigma'^2 = 1 - alpha'^2. A noise prediction says nothing about the data at t_max: the network must
predict velocity or data, and the sampler must visit t_max (of the discrete grids only "trailing" and
"linspace" do).
Source: Lin et al. 2024, arXiv:2305.08891, algorithm 1.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..core.math import Number, full_like, sqrt
from ..core.process import Process
from ._variance_preserving import VariancePreserving
from .discrete_vp import DiscreteVP
from .vp import VP


class _Rescaled:
    """The continuous formulas."""

    def __init__(self, base: Process):
        self.base = base

    def _end(self, t: Number) -> Number:
        return self.base.alpha(full_like(t, self.base.t_max))  # in t's kind, so that alpha - end is exactly 0

    def alpha(self, t: Number) -> Number:
        end = self._end(t)
        return (self.base.alpha(t) - end) / (1 - end)

    def sigma(self, t: Number) -> Number:
        # 1 - alpha' = (1 - alpha) / (1 - end), and 1 - alpha = sigma^2 / (1 + alpha) does not cancel
        rest = self.base.sigma(t) ** 2 / ((1 + self.base.alpha(t)) * (1 - self._end(t)))
        return sqrt(rest * (1 + self.alpha(t)))

    def dalpha(self, t: Number) -> Number:
        return self.base.dalpha(t) / (1 - self._end(t))

    def _time_of(self, lam: Any) -> Any:
        end = self.base.alpha(self.base.t_max)
        alpha, variance = np.exp(-np.logaddexp(0.0, -2 * lam) / 2), np.exp(-np.logaddexp(0.0, 2 * lam))
        old = end + (1 - end) * alpha
        rest = (1 - end) * variance / (1 + alpha)
        with np.errstate(divide="ignore"):
            t = self.base._time_of(np.log(old) - np.log(rest * (1 + old)) / 2)
        return np.where(alpha == 0, self.base.t_max, t)


@dataclass(frozen=True)
class ZeroTerminalSNR(VariancePreserving):
    key = "zero-terminal-snr"

    process: Process = field(default_factory=VP)

    def __post_init__(self) -> None:
        if not isinstance(self.process, VariancePreserving):
            raise ValueError(f"ZeroTerminalSNR: need alpha^2 + sigma^2 = 1, which {self.process!r} has not")

    @cached_property
    def _rule(self) -> Any:
        if not isinstance(self.process, DiscreteVP):
            return _Rescaled(self.process)
        a = np.sqrt(self.process.alphas_cumprod)
        a = (a - a[-1]) * (a[0] / (a[0] - a[-1]))
        return DiscreteVP(a**2, None, self.process.interpolate, self.process.indices)

    @property
    def t_min(self) -> float:
        return self.process.t_min

    @property
    def t_max(self) -> float:
        return self.process.t_max

    @property
    def default_grid(self) -> str:  # type: ignore[override]
        return self.process.default_grid

    @property
    def train_steps(self) -> int | None:  # type: ignore[override]
        return self.process.train_steps

    def alpha(self, t: Number) -> Number:
        return self._rule.alpha(t)

    def sigma(self, t: Number) -> Number:
        return self._rule.sigma(t)

    def dalpha(self, t: Number) -> Number:
        return self._rule.dalpha(t)

    def _time_of(self, lam: Any) -> Any:
        return self._rule._time_of(lam)

    def model_index(self, t: Any, count: int) -> Any:
        return self.process.model_index(t, count)
