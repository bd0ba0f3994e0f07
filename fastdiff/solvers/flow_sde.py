"""Flow SDE: the reverse SDE of any noise level w(t) with the marginals of a flow; data prediction.

    dx = (u - (w^2 / 2) score) dt + w dW,      t decreasing,      u = dx/dt of the flow

solved as the step of `sa-solver` with tau^2 = w^2 / g^2, constant over lambda on each step:

    x_t = (sigma_t / sigma_s) e^{-e} x_s + (1 + tau^2) alpha_t int_0^h e^{-(1 + tau^2)(h - v)} P(v) dv
          + sigma_t sqrt(1 - e^{-2e}) xi,      e = int_t^s w^2 / (2 sigma^2) dt = tau^2 h

    tau "sigma" w = scale sigma       "constant" scale           "clipping" scale max(2 t - 1, 0)
        "linear" scale t              "square" scale t^2         "exp" scale e^{-((t - 1) / width)^2}
        "sin" scale sin(pi t / 2)     "tan" scale tan(pi t / 2)

"tan" is held from t = 0.95 on. At alpha = 0 e is finite, so that nothing is lost of x_s but what w takes.
scale = 0 is `dpmpp-2m` with weight "heun". Weak order 2, 1 with order=1.

Source: Kim et al. 2025, arXiv:2503.19385 (there by Euler-Maruyama).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import Number, cos, decided, exp, expm1, gauss_legendre, log, pi_like, plain, sin, sqrt
from ..core.process import Node
from ..core.solver import Multistep, Past, check_range
from ._exponential import adams, from_noise

TAN_END = 0.95
FULL = 40.0  # an e^{-e} below the rounding of float64: nothing of x_s is left
POINTS = 12  # over log t; the marginals do not depend on e, so it need not have all digits


@dataclass(frozen=True)
class FlowSDE(Multistep):
    key = "flow-sde"
    predicts = "data"
    orders, startups = (1, 2), ("ramp",)
    source = "Kim et al. 2025, arXiv:2503.19385"

    tau: Literal["sigma", "constant", "sin", "linear", "square", "clipping", "exp", "tan"] = "sigma"
    scale: float = 1.0
    width: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "scale", 0)
        check_range(self, "width", 1e-6)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.scale > 0

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        m0 = p.model(p.x, s)
        e = self.exponent(s, t)
        p.x = adams(p.x, s, t, "data", [(s, m0), *past], e / (t.lam - s.lam))
        if plain(e):
            p.x = p.x + t.sigma * sqrt(-expm1(-2 * e)) * p.noise(s, t, "t")
        return [(s, m0)]

    def first(self, p: Any, s: Node, t: Node) -> Past:
        e = self.exponent(s, t)
        return from_noise(p, s, t, exp(-e), sqrt(-expm1(-2 * e)), "t")

    def exponent(self, s: Node, t: Node) -> Number:
        """e = int_t^s w^2 / (2 sigma^2) dt."""
        if self.tau == "sigma":
            return self.scale**2 / 2 * (s.t - t.t)
        nodes = [(exp(v), w) for v, w in gauss_legendre(log(t.t), log(s.t), POINTS)]
        e = self.scale**2 / 2 * sum(w * v * (self.w(v) / s.process.sigma(v)) ** 2 for v, w in nodes)
        return e if decided(e, lambda v: v < FULL) else FULL

    def w(self, t: Number) -> Number:
        """w / scale."""
        if self.tau == "constant":
            return 1
        if self.tau == "sin":
            return sin(pi_like(t) * t / 2)
        if self.tau == "linear":
            return t
        if self.tau == "square":
            return t * t
        if self.tau == "clipping":
            return 2 * t - 1 if decided(t, lambda v: v > 0.5) else 0
        if self.tau == "exp":
            return exp(-(((t - 1) / self.width) ** 2))
        t = t if decided(t, lambda v: v < TAN_END) else TAN_END
        return sin(pi_like(t) * t / 2) / cos(pi_like(t) * t / 2)
