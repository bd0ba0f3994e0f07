"""Conjugate integrator: Euler's method in coordinates in which the linear part of the flow stands still.

    z_t = P ((1 - h B) z_s + W eps)          P, W: of dz/dt = (F - B) z + G G^T R^{-T} eps / 2, eps held
    B = strength 1 ("identity") or strength times the matrix of ones ("ones"), h = int beta

strength = 0 is the exact exponential integrator, which generalises DDIM to every linear process (on K = 1 it
is `ddim`). The authors' lambda is strength beta, tuned to the number of steps. Order 1.

Source: Pandey et al. 2023, arXiv:2310.07894, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..core.matrix import Matrix
from ..core.process import Node
from ..core.solver import Past, Solver, check_range


@dataclass(frozen=True)
class Conjugate(Solver):
    key = "conjugate"
    kinds = ("linear",)
    predicts = "noise"
    order = 1
    source = "Pandey et al. 2023, arXiv:2310.07894"

    strength: float = 0.0
    matrix: Literal["identity", "ones"] = "ones"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "strength", -100, 100)

    def step(self, p: Any, s: Any, t: Any, past: Past) -> Past:
        eps = p.model(p.x, s)
        K = len(s.process.registers)
        B = self.strength * (np.eye(K) if self.matrix == "identity" else np.ones((K, K)))
        P, W = s.process.hold(s.host, t.host, B if self.strength else None)
        p.x = Matrix(P) * p.x + Matrix(W) * eps
        return []

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        return self.step(p, s, t, past)
