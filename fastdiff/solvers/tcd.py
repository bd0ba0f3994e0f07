"""TCD: trajectory consistency sampling, a deterministic jump beyond the next time and back up by fresh noise.

    u   at time (1 - gamma) t
    y   = alpha_u x0 + sigma_u eps
    x_t = (alpha_t / alpha_u) y + sqrt(sigma_t^2 - (alpha_t / alpha_u)^2 sigma_u^2) xi

gamma = 0 is `ddim`, gamma = 1 is `lcm`; between, of order 0: for networks that were distilled to make such
jumps (others do not converge). legacy=True rounds u down to a step of the network's `train_steps`, as
diffusers (which calls gamma eta).

Source: Zheng et al. 2024, arXiv:2402.19159, algorithm 2.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.math import decided, plain
from ..core.process import Node
from ..core.solver import Past, Solver, check_range, renoise


@dataclass(frozen=True)
class TCD(Solver):
    key = "tcd"
    predicts = "data"
    source = "Zheng et al. 2024, arXiv:2402.19159"

    gamma: float = 0.3
    legacy: bool = False
    train_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "gamma", 0, 1)
        check_range(self, "train_steps", 1)

    @property
    def order(self) -> int:
        return 0 if self.gamma else 1

    @property
    def stochastic(self) -> bool:
        return self.gamma > 0

    def beyond(self, t: Node) -> Node:
        if not self.gamma or plain(t.t) <= 0:  # some processes go on below 0
            return t
        if not self.legacy:
            return t.process.node((1 - self.gamma) * t.t)
        time = t.t if isinstance(t.t, np.ndarray) else plain(t.t)
        index = np.round(time * self.train_steps - 1, 6)
        if decided(index, lambda v: v < 0.5):
            return t
        down = (np.floor((1 - self.gamma) * index) + 1) / self.train_steps
        return t.process.node(0 * t.t + (down if isinstance(down, np.ndarray) else float(down)))

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        u = self.beyond(t)
        x0 = p.model(p.x, s)
        p.x = u.alpha * x0 + u.sigma / s.sigma * (p.x - s.alpha * x0)
        if u is not t:
            renoise(p, u, t)
        return []

    def first(self, p: Any, s: Node, t: Node) -> Past:
        return self.step(p, s, t, [])
