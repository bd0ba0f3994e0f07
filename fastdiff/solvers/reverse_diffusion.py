"""Reverse diffusion: the forward chain's own step taken backwards, with the score's share and fresh noise.

    forward   x_s = a x_t + G xi              a = alpha_s / alpha_t,      G^2 = sigma_s^2 - a^2 sigma_t^2
    reverse   x_t = (2 - a) x_s + G^2 score + G xi

On a discrete chain a = sqrt(1 - beta) and G^2 = beta; on variance-exploding ones a = 1. Weak order 1.

Source: Song et al. 2021, arXiv:2011.13456, equation 46.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import expm1, sqrt
from ..core.process import Node
from ..core.solver import Past, Solver


@dataclass(frozen=True)
class ReverseDiffusion(Solver):
    key = "reverse-diffusion"
    predicts = "score"
    order = 1
    stochastic = True
    source = "Song et al. 2021, arXiv:2011.13456"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        a, g2 = s.alpha / t.alpha, s.sigma**2 * -expm1(2 * (s.lam - t.lam))
        score = p.model(p.x, s)
        p.x = (2 - a) * p.x + g2 * score + sqrt(g2) * p.noise(s, t)
        return []
