"""The midpoint method in straight coordinates, with optional churn: DPM2 of k-diffusion, KDPM2 of diffusers.

    u         at tau_u = sqrt(tau_s tau_t)
    y         = Euler's step from s to u with d_s
    x_t / c_t = x_s / c_s + (tau_t - tau_s) d_u(y)

Order 2 by two network calls a step; the last step to sigma = 0 is Euler's, one call.

Source: Karras et al. 2022, arXiv:2206.00364, appendix; nodes: Lu et al. 2022, arXiv:2206.00927.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import sqrt
from ..core.process import Node
from ..core.solver import Past
from ._slope import Slope, along, at_tau


@dataclass(frozen=True)
class DPM2(Slope):
    key = "dpm2"
    order = 2
    source = "Karras et al. 2022, arXiv:2206.00364"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        s = self.raised(p, s)
        u = at_tau(s, sqrt(s.tau * t.tau))
        d = p.model(p.x, s)
        d = p.model(along(p.x, s, u, d), u)
        p.x = along(p.x, s, t, d)
        return []
