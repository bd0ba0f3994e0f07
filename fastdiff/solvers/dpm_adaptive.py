"""DPM-Solver-12 and -23: singlestep pairs in half log-SNR, noise prediction, with adaptive steps.

    u_1, u_2    at lambda_s + r h (order 2: r = 1/2; order 3: r = 1/3 and 2/3),      h = lambda_t - lambda_s
    y_1         (alpha_1 / alpha_s) x - sigma_1 (e^{r h} - 1) eps_s
    order 2     low:  x_t = A x - sigma_t (e^h - 1) eps_s
                high: low - sigma_t (e^h - 1) (eps_1 - eps_s) / (2 r)
    order 3     low:  the high one of order 2 with r = 1/3
                high: A x - sigma_t ((e^h - 1) eps_s + (e^h - 1 - h) (eps_2 - eps_s) / (r_2 h)),
                y_2 with e^{r_2 h} - 1 - r_2 h and (eps_1 - eps_s) / (r_1 h)

A = alpha_t / alpha_s. Steps in lambda by the paper's controller "i", or "pid" with p, i, d as in k-diffusion.
legacy=True takes one error for the whole batch, as public code does. order network calls an attempt.

Source: Lu et al. 2022, arXiv:2206.00927, algorithm 3 and appendix C.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.adaptive import Adaptive
from ..core.math import expm1
from ..core.process import Node
from ..core.solver import check_range


@dataclass(frozen=True)
class DPMAdaptive(Adaptive):
    key = "dpm-adaptive"
    predicts = "noise"
    source = "Lu et al. 2022, arXiv:2206.00927"
    measured_by = "low"

    rtol: float = 0.05
    atol: float = 0.0078  # of pictures in [-1, 1]: one level of 256
    h_init: float = 0.05
    order: Literal[2, 3] = 3
    controller: Literal["i", "pid"] = "i"
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    accept_safety: float = 0.81
    legacy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pcoeff", "icoeff", "dcoeff"):
            check_range(self, name, -100, 100)
        check_range(self, "accept_safety", 0, 1)

    @property
    def pid(self) -> tuple[float, float, float, float] | None:
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        if self.controller == "i":
            return None
        return (p + i + d) / self.order, -(p + 2 * d) / self.order, d / self.order, self.accept_safety

    @property
    def whole_batch(self) -> bool:
        return self.legacy

    def coordinate(self, n: Node) -> float:
        return float(n.lam)

    def node(self, clock: Any, v: Any) -> Node:
        return clock.at_lam(v)

    def attempt(self, p: Any, s: Node, t: Node) -> tuple[Any, Any]:
        h, e0 = t.lam - s.lam, p.model(p.x, s)
        A, B = t.alpha / s.alpha, expm1(h)
        u = s.at(s.lam + h / self.order)
        h1 = u.lam - s.lam
        d1 = p.model(u.alpha / s.alpha * p.x - u.sigma * expm1(h1) * e0, u) - e0
        middle = t.sigma * (h / (2 * h1)) * B * d1  # r = h1 / h
        if self.order == 2:
            return A * p.x - t.sigma * B * e0 - middle, -middle
        w = s.at(s.lam + h * 2 / 3)
        h2 = w.lam - s.lam
        y = w.alpha / s.alpha * p.x - w.sigma * (expm1(h2) * e0 + (expm1(h2) - h2) / h1 * d1)
        last = t.sigma * ((B - h) / h2) * (p.model(y, w) - e0)
        return A * p.x - t.sigma * B * e0 - last, middle - last
