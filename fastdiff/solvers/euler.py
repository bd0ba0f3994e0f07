"""Euler's method in straight coordinates, with optional churn.

    x_t / c_t = x_s / c_s + (tau_t - tau_s) d_s

c = alpha, tau = sigma / alpha, d = eps (Karras' sigma); on straight paths c = 1, tau = t, d = eps - x0.
Without churn it equals `ddim`. On a linear process it is Euler's method in time for all registers.

Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2; IADB: Heitz et al. 2023, arXiv:2305.03486.
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

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        s = self.raised(p, s)
        d = p.model(p.x, s)
        p.x = along(p.x, s, t, d)
        return []
