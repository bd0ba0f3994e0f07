"""DBIM: implicit and multistep steps on a diffusion bridge, in its own half log-SNR.

    z_t = b_t m + sqrt(c_t^2 - w^2) eps + w xi,      eps = (z_s - b_s m) / c_s,      z = x - a x_T
    w   = eta c_t sqrt(1 - e^{-2h}),                 h = lambda_t - lambda_s,        lambda = log(b / c)

    order 2, 3   z_t = (c_t / c_s) z_s + b_t int_0^h e^{u-h} P(u) du,  P through the newest data predictions

The published w = eta sigma_t sqrt(1 - rho_t^2 / rho_s^2) of the base is the same number. eta = 0 is the
probability flow, eta = 1 the Markov bridge; marginals are exact for each. So order 1 is `ddim`, order 2
`dpmpp-2m` with weight "heun" and order 3 `dpmpp-3m`, on `DiffusionBridge` as on any process. The prediction
at T enters no history (its lambda is -inf).

The draw of the step from T is the sample's latent. `fd.invert` leads data up to the first time below T, where
x = a x_T + b m(x_T) + c xi gives the xi that decodes to them; `fd.edit.Known` fills in pictures with holes.

Source: Zheng et al. 2025, arXiv:2405.15885.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import expm1, sqrt
from ..core.process import Node
from ..core.solver import Multistep, Past, check_range
from ._exponential import adams, singlestep


@dataclass(frozen=True)
class DBIM(Multistep):
    key = "dbim"
    predicts = "data"
    source = "Zheng et al. 2025, arXiv:2405.15885"

    order: int = 1
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "eta", 0, 1)
        if self.eta and self.order > 1:
            raise ValueError(f"solver 'dbim': eta={self.eta!r} needs order=1, got order={self.order}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        m = p.model(p.x, s)
        if self.eta == 0:
            past = [*past, (s, m)]
            p.x = adams(p.x, s, t, "data", past[::-1])
            return past if self.order > 1 else []
        w2 = -expm1(2 * (s.lam - t.lam)) * self.eta**2
        p.x = t.alpha * m + t.sigma * sqrt(1 - w2) * ((p.x - s.alpha * m) / s.sigma)
        p.x = p.x + t.sigma * sqrt(w2) * p.noise(s, t)
        return []

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        m = p.model(p.x, s)
        p.x = singlestep(p, s, t, "data", m, q)
        return [*past, (s, m)]
