"""DDPM: ancestral sampling from the Gaussian posterior of x_t given x_s and the data prediction.

    x_t = e^{-h} (sigma_t / sigma_s) x_s + alpha_t (1 - e^{-2h}) x0 + c xi
    e^{-h} = alpha_s sigma_t / (alpha_t sigma_s)

    variance "small"    c = sigma_t sqrt(1 - e^{-2h})      the posterior's, for data at one point
    variance "large"    c = sigma_s sqrt(1 - e^{-2h})      the forward step's, for data of unit variance
    "learned-range"     log c between both, each element's weight (v + 1) / 2 by the network's second half v
    "learned"           2 log c = v

"small" equals `ddim` with eta = 1 and `dpmpp-2m-sde` of order 1; weak order 1. On a linear process it is the
posterior of all registers, and the only choice.

Source: Ho et al. 2020, arXiv:2006.11239, equation 7; Nichol & Dhariwal 2021, arXiv:2102.09672.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import Number, expm1, log, sqrt
from ..core.matrix import Matrix
from ..core.process import Node
from ..core.solver import Past, Solver, check_choice

VARIANCES = ("small", "large", "learned-range", "learned")


@dataclass(frozen=True)
class DDPM(Solver):
    key = "ddpm"
    kinds = ("gaussian", "linear")
    predicts = "data"
    order = 1
    stochastic = True
    source = "Ho et al. 2020, arXiv:2006.11239"

    variance: str = "small"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "variance", VARIANCES)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if s.process.kind == "linear":
            return self.of_registers(p, s, t)
        return self.jump(p, s, t, -expm1(2 * (s.lam - t.lam)))

    def first(self, p: Any, s: Node, t: Node) -> Past:
        return self.jump(p, s, t, 1)  # h = inf

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        return self.of_registers(p, s, t) if s.process.kind == "linear" else super().last(p, s, t, past)

    def of_registers(self, p: Any, s: Any, t: Any) -> Past:
        if self.variance != "small":
            raise ValueError(f"ddpm on a linear process has variance='small', got {self.variance!r}")
        x0 = p.model(p.x, s)
        made = s.process.posterior(s.host, t.host)
        p.x = Matrix(made.keep) * p.x + Matrix(made.data) * x0
        if not t.clean:
            p.x = p.x + Matrix(made.root) * p.noise()
        return []

    def jump(self, p: Any, s: Node, t: Node, fresh: Number) -> Past:
        x0 = p.model(p.x, s)
        if self.variance.startswith("learned"):
            mean = s.alpha / t.alpha * (t.sigma / s.sigma) ** 2 * p.x + t.alpha * fresh * x0
            ends = [2 * log(n.sigma) + log(fresh) for n in (t, s)] if self.variance != "learned" else []
            p.x = p.call("learned-noise", t, mean, p.further(), p.noise(s, t), params=ends)
            return []
        std = t.sigma if self.variance == "small" else s.sigma
        p.x = s.alpha / t.alpha * (t.sigma / s.sigma) ** 2 * p.x + t.alpha * fresh * x0
        p.x = p.x + std * sqrt(fresh) * p.noise(s, t)
        return []
