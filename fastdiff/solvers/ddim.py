"""DDIM: the data prediction, the noise that belongs to it, and a fraction eta of fresh noise.

    x_t = alpha_t x0 + sqrt(sigma_t^2 - c^2) eps + c xi
    c   = eta sigma_t sqrt(1 - e^{-2h}),      eps = (x_s - alpha_s x0) / sigma_s,      h = lambda_t - lambda_s

eta = 0: the first-order exponential step of the probability flow; eta = 1: the posterior of DDPM.
reproject=False keeps the network's own eps where a hook (a threshold) bent x0, as diffusers does by default.
Equals `euler-a` with the same eta, `euler` at eta = 0, `ddpm` at eta = 1; weak order 1.

On a linear process z_t = m_t + R_t R_s^{-1} (z_s - m_s), m = Phi x0, by the triangular root of the covariance
(a flow of the right marginals), or root="pf" (the probability flow, exact for data at one point). eta = 1 is
`ddpm` there; nothing lies between.

Source: Song et al. 2021, arXiv:2010.02502, equations 12 and 16.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import Number, expm1, sqrt
from ..core.matrix import Matrix
from ..core.process import Node
from ..core.solver import Past, Solver, check_range


@dataclass(frozen=True)
class DDIM(Solver):
    key = "ddim"
    kinds = ("gaussian", "linear")
    predicts = "data"
    order = 1
    source = "Song et al. 2021, arXiv:2010.02502"

    eta: float = 0.0
    reproject: bool = True
    root: Literal["cholesky", "pf"] = "cholesky"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "eta", 0, 1)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if s.process.kind == "linear":
            return self.of_registers(p, s, t)
        return self.jump(p, s, t, -expm1(2 * (s.lam - t.lam)))

    def first(self, p: Any, s: Node, t: Node) -> Past:
        return self.jump(p, s, t, 1)  # h = inf

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        return self.of_registers(p, s, t) if s.process.kind == "linear" else super().last(p, s, t, past)

    def of_registers(self, p: Any, s: Any, t: Any) -> Past:
        if self.eta or not self.reproject:
            raise ValueError("ddim on a linear process has eta=0 and reproject=True; ddpm is its eta=1")
        x0 = p.model(p.x, s)
        keep, data = s.process.implicit(s.host, t.host, self.root)
        p.x = Matrix(keep) * p.x + Matrix(data) * x0
        return []

    def jump(self, p: Any, s: Node, t: Node, fresh: Number) -> Past:
        x0 = p.model(p.x, s)
        eps = (p.x - s.alpha * x0) / s.sigma if self.reproject else p.unbent("noise")
        p.x = t.alpha * x0 + t.sigma * sqrt(1 - self.eta**2 * fresh) * eps
        if self.eta:
            p.x = p.x + self.eta * t.sigma * sqrt(fresh) * p.noise(s, t)
        return []
