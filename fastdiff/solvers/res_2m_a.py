"""RES(2M) ancestral: a two-step exponential multistep step below the next level, then fresh noise up to it.

    up  = eta rho_t sqrt(1 - (rho_t / rho_s)^2),      down = sqrt(rho_t^2 - up^2),      rho = sigma / alpha
    x_t / alpha_t = e^{-k} x_s / alpha_s + (1 - e^{-k}) m_0 + (1 - (1 - e^{-k}) / k) d + s_noise up xi
    k   = log(rho_s / down),      d = (m_0 - m_1) k / k_previous

eta is the fraction of fresh noise, as in `ddim`; eta = 0 is `res-2m` (`dpmpp-2m`, weight "heun"), eta = 1 is
`dpmpp-2m-sde` with weight "heun". Weak order 2.

Source: Zhang et al. 2023, arXiv:2308.02157; the ancestral form: ComfyUI (sample_res_multistep_ancestral).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import exp, expm1
from ..core.process import Node
from ..core.solver import Multistep, Past
from ._exponential import Ancestral, below


@dataclass(frozen=True)
class RES2MA(Ancestral, Multistep):
    key = "res-2m-a"
    predicts = "data"
    source = "Zhang et al. 2023, arXiv:2308.02157"
    orders, startups = (1, 2), ("ramp",)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        k, up = below(s, t, self.eta)
        m0 = p.model(p.x, s)
        x = exp(-k) / s.alpha * p.x - expm1(-k) * m0
        if past:
            before, m1 = past[-1]
            x = x + (1 + expm1(-k) / k) * (k / before) * (m0 - m1)
        p.x = self.up(p, s, t, x, up)
        return [(k, m0)]
