"""Heun's method in straight coordinates, with optional churn: the sampler of EDM.

    y         = Euler's step from s to t with d_s
    x_t / c_t = x_s / c_s + (tau_t - tau_s) (d_s + d_t(y)) / 2

Order 2 by two network calls a step; the last step to sigma = 0 is Euler's, one call. On a linear process it
is Heun's method in time for all registers.

Source: Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Past
from ._slope import Slope, along


@dataclass(frozen=True)
class Heun(Slope):
    key = "heun"
    kinds = ("gaussian", "linear")
    order = 2
    source = "Karras et al. 2022, arXiv:2206.00364"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        s = self.raised(p, s)
        d0 = p.model(p.x, s)
        d1 = p.model(along(p.x, s, t, d0), t)
        p.x = along(p.x, s, t, (d0 + d1) / 2)
        return []
