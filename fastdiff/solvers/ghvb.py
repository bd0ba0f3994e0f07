"""GHVB: generalised heavy ball, an Adams-Bashforth rule on the velocities of a heavy ball.

    v_i       = (1 - beta) v_{i-1} + beta d_i,      v_0 = d_0
    x_t / c_t = x_s / c_s + (tau_t - tau_s) (sum_j (p_j + q_j beta) v_{i-j}) / beta

order = k + beta, 0 < beta <= 1: K = k + 1 velocities with the weights that make the rule of order K where
steps are equal in tau = sigma / alpha; 2 at most on other grids. A larger beta is more accurate, a smaller
one more stable; beta = 1 is `ipndm` of order K. c, tau, d as in `euler`.

Source: Wizadwongsa et al. 2023, arXiv:2307.11118, section 4.2 and appendix.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Multistep, Past, Solver, check_choice, check_range
from ._adams import mixed
from ._coordinates import Straight
from ._slope import along


@dataclass(frozen=True)
class GHVB(Straight, Multistep):
    key = "ghvb"
    equal_steps = True
    memory = 1
    source = "Wizadwongsa et al. 2023, arXiv:2307.11118"
    orders, startups = (1.0, 1.5, 2.5, 3.5, 4.5), ("ramp",)  # type: ignore[assignment]

    order: float = 2.5

    def __post_init__(self) -> None:
        Solver.__post_init__(self)
        check_choice(self, "startup", self.startups)
        check_range(self, "order", 0.01, 5)

    @property
    def beta(self) -> float:
        """The digits after the point, as they are written: 2.3 means 0.3."""
        return round(self.order + 1 - math.ceil(self.order), 9)

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        return math.ceil(super().limit(step, steps, clean))

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        d = p.model(p.x, s)
        v = (1 - self.beta) * past[-1] + self.beta * d if past else d
        known = [v, *past[::-1]][: self.limit(p.step, p.steps)]
        p.x = along(p.x, s, t, mixed(known, self.beta))
        return known[::-1]
