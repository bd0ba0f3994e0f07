"""Ancestral Euler: Euler down below the next level, then fresh noise up to it; rho = sigma / alpha.

    up   = eta rho_t sqrt(1 - (rho_t / rho_s)^2),      down = sqrt(rho_t^2 - up^2)
    x_t / alpha_t = (down / rho_s) x_s / alpha_s + (1 - down / rho_s) x0 + s_noise up xi

Equals `ddim` with the same eta on every process; weak order 1.

Source: Karras et al. 2022, arXiv:2206.00364, as written in k-diffusion (sample_euler_ancestral).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import sqrt
from ..core.process import Node
from ..core.solver import Past, Solver, check_range


@dataclass(frozen=True)
class EulerA(Solver):
    key = "euler-a"
    predicts = "data"
    order = 1
    source = "Karras et al. 2022, arXiv:2206.00364"

    eta: float = 1.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "eta", 0, 1)
        check_range(self, "s_noise", 0)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        up = self.eta * t.rho * sqrt(1 - (t.rho / s.rho) ** 2)
        down = sqrt(t.rho**2 - up**2)
        x0 = p.model(p.x, s)
        p.x = t.alpha * (down / s.rho * p.x / s.alpha + (1 - down / s.rho) * x0)
        if self.eta:
            p.x = p.x + t.alpha * self.s_noise * up * p.noise(s, t)
        return []

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """rho_s = inf: up = eta rho_t."""
        x0 = p.model(p.x, s)
        p.x = t.alpha * x0 + sqrt(1 - self.eta**2) * t.sigma / s.sigma * p.x
        if self.eta:
            p.x = p.x + self.s_noise * self.eta * t.sigma * p.noise(s, t)
        return []
