"""SDE-DPM-Solver++(3M): the three-step multistep method for the reverse SDE of noise level tau, eta = tau^2.

    x_t = (sigma_t / sigma_s) e^{-eta h} x_s + (1 + eta) alpha_t int_0^h e^{-(1 + eta)(h - u)} P(u) du
          + s_noise sigma_t sqrt(1 - e^{-2 eta h}) xi,      h = lambda_t - lambda_s

P: the parabola through the newest three data predictions over lambda - lambda_s; with two of them it equals
`dpmpp-2m-sde` with weight "heun", with eta = 0 `dpmpp-3m`. legacy=True halves P'', as public codes do. Weak
order 2 either way: predictions along a noisy path are no smooth function of lambda.

Source: Lu et al. 2022, arXiv:2211.01095, appendix A, as extended in k-diffusion (sample_dpmpp_3m_sde).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Multistep, Past
from ._exponential import Noisy, adams, fresh, singlestep


@dataclass(frozen=True)
class DPMpp3MSDE(Noisy, Multistep):
    key = "dpmpp-3m-sde"
    predicts = "data"
    source = "Lu et al. 2022, arXiv:2211.01095"

    order: int = 3
    legacy: bool = False

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = [*past, (s, p.model(p.x, s))]
        p.x = adams(p.x, s, t, "data", past[::-1], self.eta, 0.5 if self.legacy else 1)
        if self.eta:
            p.x = p.x + self.s_noise * t.sigma * fresh(p, s, t, self.eta)
        return past

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        m0 = p.model(p.x, s)
        p.x = singlestep(p, s, t, "data", m0, q, "pair", self.eta, self.s_noise)
        return [*past, (s, m0)]
