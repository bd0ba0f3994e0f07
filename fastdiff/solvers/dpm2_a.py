"""Ancestral DPM2: the midpoint method down below the next level, then fresh noise up to it.

    up        = eta rho_t sqrt(1 - (rho_t / rho_s)^2),      down = sqrt(rho_t^2 - up^2)
    rho       = sigma / alpha
    u         at rho_u = sqrt(rho_s down);      y = Euler's step from s to u with eps_s
    x_t / alpha_t = x_s / alpha_s + (down - rho_s) eps_u(y) + s_noise up xi

Two network calls a step. With exact steps down the variance is exact at any step size; weak order 1, of the
split into a flow and its noise. eta = 0 is `dpm2` where paths are not straight. The first step from alpha = 0
is `euler-a`'s.

Source: Karras et al. 2022, arXiv:2206.00364, as written in k-diffusion (sample_dpm_2_ancestral).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import log, sqrt
from ..core.process import Node
from ..core.solver import Past
from ._exponential import Ancestral


@dataclass(frozen=True)
class DPM2A(Ancestral):
    key = "dpm2-a"
    order = 1
    source = "Karras et al. 2022, arXiv:2206.00364"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        up = self.eta * t.rho * sqrt(1 - (t.rho / s.rho) ** 2)
        down = sqrt(t.rho**2 - up**2)
        u = s.at(-(log(s.rho) + log(down)) / 2)
        y = p.x / s.alpha + (u.rho - s.rho) * p.model(p.x, s, "noise")
        eps = p.model(u.alpha * y, u, "noise")
        p.x = t.alpha * (p.x / s.alpha + (down - s.rho) * eps)
        if self.eta:
            p.x = p.x + t.alpha * self.s_noise * up * p.noise(s, t)
        return []
