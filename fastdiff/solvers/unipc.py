"""UniPC: exponential Adams-Bashforth predictor, Adams-Moulton corrector, one network call a step (PEC).

    predictor   y   = x_s -> t by the polynomial through m_0 (at s), m_1, ..., m_{q-1}
    corrector   x_t = x_s -> t by the polynomial through m(y, t), m_0, ..., m_{q-1};      m(y, t) is the next step's m_0

Rules of two nodes {s, v} are the authors' midpoint rule instead, d = (m_v - m_s) h / (lambda_v - lambda_s):

    B / 2 d      variant "bh1": B = h      "bh2": B = int_0^h e^{-a (h - u)} du      a = 1 (data), -1 (noise)

With exact history of order q + 1; rules of three nodes and more do not depend on the variant. The last step has no corrector.

Source: Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import exponential_integral
from ..core.process import Node
from ..core.solver import Multistep, Past, check_choice
from ._exponential import SIGN, Known, adams, advance, singlestep


@dataclass(frozen=True)
class UniPC(Multistep):
    key = "unipc"
    memory = corrects = 1
    source = "Zhao et al. 2023, arXiv:2302.04867"

    lower_order_final: Literal["auto", "always", "never"] = "always"
    variant: Literal["bh1", "bh2"] = "bh2"
    prediction: Literal["data", "noise"] = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "variant", ("bh1", "bh2"))
        check_choice(self, "prediction", ("data", "noise"))

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = past or [(s, p.model(p.x, s, self.prediction))]
        x, known = p.x, past[::-1]
        p.x = self.rule(x, s, t, known)
        if p.step == p.steps - 1:
            return []
        past = [*past, (t, p.model(p.x, t, self.prediction))]
        p.x = self.rule(x, s, t, past[::-1])
        return past

    def rule(self, x: Any, s: Node, t: Node, known: Known) -> Any:
        if len(known) != 2:
            return adams(x, s, t, self.prediction, known)
        h, v = t.lam - s.lam, next(n for n, _ in known if n is not s)
        E = exponential_integral(0, SIGN[self.prediction], h)
        w = (h if self.variant == "bh1" else E) / 2 * (h / (v.lam - s.lam))
        return advance(x, s, t, self.prediction, [E - w if n is s else w for n, _ in known], known)

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        past = past or [(s, p.model(p.x, s, self.prediction))]
        p.x = singlestep(p, s, t, self.prediction, past[-1][1], q)
        return [] if p.step == p.steps - 1 else [*past, (t, p.model(p.x, t, self.prediction))]

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if not past:
            return super().last(p, s, t, past)
        m = past[-1][1]
        p.x = t.alpha * m if self.prediction == "data" else t.alpha / s.alpha * (p.x - s.sigma * m)
        return []
