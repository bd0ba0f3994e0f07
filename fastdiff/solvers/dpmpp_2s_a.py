"""DPM-Solver++(2S) ancestral: a 2S step down below the next level, then fresh noise up to it.

    up  = eta rho_t sqrt(1 - (rho_t / rho_s)^2),      down = sqrt(rho_t^2 - up^2),      rho = sigma / alpha
    u   at lambda_s + k / 2,      k = log(rho_s / down)
    y   = (sigma_u / sigma_s) x_s + alpha_u (1 - e^{-k/2}) m_0
    x_t / alpha_t = e^{-k} x_s / alpha_s + (1 - e^{-k}) m_u(y) + s_noise up xi

eta is the fraction of fresh noise, as in `ddim`; eta = 0 is `dpmpp-2s`. With eta = 1 u stands at t. Order 2
in law: the exact flow down and noise up keep every marginal.

Source: Lu et al. 2022, arXiv:2211.01095, as written in k-diffusion (sample_dpmpp_2s_ancestral).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import exp, expm1
from ..core.process import Node
from ..core.solver import Past
from ._exponential import Ancestral, adams, below


@dataclass(frozen=True)
class DPMpp2SA(Ancestral):
    key = "dpmpp-2s-a"
    predicts = "data"
    order = 2
    source = "Lu et al. 2022, arXiv:2211.01095"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        k, up = below(s, t, self.eta)
        u = s.at(s.lam + k / 2)
        m0 = p.model(p.x, s)
        m1 = p.model(adams(p.x, s, u, "data", [(s, m0)]), u)
        p.x = self.up(p, s, t, exp(-k) / s.alpha * p.x - expm1(-k) * m1, up)
        return []
