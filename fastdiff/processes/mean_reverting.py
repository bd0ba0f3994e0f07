"""Mean reversion: the data decay towards a given tensor mu (a degraded picture) while noise comes in, t in
[0, 1].

    dx = theta(t) (mu - x) dt + s_inf sqrt(2 theta(t)) dw
    x_t - mu = alpha (x_0 - mu) + sigma xi      alpha = e^{-Theta}      sigma = s_inf sqrt(1 - e^{-2 Theta})
    Theta(t) = int_0^t theta,                   Theta(1) = -log eps

So the offset is (1 - alpha) mu, and x - mu is a variance preserving process (times s_inf) of B = 2 Theta.

    schedule "const"    theta = 1             times what makes Theta(1) = -log eps
             "linear"   theta = 1e-4 + t (0.02 - 1e-4)
             "cosine"   theta = 1 - cos^2 u / cos^2 u_0,      u = (pi / 2) (t + 0.008) / 1.008

steps=N is the published discrete process: theta_1 .. theta_N summed up, Theta linear in t between the knots
i / N. The prior is N(mu, s_inf^2); that alpha(1) x_0 is left out of it is the authors' choice.

`MeanReverting.denoising()` is the process by which the same authors take noise off a picture: it reverts to
the data themselves, so that x_t = x_0 + sigma xi with the sigma above, and there is no mu.
Source: Luo et al. 2023, arXiv:2301.11699; solvers: Li et al. 2025, arXiv:2502.07856.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..core.errors import unknown
from ..core.math import Number, cos, divide, exp, expm1, full_like, lift, log, pi_like, sin, sinpi, sqrt
from ..core.number import Real
from ..core.options import check_numbers, require
from ..core.process import Process

START, END, SHIFT = 1e-4, 0.02, 0.008  # of theta, "linear"; of u, "cosine"


@dataclass(frozen=True)
class MeanReverting(Process):
    """s_inf is the noise that is left when all data are gone; eps is what is left of them at t = 1."""

    key = "mean-reverting"
    const = "mu"
    t_max = 1.0

    s_inf: float = 1.0
    schedule: str = "cosine"
    eps: float = 0.005
    steps: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "s_inf", "eps")
        require(self, self.s_inf > 0, "s_inf > 0", "s_inf")
        require(self, 0 < self.eps < 1, "0 < eps < 1", "eps")
        if self.schedule not in SHAPES:
            raise unknown("schedule", self.schedule, SHAPES)
        if self.steps is not None and (type(self.steps) is not int or self.steps < 2):
            raise ValueError(f"MeanReverting: steps must be an int of at least 2, got {self.steps!r}")

    @classmethod
    def irsde(cls, max_sigma: float = 50.0, schedule: str = "cosine", steps: int = 100) -> MeanReverting:
        """IR-SDE as published: max_sigma in grey levels of 255. Its network is given the step i = 1 .. steps,
        which is one more than time=("index", steps) gives."""
        return cls(max_sigma / 255, schedule, steps=steps)

    @staticmethod
    def denoising(
        max_sigma: float = 50.0, schedule: str = "cosine", steps: int = 100, eps: float = 0.04
    ) -> DenoisingSDE:
        """The published DenoisingSDE. Start it from the noisy picture x at the time whose sigma is the
        picture's own: fd.sample(denoiser, x, times=...)."""
        return DenoisingSDE(max_sigma / 255, schedule, eps, steps)

    @property
    def t_min(self) -> float:
        return 1e-3 if self.steps is None else 1 / self.steps

    @property
    def train_steps(self) -> int | None:  # type: ignore[override]
        return self.steps

    @cached_property
    def _table(self) -> SimpleNamespace:
        """Theta at the knots i / steps, up to its scale."""
        N = self.steps
        assert N is not None
        if self.schedule == "cosine":
            angle = (np.arange(1, N + 2) / (N + 2) + SHIFT) / (1 + SHIFT) * (np.pi / 2)
            first = SHIFT / (1 + SHIFT) * (np.pi / 2)
            theta = np.sin(angle + first) * np.sin(angle - first) / np.cos(first) ** 2
        else:
            theta = np.linspace(START, END, N + 1) if self.schedule == "linear" else np.ones(N + 1)
        slope = theta[1:] * N / theta[1:].sum()  # theta_0 is left out, as in the published code
        return SimpleNamespace(slope=slope, value=np.append(0.0, np.cumsum(slope) / N))

    def _knot(self, t: Number) -> Any:
        """The segment of t."""
        assert self.steps is not None
        if hasattr(t, "detach"):
            t = t.detach().cpu().double().numpy()
        t = t if isinstance(t, np.ndarray) and t.ndim else float(t)
        return np.clip(np.ceil(t * np.float64(self.steps)).astype(int) - 1, 0, self.steps - 1)

    def _take(self, values: np.ndarray, j: Any, t: Number) -> Number:
        if hasattr(t, "new_tensor"):
            return t.new_tensor(values[j])
        return values[j] if np.ndim(j) else float(values[j])

    def _rate(self, t: Number) -> Number:
        """-log eps at the precision of t."""
        return -log(lift(self.eps, t))

    def theta(self, t: Number) -> Number:
        if self.steps is None:
            return self._rate(t) * SHAPES[self.schedule][1](t)
        return self._rate(t) * self._take(self._table.slope, self._knot(t), t) + full_like(t, 0.0)

    def Theta(self, t: Number) -> Number:
        """The integral of theta from 0 to t."""
        if self.steps is None:
            return self._rate(t) * SHAPES[self.schedule][0](t)
        j, table = self._knot(t), self._table
        left = full_like(t, 1.0) * self._take(np.arange(self.steps), j, t) / self.steps
        return self._rate(t) * (self._take(table.value, j, t) + (t - left) * self._take(table.slope, j, t))

    def alpha(self, t: Number) -> Number:
        return exp(-self.Theta(t))

    def sigma(self, t: Number) -> Number:
        return self.s_inf * sqrt(-expm1(-2 * self.Theta(t)))

    def offset(self, t: Number) -> Number:
        return -expm1(-self.Theta(t))

    def dalpha(self, t: Number) -> Number:
        return -self.theta(t) * self.alpha(t)

    def doffset(self, t: Number) -> Number:
        return self.theta(t) * self.alpha(t)

    def dsigma(self, t: Number) -> Number:
        return divide(self.g2(t) * exp(-2 * self.Theta(t)), 2 * self.sigma(t))

    def f(self, t: Number) -> Number:
        return -self.theta(t)

    def g2(self, t: Number) -> Number:
        return 2 * self.theta(t) * self.s_inf * self.s_inf  # the product of two floats would be rounded

    def dlam(self, t: Number) -> Number:
        return divide(self.theta(t), expm1(-2 * self.Theta(t)))

    def lam(self, t: Number) -> Number:
        return -self.Theta(t) - log(self.sigma(t))

    def _time_of(self, lam: Any) -> Any:
        # sigma / (alpha s_inf) = sqrt(e^{2 Theta} - 1)
        return self._time_at(np.logaddexp(0.0, -2 * (lam + np.log(self.s_inf))) / 2)

    def _time_at(self, Theta: Any) -> Any:
        Theta = Theta / -np.log(self.eps)
        if self.steps is None:
            return _inverse(self.schedule, Theta)
        table = self._table
        j = np.clip(np.searchsorted(table.value, Theta) - 1, 0, self.steps - 1)
        return j / self.steps + (Theta - table.value[j]) / table.slope[j]

    def prior_std(self, t: float) -> float:
        return float(self.s_inf)


@dataclass(frozen=True)
class DenoisingSDE(MeanReverting):
    """dx = theta (x_0 - x) dt + s_inf sqrt(2 theta) dw, whose law is that of a process with alpha = 1."""

    const = None

    def alpha(self, t: Number) -> Number:
        return full_like(t, 1.0)

    def dalpha(self, t: Number) -> Number:
        return full_like(t, 0.0)

    def dsigma(self, t: Number) -> Number:
        return divide(self.g2(t), 2 * self.sigma(t))

    def f(self, t: Number) -> Number:
        return full_like(t, 0.0)

    def g2(self, t: Number) -> Number:
        return super().g2(t) * exp(-2 * self.Theta(t))

    def dlam(self, t: Number) -> Number:
        return -divide(self.theta(t), expm1(2 * self.Theta(t)))

    def lam(self, t: Number) -> Number:
        return -log(self.sigma(t))

    def _time_of(self, lam: Any) -> Any:
        share = np.exp(-2 * (lam + np.log(self.s_inf)))  # of the variance at t = inf
        t = self._time_at(-np.log1p(-np.where(share < 1, share, 0.0)) / 2)
        return np.where(share < 1, t, np.inf)

    def prior_std(self, t: float) -> float:
        return float(self.sigma(float(t)))


def _line(t: Number) -> Number:
    return t * START + t * t * (lift(END, t) - START) / 2


def _linear(t: Number) -> Number:
    return _line(t) / _line(full_like(t, 1.0))


def _dlinear(t: Number) -> Number:
    return (START + t * (lift(END, t) - START)) / _line(full_like(t, 1.0))


def _arch(t: Number) -> Number:
    """int_0^v sin(w) sin(w + 2 u_0) dw over v = u - u_0, a sum of positive terms."""
    width = 2 * (lift(1.0, t) + SHIFT)
    angle, v = SHIFT / width * 2, pi_like(t) / width * t  # 2 u_0 / pi
    return sinpi(0.5 - angle) * _x_minus_sin(2 * v) / 4 + sinpi(angle) * sin(v) ** 2 / 2


def _cosine(t: Number) -> Number:
    return _arch(t) / _arch(full_like(t, 1.0))


def _dcosine(t: Number) -> Number:
    width = 2 * (lift(1.0, t) + SHIFT)
    angle, v = pi_like(t) * (SHIFT / width * 2), pi_like(t) / width * t
    product = sin(v) * (sin(v) * cos(angle) + cos(v) * sin(angle))
    return product * (pi_like(t) / width) / _arch(full_like(t, 1.0))


def _x_minus_sin(x: Number) -> Number:
    """x - sin x for |x| < 4, by its series: the difference has no digits at small x."""
    terms, total, square = 36 if isinstance(x, Real) else 16, full_like(x, 1.0), x * x
    for n in range(terms, 0, -1):
        total = 1 - total * square / ((2 * n + 2) * (2 * n + 3))
    return total * x * square / 6


def _one(t: Number) -> Number:
    return full_like(t, 1.0)


# Theta and theta, both for Theta(1) = 1
SHAPES = {"const": (lambda t: t, _one), "linear": (_linear, _dlinear), "cosine": (_cosine, _dcosine)}


def _inverse(schedule: str, Theta: Any) -> Any:
    if schedule == "const":
        return Theta
    if schedule == "linear":
        Theta = Theta * (START + END) / 2
        return 2 * Theta / (START + np.sqrt(START**2 + 2 * (END - START) * Theta))
    # Newton's steps on log Theta over log t, whose slope runs from 1 to 3
    Theta = np.asarray(Theta, dtype=np.float64)
    t = np.clip(Theta, 1e-280, 1.9) ** 0.45
    wanted = np.maximum(Theta, 1e-300)
    for _ in range(12):
        value = _cosine(t)
        t = np.clip(t * np.exp(np.log(wanted / value) * value / (t * _dcosine(t))), 1e-140, 1.9)
    return np.where(Theta == 0, 0.0, t)
