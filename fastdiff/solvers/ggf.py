"""Gotta Go Fast: stochastic improved Euler on the reverse SDE, with adaptive steps.

    D(x, t) = f x + g^2 eps / sigma              W: the increment of a Brownian motion over the step
    K1 = -h D(x_s, s) + g_s W                    x' = x_s + K1
    K2 = -h D(x', t) + g_t W                     x_t = x_s + (K1 + K2) / 2,      error (K2 - K1) / 2

    variant "lamba"   K1, K2 without noise and g_s W added once

Steps in time, by controller "i" with exponent 0.9. W is the same motion whatever steps are tried: a refused
one is walked again in smaller steps. legacy=True draws it anew, as the released code does: what is refused is
then forgotten, and the law is off however small the tolerance (normal data of 16 elements on VP: a variance
6 % too large). Two network calls an attempt.

Source: Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, algorithm 1; Lamba 2003 ("lamba").
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.adaptive import Adaptive
from ..core.math import sqrt
from ..core.process import Node


@dataclass(frozen=True)
class GGF(Adaptive):
    key = "ggf"
    predicts = "noise"
    source = "Jolicoeur-Martineau et al. 2021, arXiv:2105.14080"
    stochastic = True
    order = 1
    measured_by = "low"

    rtol: float = 0.02
    atol: float = 0.0078  # of pictures in [-1, 1]: one level of 256
    h_init: float = 0.01
    variant: Literal["improved-euler", "lamba"] = "improved-euler"
    legacy: bool = False

    @property
    def exponent(self) -> float:
        return 0.9

    def coordinate(self, n: Node) -> float:
        return -float(n.t)

    def node(self, clock: Any, v: Any) -> Node:
        return clock.at_time(-v)

    def attempt(self, p: Any, s: Node, t: Node) -> tuple[Any, Any]:
        W, h = p.noise(), s.t - t.t

        def drift(x: Any, n: Node) -> Any:
            return h * (n.process.f(n.t) * x + n.process.g2(n.t) / n.sigma * p.model(x, n))

        def spread(n: Node) -> Any:
            return sqrt(n.process.g2(n.t)) * W

        if self.variant == "lamba":
            K1 = -drift(p.x, s)
            K2 = -drift(p.x + K1, t)
            return p.x + (K1 + K2) / 2 + spread(s), (K2 - K1) / 2
        K1 = spread(s) - drift(p.x, s)
        K2 = spread(t) - drift(p.x + K1, t)
        return p.x + (K1 + K2) / 2, (K2 - K1) / 2
