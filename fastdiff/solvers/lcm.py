"""LCM: consistency sampling, to the data prediction and back up by fresh noise, again and again.

    x_t = alpha_t f + sigma_t xi,      f = x0

For networks whose x0 is the end of the flow (consistency models); with any other the result does not
converge to the data's law as steps grow, hence order 0. boundary=True is the parameterisation that diffusers
gives such networks: f = c_skip x + c_out x0 with c_skip = d^2 / (n^2 + d^2), c_out = n / sqrt(n^2 + d^2),
n = timestep_scaling (train_steps t - 1), d = sigma_data; of weight only beside n = 0.

Source: Luo et al. 2023, arXiv:2310.04378; Song et al. 2023, algorithm 1.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import sqrt
from ..core.process import Node
from ..core.solver import Past, Solver, check_range


@dataclass(frozen=True)
class LCM(Solver):
    key = "lcm"
    predicts = "data"
    order = 0
    stochastic = True
    source = "Luo et al. 2023, arXiv:2310.04378"

    boundary: bool = False
    timestep_scaling: float = 10.0
    sigma_data: float = 0.5
    train_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "timestep_scaling", 0)
        check_range(self, "sigma_data", 1e-6)
        check_range(self, "train_steps", 1)

    def consistent(self, p: Any, s: Node) -> Any:
        if not self.boundary:
            return p.model(p.x, s)
        n, d = self.timestep_scaling * (self.train_steps * s.t - 1), self.sigma_data
        x0 = p.model(p.x, s)
        return d * d / (n * n + d * d) * p.x + n / sqrt(n * n + d * d) * x0

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        p.x = t.alpha * self.consistent(p, s) + t.sigma * p.noise()
        return []

    def first(self, p: Any, s: Node, t: Node) -> Past:
        return self.step(p, s, t, [])

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        p.x = t.alpha * self.consistent(p, s)
        return []
