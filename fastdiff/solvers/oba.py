"""OBA splitting of the reverse SDE: damping and noise exactly, then v, then x.

    O    z <- e^{D dt} z + noise, the exact Ornstein-Uhlenbeck step of D = diag(F) < 0 and G
    B    v <- v + dt (N score - (F + D) z)_v           N = G G^T, all at s
    A    x <- x + dt (N score - (F + D) z)_x           by the new v

splitting "bao" is B, A, O. reduced: A takes the score of B, so that a step is one network call.
position_noise (the authors' lambda_s) slows x's damping in the exponent of its noise alone. Weak order 1.

Source: Pandey et al. 2023, arXiv:2310.07894, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..core.matrix import Matrix
from ..core.solver import Past, Solver, check_range
from ._split import apart, asks


@dataclass(frozen=True)
class OBA(Solver):
    key = "oba"
    kinds = ("linear",)
    predicts = "score"
    order = 1
    stochastic = True
    source = "Pandey et al. 2023, arXiv:2310.07894"

    reduced: bool = False
    splitting: Literal["oba", "bao"] = "oba"
    position_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "position_noise", 0, 1)

    def step(self, p: Any, s: Any, t: Any, past: Past) -> Past:
        if self.splitting == "oba":
            self.damp(p, s, t)
        dt, F, N = s.t - t.t, s.process.f(s.t), s.process.g2(s.t)
        rest = F + Matrix([[a if i == j else 0 for j, a in enumerate(row)] for i, row in enumerate(F.rows)])
        score = None
        for some in reversed(apart(s)):
            if score is None or (asks(some, N) and not self.reduced):
                score = p.model(p.x, s)
            p.x = p.x + dt * some * (N * score - rest * p.x)
        if self.splitting == "bao":
            self.damp(p, s, t)
        return []

    def damp(self, p: Any, s: Any, t: Any) -> None:
        slow = np.ones(len(s.process.registers))
        slow[0] = self.position_noise

        def slowed(F: np.ndarray, N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.diag(np.diag(F) * slow), np.sqrt(np.outer(slow, slow)) * N

        Phi = s.process.along(s.host, t.host, lambda F, N: (np.diag(np.diag(F)), N)).Phi
        Q = s.process.along(s.host, t.host, slowed).Q
        p.x = Matrix(Phi) * p.x + Matrix(Q).sqrt() * p.noise()
