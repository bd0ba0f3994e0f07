"""UniPC: exponential Adams-Bashforth predictor, Adams-Moulton corrector, one network call a step (PEC).

    predictor   y   = x_s -> t by the polynomial through m_0 (at s), m_1, ..., m_{q-1}
    corrector   x_t = x_s -> t by the polynomial through m(y, t), m_0, ..., m_{q-1}

m(y, t) is the next step's m_0; the last step has no corrector. Rules of two nodes {s, v} are the authors'
own: E_0 m_s + B / 2 (m_v - m_s) h / (lambda_v - lambda_s), B = h ("bh1") or E_0 = int_0^h e^{-a (h-u)} du
("bh2"). Order q + 1 with exact history. Rules of more nodes do not depend on the variant.

Source: Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Node
from ..core.solver import Multistep, Past
from ._exponential import Known, adams, midpoint, singlestep


@dataclass(frozen=True)
class UniPC(Multistep):
    key = "unipc"
    memory = corrects = 1
    source = "Zhao et al. 2023, arXiv:2302.04867"

    lower_order_final: Literal["auto", "always", "never"] = "always"
    variant: Literal["bh1", "bh2"] = "bh2"
    prediction: Literal["data", "noise"] = "data"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = past or [(s, p.model(p.x, s, self.prediction))]
        x = p.x
        p.x = self.rule(x, s, t, past[::-1])
        if past := self.evaluated(p, t, past):
            p.x = self.rule(x, s, t, past[::-1])
        return past

    def evaluated(self, p: Any, t: Node, past: Past) -> Past:
        return [] if p.step == p.steps - 1 else [*past, (t, p.model(p.x, t, self.prediction))]

    def rule(self, x: Any, s: Node, t: Node, known: Known) -> Any:
        if len(known) != 2:
            return adams(x, s, t, self.prediction, known)
        return midpoint(x, s, t, self.prediction, known, t.lam - s.lam if self.variant == "bh1" else None)

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        past = past or [(s, p.model(p.x, s, self.prediction))]
        p.x = singlestep(p, s, t, self.prediction, past[-1][1], q)
        return self.evaluated(p, t, past)

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if not past:
            return super().last(p, s, t, past)
        m = past[-1][1]
        p.x = t.alpha * m if self.prediction == "data" else t.alpha / s.alpha * (p.x - s.sigma * m)
        return []
