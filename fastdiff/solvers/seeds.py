"""SEEDS: exponential Runge-Kutta for the reverse SDE of noise level tau, eta = tau^2; data prediction.

    x_u = (sigma_u / sigma_s) e^{-eta h_u} x_s + (1 + eta) alpha_u sum_j b_j m_j + s_noise sigma_u n_u
    n_u = int sqrt(2 eta) e^{-eta (lambda_u - lambda)} dW_lambda,      h_u = lambda_u - lambda_s

    order 1   x_t from m_0
    order 2   by way of lambda_s + h / 2, then E_0 m_u ("midpoint")
    order 3   by way of lambda_s + h / 3 and + 2 h / 3: the tableau of `dpmpp-3s`

E_0 = int_0^h e^{-(1 + eta)(h - u)} du. The noise of all stages is one path: independent increments between
them. Weak orders 1, 2 and 2 (3 with eta = 0). eta = 0: `ddim`, `dpmpp-2s`, `dpmpp-3s`; order 1 with eta = 1
is `ddpm`.

Source: Gonzalez et al. 2023, arXiv:2305.14267, algorithms 1 to 3, in half log-SNR.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Node
from ..core.solver import Past
from ._exponential import Noisy, singlestep


@dataclass(frozen=True)
class SEEDS(Noisy):
    key = "seeds"
    predicts = "data"
    orders = (1, 2, 3)
    source = "Gonzalez et al. 2023, arXiv:2305.14267"

    order: Literal[1, 2, 3] = 2

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        weight = "midpoint" if self.order == 2 else "pair"
        p.x = singlestep(p, s, t, "data", p.model(p.x, s), self.order, weight, self.eta, self.s_noise)
        return []
