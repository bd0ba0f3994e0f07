"""The discrete process of DDPM made continuous: abar_n = prod (1 - beta_n) stands at t_n = (n + 1) / N, n =
0 .. N - 1.

    alpha(t_n)^2 = abar_n          sigma^2 = 1 - alpha^2          alpha(0) = 1

Between the knots log alpha is linear in t ("log_alpha"; DPM-Solver), or log(sigma / alpha) is ("log_rho";
k-diffusion). Two segments are always the same: from t = 0 to the first knot log alpha is linear (log rho
would start at -inf), and towards a last abar of exactly 0 (zero terminal SNR) alpha itself is.
Source: Ho et al. 2020, arXiv:2006.11239; clock: Lu et al. 2022, arXiv:2206.00927.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np

from ..core.errors import unknown
from ..core.math import Number, exp, expm1, full_like, log, log1p, sqrt
from . import _betas
from ._variance_preserving import VariancePreserving

INTERPOLATIONS = ("log_alpha", "log_rho")
LOG_ALPHA, LOG_RHO, ALPHA = 0, 1, 2  # what is linear on a segment


def _batched(t: Number) -> bool:
    """A tensor of several times that wants no derivative."""
    return hasattr(t, "unsqueeze") and t.ndim > 0 and not t.requires_grad


@dataclass(frozen=True, repr=False)
class DiscreteVP(VariancePreserving):
    """Give `alphas_cumprod`, or `betas` (a row, or "linear", "scaled-linear", "cosine": 1000 steps), which
    are turned into it; neither means betas="linear". `indices` are the step numbers the network knows, of a
    respaced process."""

    key = "discrete-vp"
    default_grid = "trailing"
    t_max = 1.0

    alphas_cumprod: Any = None
    betas: Any = None
    interpolate: str = "log_alpha"
    indices: Any = None

    def __post_init__(self) -> None:
        if self.alphas_cumprod is not None and self.betas is not None:
            raise ValueError("DiscreteVP: give alphas_cumprod or betas, not both")
        if self.interpolate not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolate, INTERPOLATIONS)
        given = self.alphas_cumprod
        abar = self._from_betas() if given is None else _betas.row("alphas_cumprod", given)
        if not (0 <= abar[-1] and abar[0] < 1 and (np.diff(abar) < 0).all()):
            raise ValueError(
                "DiscreteVP: alphas_cumprod must fall strictly within [0, 1), "
                f"got {abar[0]:g} .. {abar[-1]:g}"
            )
        object.__setattr__(self, "alphas_cumprod", tuple(abar.tolist()))
        object.__setattr__(self, "betas", None)
        if self.indices is not None:
            object.__setattr__(self, "indices", tuple(int(n) for n in self.indices))
            if len(self.indices) != len(abar):
                raise ValueError(f"DiscreteVP: {len(self.indices)} indices for {len(abar)} steps")

    def _from_betas(self) -> np.ndarray:
        betas = "linear" if self.betas is None else self.betas
        if isinstance(betas, str):
            if betas not in _betas.NAMED:
                raise unknown("betas", betas, _betas.NAMED)
            betas = _betas.NAMED[betas]()
        betas = _betas.row("betas", betas)
        if not ((0 < betas) & (betas <= 1)).all():
            raise ValueError(f"DiscreteVP: betas must lie in (0, 1], got {betas.min():g} .. {betas.max():g}")
        with np.errstate(divide="ignore"):
            return np.exp(np.cumsum(np.log1p(-betas)))

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2) -> DiscreteVP:
        """DDPM's betas."""
        return cls(betas=_betas.linear(steps, beta_start, beta_end))

    @classmethod
    def scaled_linear(
        cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> DiscreteVP:
        """Stable Diffusion's betas: their roots are evenly spaced."""
        return cls(betas=_betas.scaled_linear(steps, beta_start, beta_end))

    @classmethod
    def cosine(cls, steps: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> DiscreteVP:
        """The cosine schedule of improved DDPM."""
        return cls(betas=_betas.cosine(steps, s, beta_max))

    def respace(self, sections: int | str | Sequence[int]) -> DiscreteVP:
        """A process of fewer steps: K, "ddimK", or one count per equal section as "10,15,20" or a list.

        The network still receives the original step numbers, which `model_index` gives.
        """
        kept = _betas.kept_steps(self.train_steps, sections)
        abar, known = self.alphas_cumprod, self.indices or range(self.train_steps)
        return DiscreteVP([abar[n] for n in kept], None, self.interpolate, [known[n] for n in kept])

    @property
    def train_steps(self) -> int:  # type: ignore[override]
        return len(self.alphas_cumprod)

    @property
    def t_min(self) -> float:
        return 1 / self.train_steps

    @cached_property
    def _table(self) -> SimpleNamespace:
        """Per segment (t_j, t_{j+1}]: what is linear there, its slope, and the point it is measured from."""
        abar, N = np.array(self.alphas_cumprod), self.train_steps
        t = np.arange(N + 1) / N
        with np.errstate(divide="ignore", invalid="ignore"):
            log_alpha = np.append(0.0, np.log(abar) / 2)
            value, slope = log_alpha[1:].copy(), np.diff(log_alpha) * N
            anchor, kind = t[1:].copy(), np.zeros(N, dtype=int)  # the right end, where the knot must be exact
            if self.interpolate == "log_rho":
                log_rho = (np.log1p(-abar) - np.log(abar)) / 2
                value[1:], slope[1:], kind[1:] = log_rho[1:], np.diff(log_rho) * N, LOG_RHO
        anchor[0], value[0] = 0.0, 0.0  # but from t = 0 the left end, to keep small t accurate
        if abar[-1] == 0:
            anchor[-1], value[-1], slope[-1], kind[-1] = 1.0, 0.0, -np.sqrt(abar[-2]) * N, ALPHA
        return SimpleNamespace(t=t, log_alpha=log_alpha, anchor=anchor, value=value, slope=slope, kind=kind)

    @cached_property
    def _known(self) -> dict[tuple[str, Any, Any], Any]:
        """The table's columns as tensors: one for each device and dtype."""
        return {}

    def _on(self, name: str, t: Any) -> Any:
        key = name, t.dtype, t.device
        if key not in self._known:
            self._known[key] = t.new_tensor(getattr(self._table, name))
        return self._known[key]

    def _segment(self, t: Number) -> Any:
        if _batched(t):  # on its device, without a wait
            return ((t.unsqueeze(-1) > self._on("t", t)).sum(-1) - 1).clamp(0, self.train_steps - 1)
        if hasattr(t, "detach"):
            t = t.detach().cpu().double().numpy()
        t = t if isinstance(t, np.ndarray) and t.ndim else float(t)
        return np.clip(np.searchsorted(self._table.t, t) - 1, 0, self.train_steps - 1)

    def _take(self, name: str, j: Any, t: Number) -> Number:
        if _batched(t):
            return self._on(name, t)[j]
        values = getattr(self._table, name)[j]
        if hasattr(t, "new_tensor"):
            return t.new_tensor(values)
        return values if np.ndim(values) else float(values)

    def _by_kind(self, j: Any, t: Number, *formulas: Callable[[], Number]) -> Number:
        if _batched(t):
            kinds, kind = np.unique(self._table.kind), self._on("kind", t)[j]
            y = formulas[kinds[0]]()
            for k in kinds[1:]:
                y = formulas[k]().where(kind == int(k), y)
            return y
        kind = self._table.kind[j]
        if not np.ndim(kind):
            return formulas[int(kind)]()
        kinds = np.unique(kind)
        y = formulas[kinds[0]]()
        for k in kinds[1:]:
            other = formulas[k]()
            if isinstance(y, np.ndarray):
                y = np.where(kind == k, other, y)
            else:
                y = other.where(other.new_tensor(kind) == k, y)
        return y

    def log_alpha(self, t: Number) -> Number:
        j = self._segment(t)
        line = self._take("value", j, t) + (t - self._take("anchor", j, t)) * self._take("slope", j, t)
        return self._by_kind(j, t, lambda: line, lambda: -log1p(exp(2 * line)) / 2, lambda: log(line))

    def alpha(self, t: Number) -> Number:
        return exp(self.log_alpha(t))

    def sigma(self, t: Number) -> Number:
        return sqrt(0 - expm1(2 * self.log_alpha(t)))

    def lam(self, t: Number) -> Number:
        return self.log_alpha(t) - log(self.sigma(t))

    def dalpha(self, t: Number) -> Number:
        j = self._segment(t)
        slope = self._take("slope", j, t)
        return self._by_kind(
            j,
            t,
            lambda: self.alpha(t) * slope,
            lambda: -self.alpha(t) * self.sigma(t) ** 2 * slope,
            lambda: full_like(t, 1.0) * slope,
        )

    def _time_of(self, lam: Any) -> Any:
        table = self._table
        log_alpha = -np.logaddexp(0.0, -2 * lam) / 2
        j = np.clip(np.searchsorted(-table.log_alpha, -log_alpha) - 1, 0, self.train_steps - 1)
        line = np.choose(table.kind[j], [log_alpha, -lam, np.exp(log_alpha)])
        return table.anchor[j] + (line - table.value[j]) / table.slope[j]

    def model_index(self, t: Any, count: int) -> Any:
        """The step number as a float; of a respaced process the original one, whatever `count`."""
        if self.indices is None:
            return super().model_index(t, count)
        where = t.detach().cpu() if hasattr(t, "detach") else t
        index = np.interp(np.asarray(where, dtype=np.float64), self._table.t, np.append(-1.0, self.indices))
        return t.new_tensor(index) if hasattr(t, "detach") else index

    def __repr__(self) -> str:
        respaced = "" if self.indices is None else f", respaced to {self.indices[0]} .. {self.indices[-1]}"
        table = crc32(np.array(self.alphas_cumprod).tobytes())  # plans know their process by what it prints
        return (
            f"DiscreteVP({self.train_steps} steps, alphas_cumprod {self.alphas_cumprod[0]:.6g} .. "
            f"{self.alphas_cumprod[-1]:.6g} (crc {table:08x}), "
            f"interpolate={self.interpolate!r}{respaced})"
        )
