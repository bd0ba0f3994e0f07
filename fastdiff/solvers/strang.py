"""Strang's splitting of the probability flow: v for half a step, x for a whole one, v for half a step.

    z_t = B_{dt/2} A_{dt} B_{dt/2} z_s          A: x moves, v stands;  B: v moves, x stands

Each is one step of Heun's method with the field of the middle time, so that the whole is of order 2. Six
network calls a step, or four where no noise enters x or none v, whose flow then asks for no score.

Source: Pandey et al. 2023, arXiv:2310.07894 (the splitting); the symmetric composition is Strang's of 1968.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Past, Solver
from ._split import apart, asks, middle


@dataclass(frozen=True)
class Strang(Solver):
    key = "strang"
    kinds = ("linear",)
    predicts = "score"
    order = 2
    source = "Pandey et al. 2023, arXiv:2310.07894"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        dt, m = s.t - t.t, middle(s, t)
        x, v = apart(s)
        F, N = m.process.f(m.t), m.process.g2(m.t)

        def rate(z: Any, some: Any) -> Any:
            if not asks(some, N):
                return F * z
            z = p.keep(z)
            score = p.model(z, m)
            return F * z - N / 2 * score

        for some, h in ((v, dt / 2), (x, dt), (v, dt / 2)):
            one = rate(p.x, some)
            two = rate(p.x - h * some * one, some)
            p.x = p.x - h / 2 * some * (one + two)
        return []
