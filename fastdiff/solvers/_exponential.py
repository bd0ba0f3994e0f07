"""Exponential integrators in half log-SNR: the step that solves the linear part exactly.

    data  (a = 1 + tau^2)   x_t = (sigma_t / sigma_s) e^{-tau^2 h} x + (1 + tau^2) alpha_t sum_j b_j m_j
                                  + sigma_t sqrt(1 - e^{-2 tau^2 h}) xi
    noise (a = -1)          x_t = (alpha_t / alpha_s) x - sigma_t sum_j b_j m_j
    b_j = int_0^h e^{-a (h - u)} L_j(u) du,      L_j: Lagrange polynomials on the nodes' lambda - lambda_s

tau is the noise level of the reverse SDE, constant on a step: tau = 0 is the probability flow, tau = 1 the
time reversal of the forward SDE.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.math import Number, exp, expm1, exponential_integral, log1p, plain, polynomial_weights, sqrt
from ..core.process import Node
from ..core.solver import Past, Solver, check_range

Known = Sequence[tuple[Node, Any]]  # nodes and predictions there, newest first
SIGN = {"data": 1, "noise": -1}


def advance(x: Any, s: Node, t: Node, kind: str, weights: Sequence[Number], known: Known,
            tau2: Number = 0) -> Any:
    """From s to t with given weights of the known predictions, noise left out."""
    total = sum(w * m for w, (_, m) in zip(weights, known, strict=True))
    if kind == "data":
        return t.sigma / s.sigma * exp(tau2 * (s.lam - t.lam)) * x + t.alpha * (1 + tau2) * total
    return t.alpha / s.alpha * x - t.sigma * total


def adams(x: Any, s: Node, t: Node, kind: str, known: Known, tau2: Number = 0, curvature: Number = 1) -> Any:
    """From s to t by the polynomial through the known predictions; `curvature` is a factor on its part of
    second degree (public third-order codes have 1/2)."""
    h = t.lam - s.lam
    E = [exponential_integral(k, SIGN[kind] * (1 + tau2), h) for k in range(len(known))]
    if len(known) > 2:
        E[2] = E[2] * curvature
    weights = polynomial_weights(E, [n.lam - s.lam for n, _ in known])
    return advance(x, s, t, kind, weights, known, tau2)


def midpoint(x: Any, s: Node, t: Node, kind: str, known: Known, B: Number = None, tau2: Number = 0) -> Any:
    """By the predictions at s and v: E_0 m_s + B / 2 (m_v - m_s) h / (lambda_v - lambda_s); B is E_0 by
    default."""
    v = next(n for n, _ in known if n is not s)
    h = t.lam - s.lam
    E = exponential_integral(0, SIGN[kind] * (1 + tau2), h)
    w = (E if B is None else B) / 2 * (h / (v.lam - s.lam))
    return advance(x, s, t, kind, [E - w if n is s else w for n, _ in known], known, tau2)


def multistep(x: Any, s: Node, t: Node, kind: str, known: Known, weight: str = "heun", tau2: Number = 0,
              curvature: Number = 1) -> Any:
    """`adams`, or with two predictions and weight "midpoint" `midpoint`."""
    if weight == "midpoint" and len(known) == 2:
        return midpoint(x, s, t, kind, known, tau2=tau2)
    return adams(x, s, t, kind, known, tau2, curvature)


def fresh(p: Any, s: Node, t: Node, tau2: Number, before: Any = None, s_noise: Number = 1) -> Any:
    """The SDE's noise from s to t over sigma_t; `before` is what had come at s, over sigma_s."""
    k = tau2 * (t.lam - s.lam)
    xi = s_noise * sqrt(-expm1(-2 * k)) * p.noise(s, t, tau2)
    return xi if before is None else exp(-k) * before + xi


def stages(p: Any, s: Node, t: Node, m0: Any, order: int, rule: Callable[[Any, Node, Known, bool], Any],
           noise: Callable[[Node, Node, Any], Any] | None = None, kind: str | None = None) -> Any:
    """x_t by stages at lambda_s + h / order, ..., order - 1 calls more (predictions of `kind`).

    rule(x, u, known, last) is the mean at u; noise(v, u, before) the noise there in units of sigma_u, given
    the stage before: independent increments from stage to stage.
    """
    x, h, known, v, wave = p.x, t.lam - s.lam, [(s, m0)], s, None
    for i in range(1, order + 1):
        u = t if i == order else s.at(s.lam + h * i / order)
        y = rule(x, u, known, i == order)
        if noise is not None:
            wave = noise(v, u, wave)
            y = y + u.sigma * wave
        if i == order:
            return y
        known, v = [(u, p.model(y, u, kind)), *known], u


def singlestep(p: Any, s: Node, t: Node, kind: str, m0: Any, order: int, weight: str = "pair",
               tau2: float = 0, s_noise: float = 1) -> Any:
    """One step of exponential Runge-Kutta, each stage by what is known.

    weight "pair"       the predictions at s and at the newest stage: DPM-Solver-2 (Taylor) and -3
           "taylor"     all of them
           "midpoint"   order 2: E_0 times the newest one; order 3 as "pair"

    Source: Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2; arXiv:2211.01095 for data predictions;
    Gonzalez et al. 2023, arXiv:2305.14267 for SDEs.
    """
    def rule(x: Any, u: Node, known: Known, last: bool) -> Any:
        two = "midpoint" if weight == "midpoint" and order == 2 and last else "heun"
        return multistep(x, s, u, kind, used(known, weight), two, tau2)

    def noise(v: Node, u: Node, before: Any) -> Any:
        return fresh(p, v, u, tau2, before, s_noise)

    return stages(p, s, t, m0, order, rule, noise if tau2 else None, kind)


def used(known: Known, weight: str) -> Known:
    """Of the stages' predictions, those that a weight takes."""
    return known if weight == "taylor" or len(known) < 3 else [known[0], known[-1]]


def from_noise(p: Any, s: Node, t: Node, kept: Number, noise: Number, clock: Any = 1) -> Past:
    """A first step from alpha = 0: of the noise in x_t `kept` is x_s's and `noise` fresh."""
    x0 = p.model(p.x, s, "data")
    p.x = kept * (t.sigma / s.sigma) * p.x + t.alpha * x0
    if plain(noise):
        p.x = p.x + noise * t.sigma * p.noise(s, t, clock)
    return []


def below(s: Node, t: Node, eta: float) -> tuple[Number, Number]:
    """(k, up) of an ancestral step: from s down in lambda, and the noise from there up to t over sigma_t.

    up^2 = eta^2 rho_t^2 (1 - rho_t^2 / rho_s^2),      down^2 = rho_t^2 - up^2,      rho = sigma / alpha
    """
    fraction = -expm1(2 * (s.lam - t.lam)) * eta**2
    return t.lam - s.lam - log1p(-fraction) / 2, sqrt(fraction)


@dataclass(frozen=True)
class Noisy(Solver):
    """Base of the methods with a noise level eta (= tau^2 unless the method says otherwise) and s_noise."""

    eta: float = 1.0
    s_noise: float = 1.0

    eta_max: ClassVar[float] = float("inf")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "eta", 0, self.eta_max)
        check_range(self, "s_noise", 0)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """h = inf: nothing of x_s is left."""
        return from_noise(p, s, t, 0 if self.eta else 1, self.s_noise if self.eta else 0, self.eta)


@dataclass(frozen=True)
class Ancestral(Noisy):
    """Base of the methods that step below the next level and go up to it by fresh noise; eta is its fraction,
    as in `ddim`."""

    eta_max = 1.0

    def up(self, p: Any, s: Node, t: Node, x: Any, up: Number) -> Any:
        """x / alpha at `down` -> x_t."""
        x = t.alpha * x
        return x + self.s_noise * up * t.sigma * p.noise(s, t) if self.eta else x

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """rho_s = inf: up = eta rho_t."""
        return from_noise(p, s, t, (1 - self.eta**2) ** 0.5, self.s_noise * self.eta)
