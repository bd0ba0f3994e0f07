"""Any linear SDE of K registers z = (x, ...), each of the shape of the data, t in [0, 1].

    dz = beta(t) F z dt + sqrt(beta(t)) G dw          beta(t) = beta_min + t (beta_max - beta_min)

F and G are K x K and K x R numbers, or functions of t that give them (then beta stays 1 and the motion is
found by fourth-order Magnus steps). `from_dqh` makes them of any stationary law; K = 1 with F = -1/2, G = 1
is `VP`.

Source: Singhal et al. 2023, arXiv:2302.07261; spatial: Du et al. 2023, arXiv:2206.10365.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..core.gaussian_path import Motion, stationary, varying
from ..core.linear import Change
from ..core.math import Number
from ..core.matrix import Matrix
from ..core.options import require
from ._phase_space import PhaseSpace, auxiliaries, from_dqh

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LinearSDE(PhaseSpace):
    """drift, noise  F and G, numbers or functions of t
    start         variance of each register at t = 0 given the data (0 for x)
    prior         covariance at t_max, or the registers' variances; None: the stationary one
    registers     names, the data first; by default x, v or x, v1, v2, ...
    """

    key = "linear-sde"

    drift: Table | Callable[[float], Any] = ((-0.5,),)
    noise: Table | Callable[[float], Any] = ((1.0,),)
    start: tuple[float, ...] | None = None
    prior: Table | None = None
    registers: tuple[str, ...] = ()
    beta_min: float = 1.0
    beta_max: float = 1.0

    def __post_init__(self) -> None:
        require(self, callable(self.drift) == callable(self.noise), "drift and noise both numbers or both "
                "functions of t", "drift", "noise")  # fmt: skip
        for name in ("drift", "noise") if not self.varies else ():
            object.__setattr__(self, name, _table(name, getattr(self, name)))
        super().__post_init__()
        if self.varies:
            require(self, self.beta_min == self.beta_max == 1, "beta = 1 where F and G are functions of t",
                    "beta_min", "beta_max")  # fmt: skip
        F, G = self._at(self.t_max)
        K = len(F)
        if F.shape != (K, K) or G.ndim != 2 or len(G) != K:
            raise ValueError(f"LinearSDE: drift must be K x K and noise K x R, got {F.shape} and {G.shape}")
        if not self.registers:
            object.__setattr__(self, "registers", auxiliaries(K))
        names = self.registers
        if len(names) != K or len(set(names)) != K or not all(isinstance(n, str) for n in names):
            raise ValueError(f"LinearSDE: registers must be {K} names, got {names!r}")
        object.__setattr__(self, "registers", tuple(names))
        start = np.array((0.0,) * K if self.start is None else self.start, dtype=np.float64)
        if start.shape != (K,) or (start < 0).any():
            raise ValueError(f"LinearSDE: start must be {K} variances, got {self.start!r}")
        object.__setattr__(self, "start", tuple(start.tolist()))
        if self.prior is not None:
            rest = np.array(self.prior, dtype=np.float64)
            rest = np.diag(rest) if rest.ndim == 1 else rest
            right = rest.shape == (K, K) and np.allclose(rest, rest.T) and np.linalg.eigvalsh(rest).min() > 0
            if not right:
                raise ValueError(
                    f"LinearSDE: prior must be {K} variances or a covariance, got {self.prior!r}"
                )
            object.__setattr__(self, "prior", tuple(map(tuple, rest.tolist())))
        elif self.varies or stationary(F, G @ G.T) is None:
            raise ValueError(
                "LinearSDE: this drift leaves no law at rest; give prior=, the covariance at t_max"
            )

    @classmethod
    def from_dqh(cls, D: Any, Q: Any, H: Any, **options: Any) -> LinearSDE:
        """dz = -beta (D + Q) H z dt + sqrt(2 beta D) dw, with N(0, H^{-1}) at rest. D: positive semidefinite,
        Q: antisymmetric, H: positive definite; D and H may be diagonals."""
        d, q, h = (np.array(m, dtype=np.float64) for m in (D, Q, H))
        d, h = (np.diag(m) if m.ndim == 1 else m for m in (d, h))
        if not (d.shape == q.shape == h.shape) or not np.allclose(q, -q.T):
            raise ValueError(f"from_dqh: D, Q and H must be K x K, Q antisymmetric; got Q = {q.tolist()}")
        if (
            not np.allclose(d, d.T)
            or np.linalg.eigvalsh(d).min() < -1e-14
            or np.linalg.eigvalsh(h).min() <= 0
        ):
            raise ValueError("from_dqh: D must be positive semidefinite and H positive definite")
        drift, noise = from_dqh(d, q, h)
        w, V = np.linalg.eigh(noise)
        diagonal = not (noise - np.diag(np.diag(noise))).any()
        G = np.sqrt(noise) if diagonal else V * np.sqrt(np.maximum(w, 0))
        return cls(
            drift=_table("D", drift), noise=_table("D", G), prior=_table("H", np.linalg.inv(h)), **options
        )

    @classmethod
    def spatial(cls, R: Any, omega: Any, **options: Any) -> LinearSDE:
        """A diffusion over K groups of the data's own coordinates: dx = -(beta / 2) (R^{-1} + 2 omega) x dt +
        sqrt(beta) R^{-1/2} dw, N(0, I) at rest for every R > 0 and antisymmetric omega."""
        R = np.array(R, dtype=np.float64)
        R = np.diag(R) if R.ndim == 1 else R
        K, options = len(R), {"conditioning": "dsm", "beta_min": 0.1, "beta_max": 20.0, **options}
        options.setdefault("registers", ("x", *(f"x{k}" for k in range(1, K))))
        return cls.from_dqh(np.linalg.inv(R) / 2, omega, np.ones(K), **options)

    @property
    def varies(self) -> bool:
        return callable(self.drift)

    def _at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        F, G = (m(t) if callable(m) else m for m in (self.drift, self.noise))
        return np.array(F, dtype=np.float64), np.array(G, dtype=np.float64)

    def parts(self) -> tuple[Any, Any, Any, Any]:
        F, G = self._at(self.t_max)
        rest = stationary(F, G @ G.T) if self.prior is None else self.prior
        return F, G @ G.T, self.start, rest

    # where F and G vary

    def f(self, t: Number) -> Matrix:
        return Matrix(self._at(float(t))[0]) if self.varies else super().f(t)

    def g2(self, t: Number) -> Matrix:
        G = self._at(float(t))[1] if self.varies else None
        return super().g2(t) if G is None else Matrix(G @ G.T)

    def tables(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.varies:
            return super().tables(t)
        F, G = zip(*(self._at(float(v)) for v in t), strict=True)
        return np.stack(F), np.stack(G) @ np.stack(G).swapaxes(-1, -2)

    def along(self, s: Any, t: Any, change: Change | None = None) -> Motion:
        if not self.varies:
            return super().along(s, t, change)
        pairs = np.stack(np.broadcast_arrays(s, t), -1).astype(np.float64)
        each, where = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
        some = [self._walk(a, b, change) for a, b in each.tolist()]
        Phi, Q = (np.stack(m)[where.reshape(pairs.shape[:-1])] for m in zip(*some, strict=True))
        return Motion(Phi, Q)

    def _walk(self, s: float, t: float, change: Change | None) -> Motion:
        if s == t:
            one = np.eye(len(self.registers))
            return Motion(one, 0 * one)
        if change is None:
            return self._known(s, t)

        def path(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            both = [change(F, N) for F, N in zip(*self.tables(s + (u if t > s else -u)), strict=True)]
            F, N = zip(*both, strict=True)
            return np.stack(F), np.stack(N)

        return varying(path, abs(t - s))

    @cached_property
    def _known(self) -> Callable[[float, float], Motion]:
        """The motion of the process itself, which many nodes ask for."""
        return lru_cache(4096)(lambda s, t: self._walk(s, t, lambda F, N: (F, N)))


def _table(name: str, given: Any) -> Table:
    try:
        table = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise TypeError(f"LinearSDE: {name} must be rows of numbers, got {given!r}") from e
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(f"LinearSDE: {name} must be rows of finite numbers, got {given!r}")
    return tuple(map(tuple, table.tolist()))
