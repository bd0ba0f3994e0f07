"""Ancestral sampling in score form: the posterior's mean by Tweedie's formula, then fresh noise.

    x_t = (x_s + G^2 score) / a + c xi,      a = alpha_s / alpha_t,      G^2 = sigma_s^2 - a^2 sigma_t^2

    variance "small"    c = G sigma_t / sigma_s      the posterior's, for data at one point
    variance "large"    c = G                        the forward step's
    variance "auto"     "small" where alpha stands still, "large" elsewhere: as the paper has it

Equals `ddpm` with the same variance wherever alpha_s > 0; "small" equals `euler-a`. Weak order 1.

Source: Song et al. 2021, arXiv:2011.13456, equations 4 and 47.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import expm1, plain, sqrt
from ..core.process import Node
from ..core.solver import Past, Solver


@dataclass(frozen=True)
class Ancestral(Solver):
    key = "ancestral"
    predicts = "score"
    order = 1
    stochastic = True
    source = "Song et al. 2021, arXiv:2011.13456"

    variance: Literal["auto", "small", "large"] = "auto"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        a, g2 = s.alpha / t.alpha, s.sigma**2 * -expm1(2 * (s.lam - t.lam))
        small = plain(s.alpha) == plain(t.alpha) if self.variance == "auto" else self.variance == "small"
        c = t.sigma / s.sigma * sqrt(g2) if small else sqrt(g2)
        p.x = (p.x + g2 * p.model(p.x, s)) / a + c * p.noise(s, t)
        return []
