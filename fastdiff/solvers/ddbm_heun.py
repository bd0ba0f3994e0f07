"""DDBM's hybrid sampler: Euler-Maruyama on a part of each interval, Heun's method on the rest, both in time.

    u   = s + ratio (t - s)
    x_u = x_s + (u - s) (d_s - g_s^2 score_s / 2) + g_s sqrt(s - u) xi
    x_t = x_u + (t - u) (d_u(x_u) + d_t(y)) / 2,      y = x_u + (t - u) d_u(x_u)

d = dx/dt is the drift of the probability flow of x itself, the pull towards x_T included (weight 1 in the
paper). Weak order 1; ratio = 0 is Heun's method in time, order 2. Three network calls a step, two without
ratio, one for the last step to sigma = 0. Public code starts just below T at x = x_T; from T the step is
shared by all solvers.

Source: Zhou et al. 2024, arXiv:2309.16948, algorithm 1.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import sqrt
from ..core.process import Node
from ..core.solver import Past, Solver, check_range


@dataclass(frozen=True)
class DDBMHeun(Solver):
    key = "ddbm-heun"
    predicts = "data"
    source = "Zhou et al. 2024, arXiv:2309.16948"

    ratio: float = 0.33

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "ratio", 0, 1)

    @property
    def stochastic(self) -> bool:
        return self.ratio > 0

    @property
    def order(self) -> int:  # type: ignore[override]
        return 1 if self.ratio else 2

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        u = s
        if self.ratio:
            u = t if self.ratio == 1 else s.process.node(s.t + self.ratio * (t.t - s.t))
            dt, g2, x = u.t - s.t, s.process.g2(s.t), p.outside(p.x, s)
            d, eps = self.slope(p, p.x, s)
            x = x + dt * d + dt * g2 / (2 * s.sigma) * eps
            p.x = p.inside(x + sqrt(-g2 * dt) * p.noise(s, u, "t"), u)
        if u is not t:
            dt, x = t.t - u.t, p.outside(p.x, u)
            d, _ = self.slope(p, p.x, u)
            d1, _ = self.slope(p, p.inside(x + dt * d, t), t)
            p.x = p.inside(x + dt / 2 * (d + d1), t)
        return []

    def slope(self, p: Any, x: Any, s: Node) -> tuple[Any, Any]:
        """dx/dt of the whole x, and eps."""
        m, process = p.model(x, s), s.process
        eps = (x - s.alpha * m) / s.sigma
        d = s.dalpha * m + s.dsigma * eps
        return d if process.const is None else d + process.doffset(s.t) * p.const(process.const), eps
