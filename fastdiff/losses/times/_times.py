"""Times: where in [low, high] a training sample is noised to.

A law turns uniforms (stream 3, a function of seed and sample) into times t. Its importance weight is the
density of the uniform law over its own, so that  E[weight f(t)]  is the mean of f over [low, high]. Laws that
are meant to change what is learnt (logit-normal, EDM's) do not use it unless `unbiased`; laws that are meant
to reduce variance always do.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.process import Process
from ...core.registry import Registry
from ...noise.streams import TIMES
from ...ops.normal import normal, uniform

times: Registry[Times] = Registry(
    "time sampler", "fastdiff.losses.times", {"low-discrepancy": "stratified", "edm-lognormal": "edm"}
)


root_tau = math.sqrt(2 * math.pi)  # 1 / the normal density at 0


class Times:
    """Base of every law: a dataclass with a `key` and `draw`."""

    key: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        times.add(cls)

    @staticmethod
    def of(what: str, given: Any) -> Times:
        """A key's law, or a law itself."""
        law = times.make(given) if isinstance(given, str) else given
        if not isinstance(law, Times):
            raise TypeError(f"{what}: time_sampler must be a key or a Times, got {type(law).__name__}")
        return law

    def at(
        self, what: str, t: Any, process: Process, rng: Tensor, low: float, high: float
    ) -> tuple[Tensor, Tensor | None]:
        """What `draw` gives, or times of one's own where t is some."""
        if t is None:
            return self.draw(process, rng, low, high)
        if not isinstance(t, Tensor) or t.shape != (rng.shape[0],):
            came = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"{what}: t must be a tensor ({rng.shape[0]},), got {came}")
        return t.to(rng.device, torch.float64), None

    def draw(self, process: Process, rng: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
        """(t, importance weight or None for 1), float64 (B,) on the device of rng, t in [low, high]."""
        raise TypeError(f"{type(self).__name__} does not define draw")

    def observe(self, t: Tensor, loss: Tensor) -> None:
        """Told the losses of its times after each call, weights left out; most laws do not care."""


def positive(key: str, name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"time sampler {key!r}: {name} must be > 0, got {value!r}")


def uniforms(rng: Tensor, draw: int = 0) -> Tensor:
    """One uniform of (0, 1) for each sample, float64 (B,)."""
    return uniform((rng.shape[0],), rng, draw, TIMES, dtype=torch.float64)


def normals(rng: Tensor) -> Tensor:
    return normal((rng.shape[0],), rng, 0, TIMES, dtype=torch.float64)


def of_lam(process: Process, lam: Tensor, low: float, high: float) -> Tensor:
    """time_of, what lies beyond the ends of [low, high] on them."""
    return process.time_of(lam).clamp(low, high)


def lam_range(process: Process, low: float, high: float, key: str) -> tuple[float, float]:
    """lam at the noisy and at the clean end, both finite."""
    ends = float(process.lam(high)), float(process.lam(low))
    if not all(map(lambda v: abs(v) < float("inf"), ends)):
        raise ValueError(
            f"time sampler {key!r} needs a finite log-SNR at both ends of [{low:g}, {high:g}], got "
            f"{ends[1]:g} .. {ends[0]:g}: choose t_min and t_max"
        )
    return ends
