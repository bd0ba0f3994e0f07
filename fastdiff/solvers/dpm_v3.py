"""DPM-Solver-v3: multistep predictor-corrector in a parameterisation fitted to the network beforehand.

    f = (sigma eps - l x) / alpha = (1 - l) x / alpha - x0          what of the network l x leaves over
    df/dlambda = s f + b + the rest;    with L = int l, S = int s from lambda_s, everything for each element:

    x_t = (alpha_t / alpha_s) e^{-L_t} x_s - alpha_t e^{-L_t} int e^{L + S} (P + beta) dlambda
    P(lambda_j) = e^{-S_j} f_j - beta_j,      beta = int e^{-S} b

P: the polynomial through the q newest f (predictor), or through those at s, t and q - 2 older ones
(corrector; x_t changes, f at t stays). One network call a step.

statistics       l, s, b of `fd.tune.model_statistics`. None: l = 1, s = b = 0, where f = -x0 and the
                 predictor is `dpmpp-3m` (of order 2 `dpmpp-2m` with weight="heun")
p_pseudo, c_pseudo    derivatives by divided differences, and one node more for the corrector: order 2 at
                 most, often better in very few steps
use_corrector    False: the predictor alone

Statistics of many groups of elements make each coefficient a plane: the step reads one number more for each
element, output and input (shared by the batch), and a run goes stage by stage in Python. b that is not 0
reads a row of ones. The released code takes times of the statistics' own nodes and trapezoids; here any
times within their range, and integrals to rounding.

Source: Zheng et al. 2023, arXiv:2310.13268, algorithms 1 and 2.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import Number, divided_weights, exponential_integral, polynomial_weights
from ..core.process import Node
from ..core.solver import Multistep, Past
from ..core.statistics import ModelStatistics


@dataclass(frozen=True)
class DPMv3(Multistep):
    key = "dpm-v3"
    memory = 1
    source = "Zheng et al. 2023, arXiv:2310.13268"

    order: int = 3
    lower_order_final: Literal["auto", "always", "never"] = "always"
    statistics: ModelStatistics | None = None
    use_corrector: bool = True
    p_pseudo: bool = False
    c_pseudo: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistics is not None and not isinstance(self.statistics, ModelStatistics):
            came = type(self.statistics).__name__
            raise TypeError(f"solver 'dpm-v3': statistics must be ModelStatistics or None, got {came}")

    @property
    def corrects(self) -> int:  # type: ignore[override]
        if self.use_corrector:
            return 2 - self.order if self.c_pseudo else 0
        return min(self.order, 2) - self.order if self.p_pseudo else 0

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = past or [(s, self.rest(p, s))]
        x, known = p.x, past[::-1]
        p.x = self.rule(p, x, s, t, known, self.p_pseudo)
        if past := self.evaluated(p, t, past):
            both = [known[0], past[-1], *known[1:]][: len(known) + self.c_pseudo]
            if self.use_corrector and len(both) > 1:
                p.x = self.rule(p, x, s, t, both, self.c_pseudo)
        return past

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        past = past or [(s, self.rest(p, s))]
        x, known = p.x, [past[-1]]
        for i in range(1, q):
            u = s.at(s.lam + (t.lam - s.lam) * i / q)
            p.x = self.rule(p, x, s, u, known)
            known = [*known, (u, self.rest(p, u))]
        p.x = self.rule(p, x, s, t, known)
        return self.evaluated(p, t, past)

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if not past:
            return super().last(p, s, t, past)
        p.x = t.alpha * (self.linear_part(p, s) / s.alpha * p.x - past[-1][1])
        return []

    def evaluated(self, p: Any, t: Node, past: Past) -> Past:
        return [] if p.step == p.steps - 1 else [*past, (t, self.rest(p, t))]

    def rest(self, p: Any, n: Node) -> Any:
        """f at a node."""
        x0 = p.model(p.x, n)
        return p.keep(self.linear_part(p, n) / n.alpha * p.x - x0)

    def linear_part(self, p: Any, n: Node) -> Number:
        """1 - l."""
        return 0 if self.statistics is None else 1 - self.curves(p, n).l(n.lam)

    def curves(self, p: Any, n: Node) -> Any:
        assert self.statistics is not None
        self.statistics.check(n.process)
        return p.planes(self.statistics)

    def rule(self, p: Any, x: Any, s: Node, t: Node, known: Past, pseudo: bool = False) -> Any:
        """From s to t by what is known of f; the first is at s."""
        h, u, weights = t.lam - s.lam, [n.lam - s.lam for n, _ in known], divided_weights
        weights = weights if pseudo else polynomial_weights
        if self.statistics is None:
            w = weights([exponential_integral(k, 1, h) for k in range(len(known))], u)
            return t.sigma / s.sigma * x - t.alpha * sum(a * f for a, (_, f) in zip(w, known, strict=True))
        curves = self.curves(p, s)
        way, to = curves.walk(s.lam, t.lam), [curves.walk(s.lam, n.lam) for n, _ in known[1:]]
        w = weights(way.moments[: len(known)], u)
        total, offset = w[0] * known[0][1], way.offset
        for a, v, (_, f) in zip(w[1:], to, known[1:], strict=True):
            total, offset = total + a * v.slope * f, offset - a * v.shift
        x = t.alpha / s.alpha * way.decay * x - t.alpha * total
        return x if curves.constant else x - t.alpha * offset * p.const("ones")
