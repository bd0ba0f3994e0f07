"""Adaptive: a solver that chooses its steps while it runs, each sample its own.

An attempt goes from v to v + h in the solver's own coordinate v, which grows towards the data, and gives x_t
and an estimate of its error. Per sample, with  e = rms(error / max(atol, rtol max(|a|, |b|))):

    controller "i"      accepted where e <= 1                h' = h clip(safety e^{-exponent}, limits)
    controller "pid"    accepted where f >= accept_safety    h' = h f
                        f = 1 + atan(r_n^{b1} r_{n-1}^{b2} r_{n-2}^{b3} - 1),      r = 1 / (e + 1e-8)

a, b: x_t of the lower order and that of the step before it, or x_t and x_s ("high"). What stays of a refused
attempt is its size. The last step to sigma = 0 and a first one from alpha = 0 are those of every solver.
Source: Hairer, Norsett & Wanner 1993, section II.4; Soderlind 2003, doi:10.1145/641876.641877 (PID).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from .process import Node
from .solver import Solver, check_range


@dataclass(frozen=True)
class Adaptive(Solver):
    """Base of adaptive solvers; `fastdiff.runtime.adaptive` runs them.

    rtol, atol   what error a step may make, relative and absolute
    h_init       the first step tried, in the solver's coordinate
    safety       of controller "i"
    max_steps    attempts after which a run is given up
    sync_every   attempts between two looks at which samples are done: until then those ride along.
                 None: 1 on the CPU, 4 on other devices, where a look is a wait
    """

    adaptive = True

    rtol: float = 1e-3
    atol: float = 1e-3
    h_init: float = 0.01
    safety: float = 0.9
    max_steps: int = 10_000
    sync_every: int | None = None

    measured_by: ClassVar[Literal["low", "high"]] = "high"
    limits: ClassVar[tuple[float, float]] = (0.1, 10.0)  # of a step's change by controller "i"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rtol", "atol") if self.adaptive else ():
            check_range(self, name, 0, 1e300)
        if self.adaptive and self.rtol == 0 and self.atol == 0:
            raise ValueError(f"solver {self.key!r}: rtol and atol must not both be 0")
        check_range(self, "safety", 1e-3, 1)
        check_range(self, "h_init", 1e-12, 1e300)
        for name in ("max_steps", "sync_every"):
            v = getattr(self, name)
            if not (v is None and name == "sync_every") and (type(v) is not int or v < 1):
                raise ValueError(f"solver {self.key!r}: {name} must be an int of at least 1, got {v!r}")

    @property
    def exponent(self) -> float:
        """1 / (the power of h that the error goes by)."""
        return 1 / self.order

    @property
    def pid(self) -> tuple[float, float, float, float] | None:
        """(b1, b2, b3, accept_safety) of controller "pid"; None for "i"."""
        return None

    @property
    def whole_batch(self) -> bool:
        """One error and one step for all samples, as in public code: a sample then depends on its batch."""
        return False

    @property
    def reuses_last(self) -> bool:
        """The last network call of an attempt is made at (x_t, t), so the next step may begin with it."""
        return False

    def coordinate(self, n: Node) -> float:
        """v of a node of plain numbers."""
        raise TypeError(f"{type(self).__name__} does not define coordinate(n)")

    def node(self, clock: Any, v: Any) -> Node:
        """The node at v: by clock.at_lam or clock.at_time."""
        raise TypeError(f"{type(self).__name__} does not define node(clock, v)")

    def attempt(self, p: Any, s: Node, t: Node) -> tuple[Any, Any]:
        """(x_t, its error) from p.x at s, linear in tensors; coefficients are numbers for each sample."""
        raise TypeError(f"{type(self).__name__} does not define attempt(p, s, t)")
