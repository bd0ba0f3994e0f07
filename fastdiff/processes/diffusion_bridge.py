"""A base process tied to a given end x_T: a diffusion bridge from the data to, say, a degraded picture.

    x_t = b x_0 + c eps + a x_T          r = e^{2 (lam_T - lam)} of the base, from 0 at t = 0 to 1 at t = T
    b = alpha (1 - r)          c = sigma sqrt(1 - r)          a = r alpha / alpha_T

b and c are this process's alpha and sigma: e^{2 lam} = e^{2 lam_base} - e^{2 lam_T}, and g^2 is the base's.
As x_t - a x_T is an ordinary path, every solver takes it: DDIM's eta is that of DBIM, eta = 1 the Markov
bridge. At T b = c = 0 and x = x_T: the step from there draws the noise of the next level, and the network
must give the data (no other prediction tells anything where x has neither signal nor noise).
Source: Zhou et al. 2024, arXiv:2309.16948; Zheng et al. 2025, arXiv:2405.15885; for speech: Jukic et al.
2024, arXiv:2407.16074.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.math import Number, divide, expm1, full_like, log, sqrt
from ..core.options import require
from ..core.process import Node, Process
from .edm import EDM
from .ve import VE
from .vp import VP


@dataclass(frozen=True)
class DiffusionBridge(Process):
    key = "diffusion-bridge"
    const = "x_T"

    base: Process = field(default_factory=lambda: VP(0.1, 2.1))

    def __post_init__(self) -> None:
        if not isinstance(self.base, Process):
            raise TypeError(f"DiffusionBridge: base must be a Process, got {type(self.base).__name__}")
        if self.base.const is not None:
            raise ValueError(f"DiffusionBridge: {self.base!r} has a const of its own")
        require(self, self.base.alpha(self.t_max) > 0, "alpha(t_max) > 0 of the base", "base")

    @classmethod
    def ve(cls, sigma_min: float = 0.002, sigma_max: float = 80.0) -> DiffusionBridge:
        """DDBM's VE bridge, over t = sigma."""
        return cls(EDM(sigma_min, sigma_max))

    @classmethod
    def vp(cls, beta_min: float = 0.1, beta_d: float = 2.0) -> DiffusionBridge:
        """DDBM's VP bridge."""
        return cls(VP(beta_min, beta_min + beta_d))

    @classmethod
    def sb_ve(cls, k: float = 2.6, c: float = 0.4) -> DiffusionBridge:
        """The Schroedinger bridge of speech enhancement: sigma^2 = c (k^{2t} - 1) / (2 log k), alpha = 1."""
        for name, value, least in (("k", k, 1), ("c", c, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"DiffusionBridge.sb_ve: {name} must be a number, got {value!r}")
            if not least < value < float("inf"):
                raise ValueError(f"DiffusionBridge.sb_ve: need {name} > {least}, finite, got {value!r}")
        low = float(np.sqrt(c / (2 * np.log(k))))
        return cls(VE(low, low * k, exact_variance=True))

    @property
    def t_min(self) -> float:
        return self.base.t_min

    @property
    def t_max(self) -> float:
        return self.base.t_max

    @property
    def t_zero(self) -> float:  # type: ignore[override]
        return self.base.t_zero

    @property
    def default_grid(self) -> str:  # type: ignore[override]
        return self.base.default_grid

    @property
    def train_steps(self) -> int | None:  # type: ignore[override]
        return self.base.train_steps

    def _end(self, t: Number) -> Node:
        return self.base.node(full_like(t, self.t_max))  # in t's kind, so that 1 - r is exactly 0 at T

    def _rest(self, t: Number) -> Number:
        """1 - r."""
        return 0 - expm1(2 * (self._end(t).lam - self.base.lam(t)))

    def _r(self, t: Number) -> Number:
        n, end = self.base.node(t), self._end(t)
        return (n.sigma * end.alpha / (n.alpha * end.sigma)) ** 2

    def _dr(self, t: Number) -> Number:
        """(sigma / alpha)^2 grows by g^2 / alpha^2."""
        n, end = self.base.node(t), self._end(t)
        return self.base.g2(t) * (end.alpha / (n.alpha * end.sigma)) ** 2

    def alpha(self, t: Number) -> Number:
        return self.base.alpha(t) * self._rest(t)

    def sigma(self, t: Number) -> Number:
        return self.base.sigma(t) * sqrt(self._rest(t))

    def offset(self, t: Number) -> Number:
        return self._r(t) * self.base.alpha(t) / self._end(t).alpha

    def dalpha(self, t: Number) -> Number:
        return self.base.dalpha(t) * self._rest(t) - self.base.alpha(t) * self._dr(t)

    def dsigma(self, t: Number) -> Number:
        root = sqrt(self._rest(t))
        return self.base.dsigma(t) * root - divide(self.base.sigma(t) * self._dr(t), 2 * root)

    def doffset(self, t: Number) -> Number:
        grown = self._dr(t) * self.base.alpha(t) + self._r(t) * self.base.dalpha(t)
        return grown / self._end(t).alpha

    def f(self, t: Number) -> Number:
        return self.base.f(t) - divide(self._dr(t), self._rest(t))

    def g2(self, t: Number) -> Number:
        return self.base.g2(t)

    def lam(self, t: Number) -> Number:
        return self.base.lam(t) + log(self._rest(t)) / 2

    def dlam(self, t: Number) -> Number:
        return self.base.dlam(t) - divide(self._dr(t), 2 * self._rest(t))

    def _time_of(self, lam: Any) -> Any:
        end = self.base.lam(float(self.t_max))
        t = np.minimum(self.base._time_of(np.logaddexp(2 * lam, 2 * end) / 2), self.t_max)
        return np.where(np.isneginf(lam), self.t_max, t)

    def model_index(self, t: Any, count: int) -> Any:
        return self.base.model_index(t, count)
