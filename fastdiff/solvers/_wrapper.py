"""A solver made of another one, its `inner`: what the two share."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..core.solver import Solver, solvers


@dataclass(frozen=True)
class Wrapper(Solver):
    """inner: a key of `fd.solvers.names()`, or a Solver with its options."""

    inner: str | Solver = "heun"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.inner, (str, Solver)):
            raise TypeError(
                f"solver {self.key!r}: inner must be a key or a Solver, got {type(self.inner).__name__}"
            )
        if self.made.adaptive:
            raise ValueError(f"solver {self.key!r}: inner {self.made.key!r} chooses its own steps")
        object.__setattr__(self, "predicts", self.made.predicts)  # what the formula wants is the inner one's

    @cached_property
    def made(self) -> Solver:
        return solvers.make(self.inner) if isinstance(self.inner, str) else self.inner

    @property
    def operators(self) -> Mapping[str, Callable[..., Any]]:  # type: ignore[override]
        return self.made.operators

    @property
    def order(self) -> Any:
        return self.made.order

    @property
    def stochastic(self) -> bool:
        return self.made.stochastic
