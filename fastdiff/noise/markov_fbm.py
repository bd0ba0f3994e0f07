"""MarkovFBM: fractional Brownian motion as a weighted sum of Ornstein-Uhlenbeck processes on one Wiener path.

    dY_k = -g_k Y_k dt + dW,   k = 1 .. K             the same W for all: (Y_1 .. Y_K) is Markov
    kind "II"   sum_k w_k Y_k(t),  Y_k(0) = 0         ~  1/Gamma(a) int_0^t (t-s)^{a-1} dW,  a = H + 1/2
    kind "I"    sum_k w_k (Y_k(t) - Y_k(0))           ~  1/Gamma(a) int ((t-s)_+^{a-1} - (-s)_+^{a-1}) dW
                with Y(0) stationary, covariance 1 / (g_i + g_j): stationary increments

The rates g_k are geometric and the weights minimise int_0^T E|B - sum|^2 dt: A w = b, both in closed form.
At H = 1/2 both kinds are Brownian motion, which one register of rate 0 is exactly; that is what is used then.
A larger K over a wider span buys accuracy: `defect` says how much is missing.

Source: Daems, Opper, Crevecoeur & Birdal 2023, arXiv:2310.12975.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from . import streams
from .families import normal
from .gaussian_field import DTYPES, positive
from .seeds import SeedsLike

RIDGE = 1e-12  # of the mean diagonal, only where Cholesky fails without
DROPPED = 1e-14  # pivots of a correlation matrix below it are rounding


@dataclass(frozen=True)
class MarkovFBM:
    """Paths: `fbm((B, L, *), seeds, times)`; for an SDE of your own: `rates`, `weights`, `transition(h)`.

    hurst          H in (0, 1)
    terms          K, how many registers
    horizon        T: the weights are for times 0 .. T
    kind           "II" (starts at 0, no past) or "I" (stationary increments)
    span           slowest and fastest rate, times T. Rough paths (H < 1/2) want a faster one, long memory
                   (kind "I", H > 1/2) a slower one
    unit_variance  weights over the exact process' standard deviation at t = 1: variance t^{2H}
    """

    hurst: float
    terms: int = 5
    horizon: float = 1.0
    kind: Literal["I", "II"] = "II"
    span: tuple[float, float] = (0.05, 20.0)
    unit_variance: bool = False

    def __post_init__(self) -> None:
        positive("MarkovFBM", hurst=self.hurst, horizon=self.horizon)
        if not self.hurst < 1:
            raise ValueError(f"MarkovFBM: hurst is {self.hurst!r}; a number in (0, 1) is allowed")
        if type(self.terms) is not int or self.terms < 1:
            raise ValueError(f"MarkovFBM: terms is {self.terms!r}; an int of at least 1 is allowed")
        if self.kind not in ("I", "II"):
            raise ValueError(f'MarkovFBM: kind is {self.kind!r}; "I" or "II" is allowed')
        if not isinstance(self.span, (tuple, list)) or len(self.span) != 2:
            raise ValueError(f"MarkovFBM: span is {self.span!r}; (slowest, fastest) is allowed")
        positive("MarkovFBM", slowest=self.span[0], fastest=self.span[1])
        if not self.span[0] <= self.span[1]:
            raise ValueError(f"MarkovFBM: span is {self.span!r}; slowest <= fastest is allowed")

    @cached_property
    def rates(self) -> np.ndarray:
        """g (K,) float64, slowest first; a single 0 for H = 1/2."""
        if self.hurst == 0.5:
            return np.zeros(1)
        slowest, fastest = self.span
        g = np.geomspace(slowest, fastest, self.terms) if self.terms > 1 else np.sqrt([slowest * fastest])
        return g / self.horizon

    @cached_property
    def _fit(self) -> tuple[np.ndarray, float]:
        if self.hurst == 0.5:
            return np.ones(1), 0.0
        return optimal_weights(self.hurst, self.rates, self.horizon, self.kind)

    @cached_property
    def weights(self) -> np.ndarray:
        """w (K,) float64."""
        w = self._fit[0]
        return w / math.sqrt(exact_variance(self.hurst, self.kind)) if self.unit_variance else w

    @property
    def defect(self) -> float:
        """int_0^T E|B - sum|^2 dt over int_0^T E B^2 dt."""
        return self._fit[1]

    def variance(self, t: float) -> float:
        """E B(t)^2 of the exact process: what the sum approximates."""
        return (1.0 if self.unit_variance else exact_variance(self.hurst, self.kind)) * t ** (2 * self.hurst)

    def covariance(self, s: float, t: float) -> float:
        """E of the sum at s times the sum at t, exactly: the law of the paths."""
        s, t = min(s, t), max(s, t)
        g, w = self.rates, self.weights
        if g[0] == 0:
            return float(w[0] ** 2 * s)
        if self.kind == "II":  # register i at s, register j at t
            c = -np.expm1(-(g[:, None] + g) * s) * np.exp(-g[None] * (t - s))
        else:
            c = np.expm1(-g[None] * (t - s)) - np.expm1(-g[:, None] * s) - np.expm1(-g[None] * t)
        return float(w @ (c / (g[:, None] + g)) @ w)

    def transition(self, h: float) -> tuple[np.ndarray, np.ndarray]:
        """(d (K,), L (K, K)): Y(t + h) = d Y(t) + L xi in law, exactly, xi (K,) standard normals.

        L has columns of zeros where the registers, nearly one over a short step, have a lower rank.
        """
        decay, lower = self._transitions(np.array([h]))
        return decay[0], lower[0]

    def _transitions(self, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All steps at once: (L, K), (L, K, K)."""
        g, h = self.rates, h[:, None, None]
        total = g[:, None] + g
        c = np.where(total > 0, -np.expm1(-total * h) / np.where(total > 0, total, 1), h)
        return np.exp(-g * h[:, 0]), _pivoted_cholesky(c)

    def __call__(
        self,
        shape: Sequence[int],
        seeds: SeedsLike,
        times: Sequence[float] | np.ndarray | Tensor,
        *,
        stream: int = streams.USER,
        draw: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        backend: str | None = None,
    ) -> Tensor:
        """Paths (B, L, *) at L times in [0, T], float64 inside; the other arguments are those of `normal`.

        Normal k of step l is element (l, k, *) of the sample: further times leave earlier values as they are.
        """
        t = self._times(times)
        if not isinstance(shape, (list, tuple)) or len(shape) < 2 or shape[1] != len(t):
            raise ValueError(f"MarkovFBM: shape is {shape!r}; (B, {len(t)}, *) is allowed for {len(t)} times")
        dtype = dtype or torch.get_default_dtype()
        if dtype not in DTYPES:
            raise ValueError(f"MarkovFBM: dtype is {dtype}; float16, bfloat16, float32 or float64 is allowed")
        g, w = self.rates, self.weights
        past = int(self.kind == "I" and g[0] > 0)
        rows = (shape[0], len(t) + past, len(g), *shape[2:])
        z = normal(rows, seeds, stream=stream, draw=draw, dtype=torch.float64, device=device, backend=backend)
        z = z.movedim(0, 2)  # (step, K, B, *)
        y = start = torch.zeros_like(z[0])
        if past:
            y = start = _mix(_pivoted_cholesky(1 / (g[None, :, None] + g)), z[:1])[0]
        decay, lower = self._transitions(np.diff(t, prepend=0.0))
        registers, decays = _mix(lower, z[past:]), _table(decay, z)
        for i in range(len(t)):
            registers[i] += decays[i] * y
            y = registers[i]
        total = _mix(w[None, None], registers - start)[:, 0]
        return total.movedim(0, 1).contiguous().to(dtype)

    def _times(self, times: Sequence[float] | np.ndarray | Tensor) -> np.ndarray:
        t = np.asarray(
            times.detach().double().cpu() if isinstance(times, Tensor) else times, dtype=np.float64
        )
        if t.ndim != 1 or not t.size or not np.isfinite(t).all() or t[0] < 0 or (np.diff(t) < 0).any():
            raise ValueError("MarkovFBM: times must be finite, one or more, from 0 on and never decreasing")
        if t[-1] > self.horizon * (1 + 1e-12):
            raise ValueError(
                f"MarkovFBM: times go to {t[-1]}; the weights are for 0 .. {self.horizon} (horizon)"
            )
        return t


def optimal_weights(
    hurst: float, rates: np.ndarray, horizon: float, kind: Literal["I", "II"]
) -> tuple[np.ndarray, float]:
    """(w, defect): the solution of A w = b, and int_0^T E|B - sum|^2 / int_0^T E B^2."""
    a, T = hurst + 0.5, horizon
    x = np.asarray(rates, dtype=np.float64) * T
    if kind == "II":
        A = T**2 * _phi2(x[:, None] + x)
        b = T ** (1 + a) * _b_without_past(a, x)
    else:
        A = T**2 * (x * _phi2(x) + (x * _phi2(x))[:, None]) / (x[:, None] + x)
        b = T ** (1 + a) * _b_with_past(a, x)
    total = exact_variance(hurst, kind) * T ** (2 * hurst + 1) / (2 * hurst + 1)
    try:
        lower = np.linalg.cholesky(A)
    except np.linalg.LinAlgError:
        lower = np.linalg.cholesky(A + RIDGE * A.diagonal().mean() * np.eye(len(x)))
    w = np.linalg.solve(lower.T, np.linalg.solve(lower, b))
    return w, float(1 - (2 * b @ w - w @ A @ w) / total)  # right after a ridge too


def exact_variance(hurst: float, kind: Literal["I", "II"]) -> float:
    """E B(1)^2 of the exact process; 1 at H = 1/2."""
    if kind == "II":
        return 1 / (2 * hurst * math.gamma(hurst + 0.5) ** 2)
    # Gamma(1 - 2H) cos(pi H) / (pi H), its pole at H = 1/2 cancelled
    return math.gamma(2 - 2 * hurst) * float(np.sinc(0.5 - hurst)) / (2 * hurst)


def _phi2(x: np.ndarray) -> np.ndarray:
    """(e^{-x} - 1 + x) / x^2."""
    small = x < 0.5
    safe = np.where(small, 1.0, x)
    series = sum((-x) ** n / math.factorial(n + 2) for n in range(14))
    return np.where(small, series, (np.expm1(-safe) + safe) / safe**2)


def _gammainc(a: float, x: np.ndarray, upper: bool = False) -> np.ndarray:
    """Regularised incomplete gamma functions P and Q."""
    f = torch.special.gammaincc if upper else torch.special.gammainc
    at = torch.from_numpy(x)
    return f(torch.full_like(at, a), at).numpy()


def _b_without_past(a: float, x: np.ndarray) -> np.ndarray:
    """b of kind II for T = 1: x^{-a} (P(a, x) - (a / x) P(a + 1, x))."""
    return x**-a * (_gammainc(a, x) - a / x * _gammainc(a + 1, x))


def _b_with_past(a: float, x: np.ndarray) -> np.ndarray:
    """b of kind I for T = 1: x^{-a} (2 - (e^x Q(a, x) - e^{-x}) / x - x^{a-1} / Gamma(a + 1)).

    For small x its terms cancel to x^a / Gamma(a + 2): there the series of e^x P(a, x) and of sinh x.
    """
    small, large = x < 2, x > 50
    u = np.where(small, x, 1.0)
    series = sum(u ** (n - 1) / math.gamma(a + n + 1) for n in range(1, 40))
    series = series - 2 * u**-a * sum(u ** (2 * n) / math.factorial(2 * n + 1) for n in range(1, 20))
    v = np.where(small, 2.0, x)
    middle = np.where(large, 1.0, v)
    scaled = np.exp(middle) * _gammainc(a, middle, upper=True)
    term, tail = np.ones_like(v), np.ones_like(v)  # e^x Q(a, x) = x^{a-1} / Gamma(a) (1 + (a-1)/x + ...)
    for n in range(1, 21):
        term = term * (a - n) / np.where(large, v, np.inf)
        tail = tail + term
    scaled = np.where(large, v ** (a - 1) / math.gamma(a) * tail, scaled)
    return np.where(small, series, v**-a * (2 - (scaled - np.exp(-v)) / v - v ** (a - 1) / math.gamma(a + 1)))


def _pivoted_cholesky(c: np.ndarray) -> np.ndarray:
    """L, L L^T = c, of n covariances (n, K, K) that may be singular: pivots of rounding are left out."""
    std = np.sqrt(c.diagonal(axis1=1, axis2=2))
    scale = np.where(std > 0, std, 1)
    rest = c / (scale[:, :, None] * scale[:, None])
    lower, each = np.zeros_like(c), np.arange(len(c))
    for j in range(c.shape[1]):
        p = rest.diagonal(axis1=1, axis2=2).argmax(1)
        pivot = rest[each, p, p]
        column = rest[each, :, p] / np.sqrt(np.where(pivot > DROPPED, pivot, np.inf))[:, None]
        lower[:, :, j] = column
        rest = rest - column[:, :, None] * column[:, None]
    return std[:, :, None] * lower


def _table(values: np.ndarray, like: Tensor) -> Tensor:
    """On the device, with dimensions of 1 up to those of `like`."""
    t = torch.from_numpy(np.ascontiguousarray(values)).to(like.device)
    return t.view(*t.shape, *(1,) * (like.dim() - t.dim()))


def _mix(matrices: np.ndarray, z: Tensor) -> Tensor:
    """matrices (L or 1, m, K) times z (L, K, *), column by column: in one order whatever the batch."""
    y = _table(matrices[:, :, 0], z) * z[:, :1]
    for j in range(1, z.shape[1]):
        y = y + _table(matrices[:, :, j], z) * z[:, j : j + 1]
    return y
