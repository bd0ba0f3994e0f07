"""Reduced velocity Verlet: half a step of v, x by it, the other half of v by a second score.

    v'  = v_s - (dt / 2) (F z - N score / 2)_v           at s
    x_t = x_s - dt (F (x_s, v') - N score / 2)_x         at s, by the same score
    v_t = v'  - (dt / 2) (F z' - N score' / 2)_v         at t, z' = (x_t, v')

Two network calls a step; the second one's state is not the next step's. Order 1 all the same, since the half
steps are Euler's, by a smaller constant than `rse`.

Source: Pandey et al. 2023, arXiv:2310.07894, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Past, Solver
from ._split import apart


@dataclass(frozen=True)
class RVV(Solver):
    key = "rvv"
    kinds = ("linear",)
    predicts = "score"
    order = 1
    source = "Pandey et al. 2023, arXiv:2310.07894"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        dt, x, v = s.t - t.t, *apart(s)
        score, z = p.model(p.x, s), p.x
        F, N = s.process.f(s.t), s.process.g2(s.t)
        z = z - dt / 2 * v * (F * z - N / 2 * score)
        z = z - dt * x * (F * z - N / 2 * score)
        F, N = s.process.f(t.t), s.process.g2(t.t)
        p.x = z
        score = p.model(p.x, t)
        p.x = p.x - dt / 2 * v * (F * p.x - N / 2 * score)
        return []
