"""SSCS, symmetric splitting: half an exact Ornstein-Uhlenbeck step, a full kick by the score, the other half.

    score = -H z + (score + H z),      H^{-1} the covariance of the prior
    half steps    dz = -(F + G G^T H) z du + G dw, exactly          u runs down
    kick          z <- z + dt G G^T (score + H z)                  at the middle of the step

Exact where the data are the prior. Weak order 1, by the kick. legacy=True takes score and beta at the step's
start, as the released code does.

Source: Dockhorn et al. 2022, arXiv:2112.07068, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.matrix import Matrix
from ..core.solver import Past, Solver
from ._split import middle


@dataclass(frozen=True)
class SSCS(Solver):
    key = "sscs"
    kinds = ("linear",)
    predicts = "score"
    order = 1
    stochastic = True
    source = "Dockhorn et al. 2022, arXiv:2112.07068"

    legacy: bool = False

    def step(self, p: Any, s: Any, t: Any, past: Past) -> Past:
        m: Any = middle(s, t)
        H = np.linalg.inv(s.process.system.rest)
        self.half(p, s, m, H)
        at = s if self.legacy else m
        score = p.model(p.x, at)
        p.x = p.x + (s.t - t.t) * s.process.g2(at.t) * (score + Matrix(H) * p.x)
        self.half(p, *((s, m) if self.legacy else (m, t)), H)
        return []

    def half(self, p: Any, s: Any, t: Any, H: np.ndarray) -> None:
        Phi, Q = s.process.along(s.host, t.host, lambda F, N: (-F - N @ H, N))
        p.x = Matrix(Phi) * p.x + Matrix(Q).sqrt() * p.noise()
