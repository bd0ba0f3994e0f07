"""LinearProcess: a linear SDE that moves several registers z = (x, v, ...) of one shape at once.

    dz = F z dt + G dw,      z_t = Phi_t z_0 + Sigma_t^{1/2} eps

K x K matrices act alike on every element. x is the data; of the other registers what is known at t = 0 is
their variance. Reverse SDE and probability flow, of the score s of all registers:

    dz = (F z - c G G^T s) dt + ...      c = 1 (with noise G dw) or 1/2

A network may give (see `LinearNode.convert`)

    noise    eps, of z_t = Phi z_0 + R eps with R the triangular root of Sigma_t:   s = -R^{-T} eps
    score    s
    data     E[x_0 | z_t]:   s = -Sigma^{-1} (z_t - Phi x_0)

noise and score by registers; where noise enters the last registers alone (CLD: v), only theirs, for G G^T s
asks for no others, and R is the lower root; where it enters the first alone, R is the upper one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .errors import unknown
from .gaussian_path import Motion, Posterior, motion, posterior, root, root_of_sum, varying
from .math import Number, gauss_legendre
from .matrix import Matrix
from .process import Node, Process

PREDICTIONS = ("noise", "data", "score")
NODES = 32  # of the quadrature of a step with the noise prediction held

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # of drift and G G^T


class System(NamedTuple):
    """What a linear SDE is, for beta = 1.

    drift    F
    noise    G G^T
    start    variance of each register at t = 0, given the data
    rest     covariance at t_max, the prior's
    data     registers that the data fix: (0,) or all
    """

    drift: np.ndarray
    noise: np.ndarray
    start: np.ndarray
    rest: np.ndarray
    data: tuple[int, ...] = (0,)


class LinearProcess(Process):
    """A subclass gives `registers` and `system`, which beta(t) = beta_min + t (beta_max - beta_min)
    multiplies."""

    kind = "linear"
    default_grid = "uniform-t"
    t_min, t_max = 1e-3, 1.0  # type: ignore[assignment]
    registers: tuple[str, ...]
    root: str | None = None  # "lower" | "upper"; None: lower, unless noise enters the first registers alone
    jitter: float = 0.0  # added to the variances, as published code does
    beta_min: float
    beta_max: float

    @property
    def system(self) -> System:
        raise TypeError(f"{type(self).__name__} does not define system")

    def beta(self, t: Number) -> Number:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def clock(self, t: Any) -> Any:
        """int_0^t beta."""
        return t * self.beta_min + t * t * (self.beta_max - self.beta_min) / 2

    def f(self, t: Number) -> Matrix:
        return Matrix(self.system.drift) * self.beta(t)

    def g2(self, t: Number) -> Matrix:
        return Matrix(self.system.noise) * self.beta(t)

    def tables(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F and G G^T at many times."""
        beta = np.asarray(self.beta(t))[..., None, None]
        return beta * self.system.drift, beta * self.system.noise

    def node(self, t: Number) -> LinearNode:
        return LinearNode(self, t)

    def lam(self, t: Number) -> Number:
        raise ValueError(
            f"{self!r} has no alpha, sigma or lambda: it is a linear SDE of the registers "
            f"{', '.join(self.registers)}; grids in time go with it: uniform-t, quadratic-t, power-t"
        )

    alpha = sigma = dalpha = dsigma = dlam = lam

    def time_of(self, lam: Number) -> Number:
        return self.lam(lam)

    def prior_std(self, t: float) -> float:
        raise ValueError(f"{self!r} has a prior for each register: prior_root")

    def prior_root(self) -> np.ndarray:
        """R with z = R xi at the noisy end."""
        return root(self.system.rest)

    # what it does to a Gaussian

    def along(self, s: Any, t: Any, change: Change | None = None) -> Motion:
        """The motion on the way from time s to t, up or down, of dz = A z du + N^{1/2} dw where (A, N) =
        change(F, G G^T), by default as they are; s and t may be arrays."""
        drift, noise = self.system.drift, self.system.noise
        if change is not None:
            drift, noise = change(drift, noise)
        return motion(drift, noise, np.abs(self.clock(t) - self.clock(s)))

    def transition(self, s: float, t: float) -> Motion:
        """Phi and Q of z_t = Phi z_s + Q^{1/2} xi, for s < t."""
        return self.along(s, t)

    def marginal(self, t: Any) -> Motion:
        """Phi and Sigma of z_t given the data; t may be an array."""
        Phi, Q = self.along(np.zeros_like(t), t)
        spread = Phi * np.sqrt(self._free)
        return Motion(Phi, spread @ spread.swapaxes(-1, -2) + Q + self.jitter * np.eye(len(self._free)))

    def spread(self, t: Any) -> np.ndarray:
        """The triangular root R of Sigma, by which noise is meant; t may be an array."""
        Phi, Q = self.along(np.zeros_like(t), t)
        more = np.broadcast_to(self.jitter**0.5 * np.eye(len(self._free)), Q.shape)
        return root_of_sum(Phi * np.sqrt(self._free), root(Q), more, upper=self.is_upper)

    @cached_property
    def _free(self) -> np.ndarray:
        """The variances at t = 0 of what the data leave open."""
        return self.system.start * [k not in self.system.data for k in range(len(self.registers))]

    def posterior(self, s: float, t: float) -> Posterior:
        """Of z_t given z_s and the data, for t < s: an ancestral step."""
        near = self.marginal(t)
        return posterior(near._replace(Phi=near.Phi[:, list(self.system.data)]), self.along(t, s))

    def implicit(self, s: float, t: float, by: str = "cholesky") -> tuple[np.ndarray, np.ndarray]:
        """(keep, data) of z_t = m_t + R_t R_s^{-1} (z_s - m_s), m = Phi x_0. With the R that solves dR/dt =
        (F + G G^T Sigma^{-1} / 2) R (by="pf") it is the probability flow of data at one point; with the
        triangular root it is another flow of the same marginals."""
        near, far = (self.marginal(v) for v in (t, s))
        if by == "cholesky" or t == self.t_zero:
            keep = self.spread(t) @ np.linalg.inv(self.spread(s))
        else:
            keep = varying(self._pull(s), float(np.log(s / t)), 1e-10).Phi
        some = list(self.system.data)
        return keep, near.Phi[:, some] - keep @ far.Phi[:, some]

    def _pull(self, s: float) -> Any:
        """-(F + G G^T Sigma^{-1} / 2) dt/du along t = s e^{-u}."""

        def path(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            t = s * np.exp(-u)
            F, N = self.tables(t)
            A = -t[:, None, None] * (F + N @ np.linalg.inv(self.marginal(t).Q) / 2)
            return A, 0 * A

        return path

    @cached_property
    def _noisy(self) -> tuple[int, ...]:
        """The registers that noise enters."""
        return tuple(int(k) for k in np.flatnonzero(np.abs(self.system.noise).any(1)))

    @cached_property
    def is_upper(self) -> bool:
        """Which root of Sigma the noise prediction is by."""
        first, last = self._ends
        return first and not last if self.root is None else self.root == "upper"

    @cached_property
    def _ends(self) -> tuple[bool, bool]:
        """Whether noise enters the first registers alone, the last alone; both where it enters all."""
        K, n = len(self.registers), len(self._noisy)
        return self._noisy == tuple(range(n)), self._noisy == tuple(range(K - n, K))

    @cached_property
    def scored(self) -> tuple[int, ...]:
        """The registers whose noise or score a network gives."""
        closed = self._ends[0] if self.is_upper else self._ends[1]
        return self._noisy if closed else tuple(range(len(self.registers)))

    def outputs(self, predicts: str) -> int:
        """How many tensors a network gives."""
        return len(self.system.data if predicts == "data" else self.scored)

    def score_of_noise(self, t: Any) -> np.ndarray:
        """-R^{-T}, its columns for unknown noise 0; t may be an array."""
        C = -np.linalg.inv(self.spread(t)).swapaxes(-1, -2)
        C = np.triu(C) if not self.is_upper else np.tril(C)
        return C * [k in self.scored for k in range(len(self.registers))]

    def hold(self, s: float, t: float, extra: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(P, W): the probability flow from s down to t with the noise prediction held, z_t = P z_s + W eps.

        extra: B, with z_t = P (1 - h B) z_s + W eps where P and W are those of F - B and h is the clock's
        length. The quadrature runs over sqrt(t), in which the integrand is smooth down to t = 0.
        """

        def down(F: np.ndarray, N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return -F if extra is None else extra - F, 0 * N

        u, w = np.array(gauss_legendre(t**0.5, s**0.5, NODES)).T
        r = u * u
        push = self.tables(r)[1] @ self.score_of_noise(r) * (u * w)[:, None, None]
        W = (self.along(r, np.full_like(r, t), down).Phi @ push).sum(0)
        P = self.along(s, t, down).Phi
        h = self.clock(s) - self.clock(t)
        return (P if extra is None else P @ (np.eye(len(P)) - h * extra)), W

    def check(self, predicts: str, hooks: Sequence[Any]) -> None:
        """What of a plan's arguments does not apply here."""
        if predicts not in PREDICTIONS:
            raise unknown(f"prediction of a network for {self!r}", predicts, PREDICTIONS)
        for hook in hooks:
            points = [p for p in ("predict", "noise", "state", "population", "route") if hook.acts(p)]
            if points:
                raise ValueError(
                    f"{type(hook).__name__} acts at {', '.join(points)}; on {self!r} only hooks of "
                    "conditions act (fd.guidance.CFG)"
                )


class LinearNode(Node):
    """One time of a linear process. There is no alpha, sigma or lambda."""

    def __init__(self, process: LinearProcess, t: Number):
        object.__setattr__(self, "process", process)
        object.__setattr__(self, "t", t)

    def _none(self) -> Any:
        raise ValueError(
            f"{self.process!r} is a linear SDE of several registers: it has no alpha, sigma or lambda, and "
            "what asks for them does not go with it"
        )

    alpha = sigma = lam = rho = dalpha = dsigma = property(_none)  # type: ignore[assignment]
    scale = 1  # type: ignore[assignment]
    pure = False  # type: ignore[assignment]

    @property
    def tau(self) -> Number:  # type: ignore[override]
        """Straight coordinates are z over t."""
        return self.t

    @property
    def clean(self) -> bool:
        return self.host == self.process.t_zero

    @cached_property
    def host(self) -> float:
        if hasattr(self.t, "detach") or getattr(self.t, "ndim", 0):
            raise ValueError(
                f"the matrices of {self.process!r} are made on the host: times must be plain numbers"
            )
        return float(self.t)

    def at(self, lam: Number) -> Node:
        return self._none()

    def arrive(self, p: Any, t: Node) -> Any:
        """To t = 0: the probability flow with the noise prediction held."""
        P, W = self.process.hold(self.host, t.host)  # type: ignore[attr-defined]
        eps = p.model(p.x, self, "noise")
        return Matrix(P) * p.x + Matrix(W) * eps

    def convert(self, raw: str, wanted: str) -> tuple[Any, Any]:
        """(P, Q) with wanted = P z + Q raw; "flow" is dz/dt of the probability flow."""
        process: Any = self.process
        K, scored, system = len(process.registers), list(process.scored), process.system
        if raw == wanted and (raw == "data" or len(scored) == K):
            return 0, 1
        if self.clean:
            raise ValueError(f"a {raw} prediction says nothing at t={self.host:g}, where no noise is")
        Phi, R = process.along(0.0, self.host).Phi[:, list(system.data)], process.spread(self.host)
        back, some = np.linalg.inv(R).T @ np.linalg.inv(R), np.eye(K)[:, scored]
        P, Q = np.zeros((K, K)), some  # of the score
        if raw == "noise":
            Q = process.score_of_noise(self.host)[:, scored]
        elif raw == "data":
            P, Q = -back, back @ Phi
        if wanted in ("flow", "slope"):
            half = process.g2(self.host).array() / 2
            return process.f(self.t) + Matrix(-half @ P), Matrix(-half @ Q)
        whole = raw == "data" or len(scored) == K
        if wanted == "noise":
            P, Q = -R.T @ P, -R.T @ Q
            if raw == "noise":
                P, Q = np.zeros((K, K)), some
        elif wanted == "data":
            if not whole:
                lost = [name for k, name in enumerate(process.registers) if k not in scored]
                raise ValueError(
                    f"{process!r}: a {raw} prediction without {', '.join(lost)} gives no data prediction"
                )
            fit = np.linalg.solve(Phi.T @ back @ Phi, Phi.T)
            return Matrix(fit @ (back + P)), Matrix(fit @ Q)
        elif wanted != "score":
            raise unknown(f"prediction on {process!r}", wanted, (*PREDICTIONS, "flow"))
        known = [k in scored or whole for k in range(K)]
        rows = [row if k else None for k, row in zip(known, Q.tolist(), strict=True)]
        return (Matrix(P) if raw == "data" else 0), Matrix(rows)
