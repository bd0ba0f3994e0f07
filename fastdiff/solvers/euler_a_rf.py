"""Ancestral Euler of the flow samplers: down by a fraction of the step, scaled, then noise up.

    n = sigma / (alpha + sigma), which is t where alpha = 1 - t, sigma = t;      z = x / (alpha + sigma)
    d   = n_t (1 - eta (1 - n_t / n_s)),      y = (d / n_s) z_s + (1 - d / n_s) x0
    z_t = (1 - n_t) / (1 - d) y + s_noise sqrt(n_t^2 - (d (1 - n_t) / (1 - d))^2) xi

The same steps on every process, which z makes a straight path. Keeps the marginals, as `euler-a` does, by
another amount of noise: eta is tau^2 of the reverse SDE in the limit of small steps. Regular at alpha = 0.

Source: ComfyUI (sample_euler_ancestral_RF), after Karras et al. 2022, arXiv:2206.00364.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import sqrt
from ..core.process import Node
from ..core.solver import Past, Solver, check_range


@dataclass(frozen=True)
class EulerARF(Solver):
    key = "euler-a-rf"
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
        a, b = s.alpha + s.sigma, t.alpha + t.sigma
        ns, nt = s.sigma / a, t.sigma / b
        drop = nt * self.eta * (1 - nt / ns)  # n_t - d
        d = nt - drop
        scale = t.alpha / b / (1 - d)
        p.x = b * scale * (d / ns * p.x / a + (1 - d / ns) * p.model(p.x, s))
        if self.eta:
            # n^2 - (d scale)^2 = (n - d scale) (n + d scale), the first factor without cancellation
            p.x = p.x + b * self.s_noise * sqrt(drop / (1 - d) * (nt + d * scale)) * p.noise(s, t)
        return []

    def first(self, p: Any, s: Node, t: Node) -> Past:
        return self.step(p, s, t, [])
