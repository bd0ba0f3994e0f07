"""DEIS: exponential multistep in the noise prediction; the variable of its polynomials is a choice.

    x_t / alpha_t = x_s / alpha_s + sum_j C_j eps_j,      C_j = int_s^t L_j drho,      rho = sigma / alpha

    variant "tab"       L_j in t            variant "rhoab"     L_j in rho: Adams-Bashforth
    variant "logrho"    L_j in log rho      what diffusers calls DEIS
    method "rho-heun", "rho-kutta3", "rho-rk4"    Runge-Kutta in rho, of its own order whatever `order` says

order = nodes of the polynomial (tab q of the paper is order q + 1). The integrals of "rhoab" and "logrho" are
closed; those of "tab" are of rho, by parts, and by 24-point Gauss-Legendre in sqrt(t), for rho is like
sqrt(t) beside t = 0. They sum to rho_t - rho_s exactly, and but for "logrho" are finite to sigma = 0, so that
the last step keeps its order. Order 1 is `ddim`.

Source: Zhang & Chen 2022, arXiv:2204.13902, equations 14 to 16, section 3.3.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

from ..core.math import Number, adams_weights, lagrange, plain, sqrt
from ..core.process import Node
from ..core.solver import Multistep, Past
from ._adams import interpolated
from ._coordinates import RHO, add, total
from ._runge_kutta import runge_kutta

POINTS, WEIGHTS = (a.tolist() for a in np.polynomial.legendre.leggauss(24))
OWN_ORDER = {"rho-heun": 2, "rho-kutta3": 3, "rho-rk4": 4}


@dataclass(frozen=True)
class DEIS(Multistep):
    key = "deis"
    predicts = "noise"
    orders = (1, 2, 3, 4)
    source = "Zhang & Chen 2022, arXiv:2204.13902"

    order: int = 3
    variant: Literal["tab", "rhoab", "logrho"] = "tab"
    method: Literal["multistep", "rho-heun", "rho-kutta3", "rho-rk4"] = "multistep"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", OWN_ORDER.get(self.method, self.order))

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        return super().limit(step, steps, clean and self.variant == "logrho")

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        regular = self.method == "multistep" and self.variant != "logrho" and isfinite(plain(t.t))
        return self.step(p, s, t, past) if regular and past else super().last(p, s, t, past)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        known = [(s, p.model(p.x, s)), *past[::-1]]
        if self.method != "multistep":
            p.x = runge_kutta(p, s, t, known[0][1], self.order, RHO)
            return []
        weights = self.weights(s, t, [n for n, _ in known])
        p.x = add(p.x, s, t, total(weights, [eps for _, eps in known]), RHO)
        return known[::-1]

    def weights(self, s: Node, t: Node, nodes: Sequence[Node]) -> list[Number]:
        if self.variant == "rhoab" or len(nodes) == 1:
            return interpolated(s, t, nodes, RHO)
        if self.variant == "logrho":
            return [-t.rho * w for w in adams_weights(-1, t.lam - s.lam, [n.lam - s.lam for n in nodes])]
        return integrals_in_time(s, t, nodes)

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        if self.method != "multistep":
            return self.step(p, s, t, past)
        eps = p.model(p.x, s)
        p.x = runge_kutta(p, s, t, eps, q, RHO)
        return [*past, (s, eps)]


def integrals_in_time(s: Node, t: Node, nodes: Sequence[Node]) -> list[Number]:
    """int_s^t L_j drho with L_j in t, by the moments int_s^t (u - s)^k / k! drho(u)."""
    rise, moments = t.rho - s.rho, [t.rho - s.rho]
    root = plain(t.t) >= 0
    a, b = (sqrt(s.t), sqrt(t.t)) if root else (s.t, t.t)
    samples = []  # u - s, and (rho(u) - rho(s)) du
    for x, w in zip(POINTS, WEIGHTS, strict=True):
        v = (a + b + (b - a) * x) / 2
        u = s.process.node(v * v if root else v)
        samples.append((u.t - s.t, (u.rho - s.rho) * (b - a) / 2 * w * (2 * v if root else 1)))
    factorial = 1
    for k in range(1, len(nodes)):
        below = sum(f * u ** (k - 1) for u, f in samples)
        factorial *= k
        moments.append((rise * (t.t - s.t) ** k - k * below) / factorial)
    rows = lagrange([n.t - s.t for n in nodes])
    return [sum(m * w for m, w in zip(moments, row, strict=True)) for row in rows]
