"""MALDA: data x and n - 1 auxiliary registers, every one coupled to every other and with noise of its own.

    dz = -beta (D + Q) H z dt + sqrt(2 beta D) dw          Q_ij = -1 (i < j), +1 (i > j)
    D = diag(0, gamma, .., gamma)       H^{-1} = diag(1, M, .., M), the stationary law       gamma = 2 sqrt(M)

Two registers are `CLD`. A network gives the parts of the auxiliaries: net(x, v1, v2, .., t, **cond).

Source: Singhal et al. 2023, arXiv:2302.07261.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core.options import check_numbers, require
from ._phase_space import PhaseSpace, auxiliaries, from_dqh


@dataclass(frozen=True)
class MALDA(PhaseSpace):
    """count of registers, x among them; mass M is the auxiliaries' variance at rest, kappa M at t = 0."""

    key = "malda"
    most: ClassVar[int] = 8

    count: int = 3
    mass: float = 0.25
    beta_min: float = 4.0
    beta_max: float = 4.0
    kappa: float = 0.04

    def __post_init__(self) -> None:
        if type(self.count) is not int or not 2 <= self.count <= self.most:
            name = type(self).__name__
            raise ValueError(f"{name}: count must be an int from 2 to {self.most}, got {self.count!r}")
        check_numbers(self, "mass", "kappa")
        super().__post_init__()
        require(self, self.mass > 0 and self.kappa >= 0, "mass > 0 and kappa >= 0", "mass", "kappa")

    @property
    def registers(self) -> tuple[str, ...]:  # type: ignore[override]
        return auxiliaries(self.count)

    def coupling(self) -> tuple[np.ndarray, np.ndarray]:
        """Where noise enters, and Q."""
        one = np.ones((self.count, self.count))
        return np.arange(self.count) > 0, np.tril(one, -1) - np.triu(one, 1)

    def parts(self) -> tuple[Any, Any, Any, Any]:
        noisy, Q = self.coupling()
        rest = np.array([1.0, *[self.mass] * (self.count - 1)])
        drift, noise = from_dqh(np.diag(2 * self.mass**0.5 * noisy), Q, np.diag(1 / rest))
        return drift, noise, self.kappa * rest * (np.arange(self.count) > 0), np.diag(rest)
