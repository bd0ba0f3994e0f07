"""Euler-Maruyama for the reverse SDE, in the process's own time.

    x_t = x_s - (f x_s - g^2 score) dt + g sqrt(dt) xi,      dt = s - t > 0,      f and g at s

Weak order 1, and strong order 1 since the noise is additive. On a straight path it is the rectified SDE
dx = (2 u + x / (1 - t)) dt + sqrt(2 t / (1 - t)) dW of a flow u. On a linear
process f and g are matrices and x is all registers.

Source: Song et al. 2021, arXiv:2011.13456, section 4.1.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import sqrt
from ..core.process import Node
from ..core.solver import Past, Solver


@dataclass(frozen=True)
class EM(Solver):
    key = "em"
    kinds = ("gaussian", "linear")
    predicts = "score"
    order = 1
    stochastic = True
    source = "Song et al. 2021, arXiv:2011.13456"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        dt, f, g2 = s.t - t.t, s.process.f(s.t), s.process.g2(s.t)
        score = p.model(p.x, s)
        p.x = (1 - f * dt) * p.x + g2 * dt * score + sqrt(g2 * dt) * p.noise(s, t, "t")
        return []
