"""ALDA: data x and a chain of n - 1 auxiliary registers, each coupled to its neighbours, noise on the last.

    dz = -beta (D + Q) H z dt + sqrt(2 beta D) dw          Q_{i,i+1} = -1, Q_{i+1,i} = +1
    D = diag(0, .., 0, gamma)           H^{-1} = diag(1, M, .., M), the stationary law       gamma = 2 sqrt(M)

So x is as smooth as n - 1 integrals make it. Two registers are `CLD`. A network gives the part of the last
register alone: net(x, v1, v2, .., t, **cond) -> one tensor. Longer chains than 4 are beyond float64: at small
times nothing is left of a register beside those that integrate it.

Source: Singhal et al. 2023, arXiv:2302.07261.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .malda import MALDA


@dataclass(frozen=True)
class ALDA(MALDA):
    key = "alda"
    most = 4

    def coupling(self) -> tuple[np.ndarray, np.ndarray]:
        near = np.eye(self.count, k=-1) - np.eye(self.count, k=1)
        return np.arange(self.count) == self.count - 1, near
