"""What the linear SDEs share: their fields, checked, and what the data fix at t = 0."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..core.errors import unknown
from ..core.linear import LinearProcess, System
from ..core.options import check_numbers, require

CONDITIONING = ("hsm", "dsm")
ROOTS = ("lower", "upper")


@dataclass(frozen=True, kw_only=True)
class PhaseSpace(LinearProcess):
    """conditioning  "hsm": given the data, the other registers have their spread at t = 0; "dsm": they are
    drawn
                  and kept, so that a network's noise is that of all registers given all
    root          "lower" | "upper": the triangular root of the covariance that noise is meant by; None: see
                  fastdiff.core.linear
    jitter        added to the variances; published code adds 1e-9
    """

    conditioning: str = "hsm"
    root: str | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.conditioning not in CONDITIONING:
            raise unknown("conditioning", self.conditioning, CONDITIONING)
        if self.root is not None and self.root not in ROOTS:
            raise unknown("root", self.root, ROOTS)
        check_numbers(self, "jitter", "beta_min", "beta_max")
        require(self, self.jitter >= 0, "jitter >= 0", "jitter")
        fits = self.beta_min >= 0 and self.beta_max >= 0 and self.beta_min + self.beta_max > 0
        require(self, fits, "beta_min, beta_max >= 0, not both 0", "beta_min", "beta_max")

    @cached_property
    def system(self) -> System:
        drift, noise, start, rest = (np.array(v, dtype=np.float64) for v in self.parts())
        data = (0,) if self.conditioning == "hsm" else tuple(range(len(drift)))
        return System(drift, noise, start, rest, data)

    def parts(self) -> tuple[Any, Any, Any, Any]:
        """Drift, G G^T, variances at t = 0 and covariance of the prior, for beta = 1."""
        raise TypeError(f"{type(self).__name__} does not define parts()")


def auxiliaries(count: int) -> tuple[str, ...]:
    """Names of count registers: x, v or x, v1, v2, ..."""
    return ("x", "v")[:count] if count < 3 else ("x", *(f"v{k}" for k in range(1, count)))


def from_dqh(D: np.ndarray, Q: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drift -(D + Q) H and G G^T = 2 D: N(0, H^{-1}) is stationary for every D >= 0 and antisymmetric Q."""
    return -(D + Q) @ H, 2 * D
