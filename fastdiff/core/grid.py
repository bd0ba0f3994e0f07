"""Grid: where a sampler stops on its way from noise to data. Host float64, no tensors."""
from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .errors import unknown
from .process import Process
from .registry import Registry

grids: Registry[Grid] = Registry("grid", "fastdiff.grids")
FINALS = ("zero", "sigma_min", "denoise")


class Grid:
    """Base of every grid. A subclass is a frozen dataclass whose fields are its options, and gives `points`.

    `through` says what final="zero" means. False (grids in sigma or lambda, which never reach it): `steps`
    points down to sigma_min, then the zero. True (grids in t): the points themselves go down to the zero.
    """

    key: ClassVar[str]
    through: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        grids.add(cls)

    def points(self, process: Process, count: int, last: float) -> np.ndarray:
        """`count` strictly decreasing times from the noisy end to `last`."""
        raise TypeError(f"{type(self).__name__} does not define points(process, count, last)")

    def times(self, process: Process, steps: int, final: str = "zero") -> np.ndarray:
        """float64 times, steps + 1 of them, strictly decreasing."""
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
            raise TypeError(f"steps must be an int, got {type(steps).__name__}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if final not in FINALS:
            raise unknown("final", final, FINALS)
        if final == "zero" and not self.through:
            points = np.append(self.points(process, int(steps), process.t_min), process.t_zero)
        else:
            last = process.t_zero if final == "zero" else process.t_min
            points = self.points(process, int(steps) + 1, last)
        return check_times(points, process, f"grid {self.key!r}")


def check_times(times: Any, process: Process, what: str = "times") -> np.ndarray:
    """The times as float64, or the error that says what is wrong with them."""
    try:
        times = np.array(times.tolist() if hasattr(times, "detach") else times, dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise TypeError(f"{what} must be a sequence of numbers, got {type(times).__name__}") from e
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"{what} must be at least 2 times in one row, got shape {times.shape}")
    if np.isnan(times).any():
        raise ValueError(f"{what} has a NaN at index {int(np.isnan(times).argmax())}")
    if not (np.diff(times) < 0).all():
        i = int((np.diff(times) >= 0).argmax())
        raise ValueError(f"{what} must be strictly decreasing (noise to data), but "
                         f"times[{i}] = {times[i]:g} and times[{i + 1}] = {times[i + 1]:g}")
    top, bottom = process.t_max * (1 + 1e-12), process.t_zero
    if times[0] > top or times[-1] < bottom:
        raise ValueError(f"{what} must lie in [{bottom:g}, {process.t_max:g}] for {type(process).__name__}, "
                         f"got {times[0]:g} .. {times[-1]:g}")
    if times[-2] <= bottom:
        raise ValueError(f"{what}: only the last time may be the zero of the process ({bottom:g})")
    return times
