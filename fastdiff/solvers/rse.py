"""Reduced symplectic Euler: v by the old x, then x by the new v, one score for both.

    v_t = v_s - dt (F z - N score / 2)_v,      x_t = x_s - dt (F (x_s, v_t) - N score / 2)_x,      N = G G^T

F, N and the score of the probability flow at s, dt = s - t. Order 1: the one score is what the reduction
saves.

Source: Pandey et al. 2023, arXiv:2310.07894, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Past, Solver
from ._split import apart


@dataclass(frozen=True)
class RSE(Solver):
    key = "rse"
    kinds = ("linear",)
    predicts = "score"
    order = 1
    source = "Pandey et al. 2023, arXiv:2310.07894"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        dt, F, N = s.t - t.t, s.process.f(s.t), s.process.g2(s.t)
        score, z = p.model(p.x, s), p.x
        for some in reversed(apart(s)):
            z = z - dt * some * (F * z - N / 2 * score)
        p.x = z
        return []
