"""Process: x_t = alpha(t) x_0 + sigma(t) eps, eps ~ N(0, I); the data stand at small t, the noise at t_max.

A process may pull towards a given tensor c, its `const` (a degraded picture, the far end of a bridge):
x_t = alpha x_0 + sigma eps + offset(t) c. Solvers never see it: they step x - offset c.

A process file holds formulas only. They run over floats, numpy arrays, Reals (60 digits) and torch tensors
alike, by taking their elementary functions from `fastdiff.core.math`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from .math import Number, divide, has_zero, log
from .number import Real
from .registry import Registry

processes: Registry[Process] = Registry("process", "fastdiff.processes")


class Process:
    """Base of every process. A subclass gives `alpha`, `sigma`, their derivatives `dalpha`, `dsigma`, and
    `_time_of`.

        lam(t) = log(alpha / sigma)          f = d log alpha / dt          g^2 = d sigma^2 / dt - 2 f sigma^2

    `t_max` is the noisy end, `t_min` the last time worth evaluating, `t_zero` the time at which sigma is
    exactly 0.
    """

    key: ClassVar[str]
    kind: ClassVar[str] = "gaussian"  # or "linear": several tensors, see fastdiff.core.linear
    straight: ClassVar[str] = "alpha"  # the c in which x/c moves straight in sigma/c; "sum" is alpha + sigma
    default_grid: ClassVar[str] = "logsnr"
    train_steps: ClassVar[int | None] = None  # how many noise levels a discrete process was made of
    t_zero: ClassVar[float] = 0.0
    operators: Mapping[str, Callable[..., Any]] = {}  # name -> fn(*tensors, t=, params=), for `p.call`
    const: ClassVar[str | None] = None  # name of c in fd.sample(..., consts={name: c})
    t_min: float
    t_max: float

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        processes.add(cls)

    def alpha(self, t: Number) -> Number:
        raise TypeError(f"{type(self).__name__} does not define alpha(t)")

    def sigma(self, t: Number) -> Number:
        raise TypeError(f"{type(self).__name__} does not define sigma(t)")

    def dalpha(self, t: Number) -> Number:
        raise TypeError(f"{type(self).__name__} does not define dalpha(t)")

    def dsigma(self, t: Number) -> Number:
        raise TypeError(f"{type(self).__name__} does not define dsigma(t)")

    def offset(self, t: Number) -> Number:
        """The weight of `const` in x_t."""
        raise TypeError(f"{type(self).__name__} has no const")

    def doffset(self, t: Number) -> Number:
        raise TypeError(f"{type(self).__name__} has no const")

    def _time_of(self, lam: Any) -> Any:
        """time_of for float64 scalars and arrays."""
        raise TypeError(f"{type(self).__name__} does not define _time_of(lam)")

    def lam(self, t: Number) -> Number:
        """log(alpha / sigma), half the log signal-to-noise ratio, in nats."""
        return log(self.alpha(t)) - log(self.sigma(t))

    def dlam(self, t: Number) -> Number:
        return self.f(t) - divide(self.dsigma(t), self.sigma(t))

    def f(self, t: Number) -> Number:
        """Drift of the forward SDE dx = f x dt + g dw; infinite where alpha = 0."""
        return divide(self.dalpha(t), self.alpha(t))

    def g2(self, t: Number) -> Number:
        """Squared diffusion of the forward SDE."""
        return 2 * self.sigma(t) * (self.dsigma(t) - self.f(t) * self.sigma(t))

    def time_of(self, lam: Number) -> Number:
        """The time at which log(alpha / sigma) = lam."""
        if isinstance(lam, Real):
            return self._polish(float(self._time_of(float(lam))), lam)
        if hasattr(lam, "detach"):  # a tensor: the root, then one Newton step that carries its derivative
            root = lam.new_tensor(np.asarray(self._time_of(lam.detach().cpu().double().numpy())))
            return root + (lam - self.lam(root)) / self.dlam(root) if lam.requires_grad else root
        if isinstance(lam, (list, tuple, np.ndarray)):
            return np.asarray(self._time_of(np.asarray(lam, dtype=np.float64)))
        return float(self._time_of(float(lam)))

    def _polish(self, root: float, lam: Real) -> Real:
        """Newton's steps from 16 digits to 60: two of them, a few more beside a singular end."""
        t = Real(root)
        for _ in range(6 if math.isfinite(root) and lam.v.is_finite() else 0):
            step = (lam - self.lam(t)) / self.dlam(t)
            t = t + step
            if not abs(step) > abs(t) * 1e-31:
                break
        return t

    def prior_std(self, t: float) -> float:
        """Standard deviation of x at the noisy end of a grid that starts at t."""
        return float(self.sigma(float(t)))

    def model_index(self, t: Any, count: int) -> Any:
        """Step index of a network trained on `count` discrete steps t = (n + 1) / count, as a float."""
        return t * count - 1 if hasattr(t, "new_full") else np.asarray(t, dtype=np.float64) * count - 1

    def node(self, t: Number) -> Node:
        return Node(self, t, self.alpha(t), self.sigma(t))

    # filled by fastdiff.ops at import: formulas on this floor know no tensors
    _perturb: ClassVar[Callable[..., Any] | None] = None

    def perturb(self, x0: Any, t: Any, *, seeds: Any = None, consts: Any = None) -> Any:
        """(x_t, noise) with x_t = alpha(t) x0 + sigma(t) noise, one t per sample or one for all; noise from
        stream 2. consts: {const: c}, where the process has one. Tuples, of a linear process."""
        if Process._perturb is None:
            raise RuntimeError("Process.perturb needs torch: import fastdiff")
        return Process._perturb(self, x0, t, seeds=seeds, consts=consts)


@dataclass(frozen=True)
class Node:
    """One time of a grid with what formulas need: t, alpha, sigma, lam = log(alpha/sigma), rho =
    sigma/alpha."""

    process: Process
    t: Number
    alpha: Number
    sigma: Number

    @cached_property
    def lam(self) -> Number:
        return self.process.lam(self.t)

    @property
    def rho(self) -> Number:
        return divide(self.sigma, self.alpha)

    @property
    def dalpha(self) -> Number:
        return self.process.dalpha(self.t)

    @property
    def dsigma(self) -> Number:
        return self.process.dsigma(self.t)

    @cached_property
    def scale(self) -> Number:
        """c: for a single data point, x / c is a straight line in `tau`."""
        return self.alpha + self.sigma if self.process.straight == "sum" else self.alpha

    @cached_property
    def tau(self) -> Number:
        """sigma / c: rho for the processes of the VP and VE kind, t for the straight ones."""
        return self.sigma / self.scale

    @property
    def clean(self) -> bool:
        """sigma = 0: nothing but data is left."""
        return has_zero(self.sigma)

    @property
    def pure(self) -> bool:
        """alpha = 0: nothing but noise."""
        return has_zero(self.alpha)

    def at(self, lam: Number) -> Node:
        """Another node of the same process, by its lam."""
        return self.process.node(self.process.time_of(lam))

    def arrive(self, p: Any, t: Node) -> Any:
        """What p.x at this node is at sigma = 0: order 1 and no noise."""
        return t.alpha * p.model(p.x, self, "data")
