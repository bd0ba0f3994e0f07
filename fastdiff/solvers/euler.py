"""Euler's method in straight coordinates, with optional churn.

    x_t / c_t = x_s / c_s + (tau_t - tau_s) d_s

c = alpha, tau = sigma / alpha, d = eps (Karras' sigma); on straight paths c = 1, tau = t, d = eps - x0.
Without churn it equals `ddim`. On a linear process it is Euler's method in time for all registers.

    cfg_pp    x_t = alpha_t x0 + sigma_t eps,      x0 guided, eps of the unconditional half of the guidance

is CFG++, for scales between 0 and 1; where no guidance acts, the plain step. Each step adds guidance whatever
its length, so it is no rule for an ODE: more steps guide more strongly.

Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2; IADB: Heitz et al. 2023, arXiv:2305.03486; CFG++:
Chung et al. 2024, arXiv:2406.08070, algorithm 1.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Past
from ._slope import Slope, along


@dataclass(frozen=True)
class Euler(Slope):
    key = "euler"
    kinds = ("gaussian", "linear")
    order = 1
    source = "Karras et al. 2022, arXiv:2206.00364"

    cfg_pp: bool = False

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        s = self.raised(p, s)
        if self.cfg_pp:
            p.x = t.alpha * p.model(p.x, s, "data") + t.sigma * p.branch(1, "noise")
            return []
        d = p.model(p.x, s)
        p.x = along(p.x, s, t, d)
        return []
