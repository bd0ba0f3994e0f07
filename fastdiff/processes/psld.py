"""Phase-space Langevin diffusion: data x and a velocity v of mass M, noise on both, t in [0, 1].

    d(x, v) = (beta / 2) [[-gamma, 1/M], [-1, -nu]] (x, v) dt + sqrt(beta) (sqrt(gamma) dw_x, sqrt(M nu) dw_v)
    1/M = (nu - gamma)^2 / 4  (critical damping)          v_0 ~ N(0, kappa M)          prior N(0, 1) x N(0, M)

gamma = 0 puts noise on v alone and asks a network for v's part of eps or score, nu = 0 on x alone; gamma = 0
is `CLD` with twice its beta. Networks: net(x, v, t, **cond) -> a pair.

Source: Pandey & Mandt 2023, arXiv:2303.01748.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.options import check_numbers, require
from ._phase_space import PhaseSpace


@dataclass(frozen=True)
class PSLD(PhaseSpace):
    key = "psld"
    registers = ("x", "v")

    nu: float = 4.01
    gamma: float = 0.01
    beta_min: float = 8.0
    beta_max: float = 8.0
    kappa: float = 0.04

    def __post_init__(self) -> None:
        check_numbers(self, "nu", "gamma", "kappa")
        super().__post_init__()
        fits = self.nu >= 0 and self.gamma >= 0 and self.nu != self.gamma
        require(self, fits, "nu >= 0, gamma >= 0 and nu != gamma", "nu", "gamma")
        require(self, self.kappa >= 0, "kappa >= 0", "kappa")

    @property
    def mass(self) -> float:
        return 4 / (self.nu - self.gamma) ** 2

    def parts(self) -> tuple[Any, Any, Any, Any]:
        M = self.mass
        drift = [[-self.gamma / 2, 0.5 / M], [-0.5, -self.nu / 2]]
        noise = [[self.gamma, 0.0], [0.0, M * self.nu]]
        return drift, noise, [0.0, self.kappa * M], [[1.0, 0.0], [0.0, M]]
