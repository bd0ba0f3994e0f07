"""ER-SDE: multistep solvers of the extended reverse SDE, its noise said by a function phi of sigma / alpha.

    x_t = (alpha_t / alpha_s) r x_s + alpha_t int_{k_t}^{k_s} (phi_t phi'(k) / phi(k)^2) P(k) dk
          + alpha_t sqrt(k_t^2 - r^2 k_s^2) xi,      r = phi_t / phi_s,      k = sigma / alpha

    "ode" k    "sde" k^2    "sde2" k^{3/2}    "sde3" k^{5/2}    "sde1" k (e^{-1/k} + 10)
    "sde4" k^{0.9} log(1 + 100 k^{3/2})    "sde5" k (e^{k^0.3} + 10)

P: the polynomial of degree order - 1 through the newest data predictions over k. With M_j the integral of
(k - k_s)^j / j! it is M_0 m_0 + M_1 P' + M_2 P'' and

    M_0 = 1 - r,      M_1 = k_t - k_s + phi_t I_1,      M_2 = (k_t - k_s)^2 / 2 + phi_t I_2
    I_1 = int_{k_t}^{k_s} dk / phi,      I_2 = int_{k_t}^{k_s} (k - k_s) / phi dk

phi / k must not fall: it is what noise comes from. Where that of sde4 does, above k = 1022, it is held.
Order 1 with "ode" is `ddim`, with "sde" `ddpm`. "ode" has order 3; in law all have order 2 at most.
legacy=True: integrals by left Riemann sums of 100 points and the plain backward difference for P', as
published; that is of weak order 1 in the limit (1.5 from 80 to 160 steps).

Source: Cui et al. 2023, arXiv:2309.06169.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import Number, exp, gauss_legendre, log, log1p, plain, sqrt
from ..core.process import Node
from ..core.solver import Multistep, Past
from ._exponential import Known, from_noise, stages, used

PEAK = 1022.3746407849036  # of k^{-0.1} log(1 + 100 k^{3/2}): (1 + y) log(1 + y) = 15 y at y = 100 k^{3/2}
RIEMANN = 100


def _sde4(k: Number) -> Number:
    k = k if plain(k) < PEAK else PEAK
    return exp(-0.1 * log(k)) * log1p(100 * k * sqrt(k))


# phi / k and its limit at alpha = 0
GROWTH: dict[str, tuple[Callable[[Number], Number], float]] = {
    "ode": (lambda k: 1, 1),
    "sde": (lambda k: k, float("inf")),
    "sde1": (lambda k: exp(-1 / k) + 10, 11),
    "sde2": (sqrt, float("inf")),
    "sde3": (lambda k: k * sqrt(k), float("inf")),
    "sde4": (_sde4, _sde4(PEAK)),
    "sde5": (lambda k: exp(exp(0.3 * log(k))) + 10, float("inf")),
}


@dataclass(frozen=True)
class ERSDE(Multistep):
    key = "er-sde"
    predicts = "data"
    source = "Cui et al. 2023, arXiv:2309.06169"

    order: int = 3
    phi: Literal["ode", "sde", "sde1", "sde2", "sde3", "sde4", "sde5"] = "sde5"
    legacy: bool = False

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.phi != "ode"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = [*past, (s, p.model(p.x, s))]
        p.x = self.mean(p.x, s, t, past[::-1])
        if self.stochastic:
            p.x = p.x + t.sigma * self.noise(p, s, t)
        return past

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        m0 = p.model(p.x, s)

        def mean(x: Any, u: Node, known: Known, last: bool) -> Any:
            return self.mean(x, s, u, used(known, "pair")[::-1])

        def noise(v: Node, u: Node, before: Any) -> Any:
            return self.noise(p, v, u, before)

        p.x = stages(p, s, t, m0, q, mean, noise if self.stochastic else None)
        return [*past, (s, m0)]

    def first(self, p: Any, s: Node, t: Node) -> Past:
        kept = self.growth(t) / GROWTH[self.phi][1]
        return from_noise(p, s, t, kept, sqrt(1 - kept * kept))

    def growth(self, n: Node) -> Number:
        return GROWTH[self.phi][0](n.rho)

    def mean(self, x: Any, s: Node, t: Node, known: Known) -> Any:
        """By the predictions at s (the first one) and elsewhere."""
        kept = self.growth(t) / self.growth(s)
        (_, m0), k0 = known[0], s.rho
        total = (1 - t.rho / k0 * kept) * m0
        if len(known) > 1:
            M1, M2 = self.moments(s, t)
            (n1, m1) = known[1]
            d1 = (m0 - m1) / (k0 - n1.rho)
            total = total + M1 * d1
        if len(known) > 2:
            n2, m2 = known[2]
            d2 = 2 * (d1 - (m1 - m2) / (n1.rho - n2.rho)) / (k0 - n2.rho)
            total = total + (M2 if self.legacy else M2 + M1 * (k0 - n1.rho) / 2) * d2
        return t.sigma / s.sigma * kept * x + t.alpha * total

    def moments(self, s: Node, t: Node) -> tuple[Number, Number]:
        """M_1, M_2."""
        g, step = GROWTH[self.phi][0], t.rho - s.rho
        if self.legacy:
            nodes = [t.rho - step * j / RIEMANN for j in range(RIEMANN)]
            density = [(k, -step / RIEMANN / (k * g(k))) for k in nodes]
        else:  # over log k, where 1 / g has no pole nearer than 2
            points = 8 + math.ceil(4 * plain(t.lam - s.lam))
            nodes = [(exp(v), w) for v, w in gauss_legendre(-t.lam, -s.lam, points)]
            density = [(k, w / g(k)) for k, w in nodes]
        phi = t.rho * self.growth(t)
        I1, I2 = sum(w for _, w in density), sum(w * (k - s.rho) for k, w in density)
        return step + phi * I1, step * step / 2 + phi * I2

    def noise(self, p: Any, s: Node, t: Node, before: Any = None) -> Any:
        """In units of sigma_t. phi ~ k^{1 + clock} over the step."""
        a, b = self.growth(s), self.growth(t)
        kept = b / a
        xi = sqrt(1 - kept * kept) * p.noise(s, t, log(a / b) / (t.lam - s.lam))
        return xi if before is None else kept * before + xi
