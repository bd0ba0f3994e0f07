"""Ancestral Euler: Euler down below the next level, then fresh noise up to it; rho = sigma / alpha.

    up   = eta rho_t sqrt(1 - (rho_t / rho_s)^2),      down = sqrt(rho_t^2 - up^2)
    x_t / alpha_t = (down / rho_s) x_s / alpha_s + (1 - down / rho_s) x0 + s_noise up xi

Equals `ddim` with the same eta on every process; weak order 1. cfg_pp=True is CFG++ (see `euler`): the noise
that is scaled down to `down` is the unconditional half's.

    x_t / alpha_t = x0 + down eps + s_noise up xi

Source: Karras et al. 2022, arXiv:2206.00364, as written in k-diffusion (sample_euler_ancestral); CFG++: Chung
et al. 2024, arXiv:2406.08070.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import sqrt
from ..core.process import Node
from ..core.solver import Past
from ._exponential import Ancestral


@dataclass(frozen=True)
class EulerA(Ancestral):
    key = "euler-a"
    predicts = "data"
    order = 1
    source = "Karras et al. 2022, arXiv:2206.00364"

    cfg_pp: bool = False

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        up = self.eta * t.rho * sqrt(1 - (t.rho / s.rho) ** 2)
        down = sqrt(t.rho**2 - up**2)
        x0 = p.model(p.x, s)
        if self.cfg_pp:
            p.x = t.alpha * (x0 + down * p.branch(1, "noise"))
        else:
            p.x = t.alpha * (down / s.rho * p.x / s.alpha + (1 - down / s.rho) * x0)
        if self.eta:
            p.x = p.x + t.alpha * self.s_noise * up * p.noise(s, t)
        return []
