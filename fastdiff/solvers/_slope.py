"""What Karras et al.'s one-step methods share: straight coordinates, and the churn before a step.

    y = x / c      d = dy / dtau: the "slope" prediction      c = alpha, tau = sigma / alpha; straight: 1, t
    churn          before a step rho_s -> rho_s (1 + gamma) by fresh noise times s_noise, rho = sigma / alpha,
                   gamma = min(churn / steps, sqrt(2) - 1)  where  s_tmin <= rho_s <= s_tmax

Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2 (churn is S_churn there).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import Number, log, log1p, plain
from ..core.process import Node
from ..core.solver import Past, Solver, check_range, renoise


@dataclass(frozen=True)
class Slope(Solver):
    """Base of the methods that step in (x / c, tau)."""

    predicts = "slope"

    churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("churn", "s_tmin", "s_tmax", "s_noise"):
            check_range(self, name, 0)

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def raised(self, p: Any, s: Node) -> Node:
        """The node the step starts from."""
        gamma = min(self.churn / p.steps, 2**0.5 - 1)
        if gamma == 0 or s.pure or not self.s_tmin <= plain(s.rho) <= self.s_tmax:
            return s
        u = s.at(s.lam - log1p(gamma))
        renoise(p, s, u, self.s_noise)
        return u

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """Straight paths are regular at alpha = 0."""
        return super().first(p, s, t) if plain(s.scale) == 0 else self.step(p, s, t, [])

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        return super().last(p, self.raised(p, s), t, past)


def along(x: Any, s: Node, t: Node, d: Any) -> Any:
    """Straight on from s to t with slope d."""
    return t.scale * (x / s.scale + (t.tau - s.tau) * d)


def at_tau(s: Node, tau: Number) -> Node:
    """The node of the same process at tau."""
    if s.process.kind == "linear":
        return s.process.node(tau)
    return s.at(log(1 - tau) - log(tau) if s.process.straight == "sum" else -log(tau))
