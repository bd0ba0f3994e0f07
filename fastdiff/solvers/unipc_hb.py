"""UniPC with heavy ball momentum: the mean prediction of each rule is smoothed over the steps.

    rule(x)   = A x + B E_0 D,      D = sum_j b_j m_j / E_0: the mean prediction of `unipc`'s rules
    predictor   y   = A x + B E_0 ((1 - beta) v + beta D)
    corrector   v   = (1 - beta) v + beta D',      x_t = A x + B E_0 v

v is that of the last corrected step. beta = 1 is `unipc` of order `nodes` that never lowers it; else order 1.
The authors' code overwrites the predictor's smoothed mean with the raw one, and smooths D / sigma_t, so that
a constant data prediction does not stay what it is; here both rules are smoothed, and it does.

Source: Wizadwongsa et al. 2023, arXiv:2307.11118, appendix; UniPC: Zhao et al. 2023.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import exponential_integral
from ..core.process import Node
from ..core.solver import Past
from ._exponential import SIGN, adams, midpoint
from ._heavy_ball import HeavyBall


@dataclass(frozen=True)
class UniPCHB(HeavyBall):
    key = "unipc-hb"
    memory = 3
    source = "Wizadwongsa et al. 2023, arXiv:2307.11118"

    nodes: Literal[1, 2, 3] = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    prediction: Literal["data", "noise"] = "data"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        """past: (node, prediction, v of the step that led there)."""
        x, end = p.x, p.step == p.steps - 1
        past = past or [(s, p.model(x, s, self.prediction), None)]
        known, v = [(n, m) for n, m, _ in past[::-1]][: self.nodes], past[-1][2]
        p.x, smoothed = self.smoothed(x, s, t, known, v)
        if end:
            return []
        known = [(t, p.model(p.x, t, self.prediction)), *known]
        p.x, smoothed = self.smoothed(x, s, t, known, v)
        old = [(n, m, None) for n, m, _ in past]  # their v has been used
        return [*old, (*known[0], smoothed)][-self.nodes :]

    def smoothed(self, x: Any, s: Node, t: Node, known: Any, v: Any) -> tuple[Any, Any]:
        kind, h = self.prediction, t.lam - s.lam
        E = exponential_integral(0, SIGN[kind], h)
        scale = t.alpha * E if kind == "data" else -t.sigma * E
        rule = adams if len(known) != 2 else lambda *a: midpoint(*a, B=h if self.variant == "bh1" else None)
        v = self.smooth(v, rule(0 * x, s, t, kind, known) / scale)
        return (t.sigma / s.sigma if kind == "data" else t.alpha / s.alpha) * x + scale * v, v

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if not past:
            return super().last(p, s, t, past)
        m = past[-1][1]
        p.x = t.alpha * m if self.prediction == "data" else t.alpha / s.alpha * (p.x - s.sigma * m)
        return []
