"""Critically damped Langevin diffusion: data x, a velocity v of mass M, noise on v alone, t in [0, 1].

    d(x, v) = b [[0, 1/M], [-1, -gamma/M]] (x, v) dt + (0, sqrt(2 b gamma) dw)
    gamma^2 = 4 M (critical damping)          v_0 ~ N(0, kappa M)          prior N(0, 1) x N(0, M)

b is the authors' beta, linear from beta_min to beta_max; `beta(t)` is 2 b, as in `PSLD`, to which it is equal
at PSLD's gamma = 0 and nu = gamma / M. The network gives the part of v: net(x, v, t, **cond) -> one tensor.

Source: Dockhorn et al. 2022, arXiv:2112.07068.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.math import Number
from ..core.options import check_numbers, require
from ._phase_space import PhaseSpace


@dataclass(frozen=True)
class CLD(PhaseSpace):
    """mass: None is gamma^2 / 4."""

    key = "cld"
    registers = ("x", "v")

    gamma: float = 1.0
    mass: float | None = None
    beta_min: float = 4.0
    beta_max: float = 4.0
    kappa: float = 0.04

    def __post_init__(self) -> None:
        check_numbers(self, "gamma", "kappa")
        check_numbers(self, "mass", optional=True)
        super().__post_init__()
        require(self, self.gamma > 0, "gamma > 0", "gamma")
        require(self, self.mass is None or self.mass > 0, "mass > 0", "mass")
        require(self, self.kappa >= 0, "kappa >= 0", "kappa")

    def beta(self, t: Number) -> Number:
        return 2 * super().beta(t)

    def clock(self, t: Any) -> Any:
        return 2 * super().clock(t)

    def parts(self) -> tuple[Any, Any, Any, Any]:
        M = self.gamma**2 / 4 if self.mass is None else self.mass
        drift = [[0.0, 0.5 / M], [-0.5, -self.gamma / (2 * M)]]
        return drift, [[0.0, 0.0], [0.0, self.gamma]], [0.0, self.kappa * M], [[1.0, 0.0], [0.0, M]]
