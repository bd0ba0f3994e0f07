"""A forward SDE with a drift of one's own: dx = drift(x, t) dt + g(t) dw, with g of a base process.

drift(x, t) takes a tensor and a time; None is the base's own, f(t) x. With a drift the law of x_t given x_0
has no formula: alpha, sigma and lambda stay the base's, as names of the times, and only solvers that ask for
the drift (`rd-ddim`) take the process, with a network that predicts the score. x at t_max is the caller's to
give where its law is not the base's prior. VP(b, b) as the base has the constant g^2 = b.

Source: Singhal et al. 2024, arXiv:2407.07998.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..core.math import Number
from ..core.process import Process
from .vp import VP


@dataclass(frozen=True)
class NonlinearSDE(Process):
    key = "nonlinear-sde"
    kinds: ClassVar[tuple[str, ...]] = ("gaussian", "nonlinear")

    base: Process = field(default_factory=VP)
    drift: Callable[[Any, float], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.base, Process) or self.base.kind != "gaussian" or self.base.const is not None:
            raise TypeError("NonlinearSDE: base must be a Gaussian process without a const, got "
                            f"{self.base!r}")
        if self.drift is not None and not callable(self.drift):
            came = type(self.drift).__name__
            raise TypeError(f"NonlinearSDE: drift must be callable as drift(x, t), got {came}")

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "gaussian" if self.drift is None else "nonlinear"

    @property
    def operators(self) -> Mapping[str, Callable[..., Any]]:  # type: ignore[override]
        return {} if self.drift is None else {"drift": self._drift, "carry": self._carry}

    def _drift(self, x: Any, *, t: float, params: tuple[float, ...]) -> Any:
        assert self.drift is not None
        return self.drift(x, t)

    def _carry(self, x: Any, *, t: float, params: tuple[float, ...]) -> Any:
        """Without noise to the time params[0]: one step of the classical Runge-Kutta method."""
        assert self.drift is not None
        h, b = params[0] - t, self.drift
        k1 = b(x, t)
        k2 = b(x + h / 2 * k1, t + h / 2)
        k3 = b(x + h / 2 * k2, t + h / 2)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + b(x + h * k3, t + h))

    def perturb(self, x0: Any, t: Any, *, seeds: Any = None, consts: Any = None) -> Any:
        if self.drift is not None:
            raise ValueError("NonlinearSDE: with a drift of its own x_t has no formula; simulate it")
        return super().perturb(x0, t, seeds=seeds, consts=consts)

    @property
    def t_min(self) -> float:
        return self.base.t_min

    @property
    def t_max(self) -> float:
        return self.base.t_max

    @property
    def t_zero(self) -> float:  # type: ignore[override]
        return self.base.t_zero

    @property
    def default_grid(self) -> str:  # type: ignore[override]
        return self.base.default_grid if self.drift is None else "uniform-t"

    @property
    def train_steps(self) -> int | None:  # type: ignore[override]
        return self.base.train_steps

    def alpha(self, t: Number) -> Number:
        return self.base.alpha(t)

    def sigma(self, t: Number) -> Number:
        return self.base.sigma(t)

    def dalpha(self, t: Number) -> Number:
        return self.base.dalpha(t)

    def dsigma(self, t: Number) -> Number:
        return self.base.dsigma(t)

    def lam(self, t: Number) -> Number:
        return self.base.lam(t)

    def dlam(self, t: Number) -> Number:
        return self.base.dlam(t)

    def f(self, t: Number) -> Number:
        return self.base.f(t)

    def g2(self, t: Number) -> Number:
        return self.base.g2(t)

    def _time_of(self, lam: Any) -> Any:
        return self.base._time_of(lam)

    def prior_std(self, t: float) -> float:
        return self.base.prior_std(t)
