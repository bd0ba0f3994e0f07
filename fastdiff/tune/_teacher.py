"""Teachers: fine runs of the same denoiser, and grids that can be trained.

theta = atan(sigma / alpha) orders all times and has an end on both sides; between finite lambdas the fine
times are even in lambda.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.hook import Hook
from ..core.process import Process
from ..core.solver import Solver
from ..runtime.denoiser import Denoiser
from ..runtime.sample import sample
from ..runtime.state import Trajectory

HELD = 4  # of each so many samples one is held out


def theta(process: Process, t: float) -> float:
    return math.atan2(float(process.sigma(t)), float(process.alpha(t)))


def refined(process: Process, times: Sequence[float] | np.ndarray, parts: int) -> np.ndarray:
    """The times with parts - 1 more in each of their intervals."""
    fine = [float(times[0])]
    share = np.arange(1, parts) / parts
    for s, t in zip(times[:-1], times[1:], strict=True):
        a, b = float(process.lam(float(s))), float(process.lam(float(t)))
        if math.isfinite(a) and math.isfinite(b):
            lam = a + (b - a) * share
        else:
            u, v = theta(process, float(s)), theta(process, float(t))
            lam = -np.log(np.tan(u + (v - u) * share))
        fine += [*np.asarray(process.time_of(lam)).tolist(), float(t)]
    return np.array(fine)


def taught(
    denoiser: Denoiser,
    shape_or_x: Any,
    times: np.ndarray,
    parts: int,
    teacher: str | Solver,
    seeds: Any = None,
    cond: Mapping[str, Any] | None = None,
    hooks: Sequence[Hook] = (),
) -> Trajectory:
    """The teacher's states at the fine times."""
    made = sample(
        denoiser, shape_or_x, solver=teacher, times=refined(denoiser.process, times, parts), seeds=seeds,
        cond=cond, hooks=list(hooks), trajectory=True,
    )  # fmt: skip
    assert isinstance(made, Trajectory)
    return made


def halves(count: int) -> tuple[Tensor, Tensor]:
    """Samples to learn from and samples held out; of fewer than HELD all are both."""
    index = torch.arange(count)
    if count < HELD:
        return index, index
    return index[index % HELD != 0], index[index % HELD == 0]


class Spacing:
    """Times between two fixed ends; `gaps` are trained: log shares of the whole in theta."""

    def __init__(self, process: Process, times: np.ndarray):
        self.process, self.ends = process, (float(times[0]), float(times[-1]))
        angles = np.array([theta(process, float(t)) for t in times])
        self.top, self.span = angles[0], angles[0] - angles[-1]
        self.gaps = torch.from_numpy(np.log(-np.diff(angles) / self.span))

    def times(self) -> list[Any]:
        inner = self.top - self.span * torch.softmax(self.gaps, 0).cumsum(0)[:-1]
        lam = -torch.log(torch.tan(inner))
        return [self.ends[0], *(self.process.time_of(v) for v in lam), self.ends[1]]

    def plain(self) -> np.ndarray:
        with torch.no_grad():
            return np.array([float(t) for t in self.times()])


def check_fit(name: str, denoiser: Denoiser, **counts: Any) -> None:
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"{name}: denoiser must be a fd.Denoiser, got {type(denoiser).__name__}")
    if denoiser.process.const is not None:
        raise ValueError(f"{name}: {denoiser.process!r} pulls to a const of each sample, got none to fit to")
    for what, v in counts.items():
        if isinstance(v, bool) or not isinstance(v, int) or v < 1:
            raise ValueError(f"{name}: {what} must be a positive int, got {v!r}")
