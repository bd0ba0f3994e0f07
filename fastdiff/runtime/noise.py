"""Noise that the kernels do not draw themselves: a Brownian path per sample, or the user's own.

Its tensors stand where the draws stood, columns of the same linear step with the same coefficients.

A path lives on lambda in [-16, 16], cut in two again and again, so that runs of 20 and of 40 steps meet the
same motion. Under the solver's clock v (see `Recorder.noise`) a step from s to t gets

    xi = (W_v(t) - W_v(s)) / sqrt(v(s, t)),      v = int e^{2 clock lambda} dlambda,  or the time itself ("t")

Noise that is no increment (churn, restarts, Langevin sweeps) and steps over a stretch that was walked before
keep their independent draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.plan import Plan
from ..core.process import Process
from ..core.recorder import Span
from ..noise._clock import coefficients
from ..noise.streams import column_stream
from ..ops.brownian import brownian
from ..ops.normal import normal

EDGE = 16.0  # |lambda| at the ends of the tree; sigma / alpha from 1e-7 to 1e7
DEPTHS = 18, 30  # of the tree: cells of 1.2e-4 in lambda, finer where steps are; counters end at 30
TOGETHER = 8  # increments made at a time: they share the way down to them, and want memory

Key = tuple[int, int]  # step and column of a draw


class Draw(NamedTuple):
    """What a noise callable is asked for: noise(like, draw) -> a tensor like `like`, N(0, I) by elements.

    step, column  of the draw; the columns of a step are independent
    s, t          times from and to, where it is the increment of a Brownian motion; else None
    """

    step: int
    column: int
    s: float | None
    t: float | None


Noise = Callable[[Tensor, Draw], Tensor]


def check_noise(noise: Any) -> None:
    if noise is not None and noise != "path" and not callable(noise):
        raise ValueError(f"noise={noise!r}; allowed: None (independent draws), 'path', or noise(like, draw)")


class Walk:
    """The increments of a plan, cut into pieces that are drawn together. Host data, one for each plan."""

    def __init__(self, plan: Plan, process: Process):
        walked, kept, clocks = np.inf, [], []
        for key, span in draws_of(plan).items():
            if span is None or span[0] > walked:
                continue
            walked = span[1]
            kept.append((key, *span[:2]))
            clocks.append(span[2])
        ends = sorted({t for _, *pair in kept for t in pair}, reverse=True)
        self.depth, cells = _cells(process, ends)
        at = dict(zip(ends, cells, strict=True))
        measure = _measure(process, _one_of(clocks), self.depth)
        self.pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        self.where: dict[Key, tuple[int, int]] = {}
        self.held: dict[tuple[torch.device, int], tuple[Tensor, Tensor]] = {}  # of the pieces, on devices
        for first in range(0, len(kept), TOGETHER):
            some = kept[first : first + TOGETHER]
            bounds = sorted({at[t] for _, *pair in some for t in pair})
            coefs, v = coefficients(tuple(bounds), self.depth, measure)
            scale = torch.from_numpy((1 / np.sqrt(v)).astype(np.float32))
            self.where.update({key: (len(self.pieces), bounds.index(at[s])) for key, s, _ in some})
            self.pieces.append((torch.tensor(bounds), torch.from_numpy(coefs), scale))

    def draw(self, piece: int, like: Tensor, rng: Tensor, backend: str | None) -> Tensor:
        """The increments of a piece, (K, B, *) float32."""
        at, coefs, scale = self.pieces[piece]
        if rng.device.type != "cpu":
            if (rng.device, piece) not in self.held:  # at the first run, which no capture records
                self.held[rng.device, piece] = coefs.to(rng.device), scale.to(rng.device)
            coefs, scale = self.held[rng.device, piece]
        return brownian(like.shape, rng, at, self.depth, coefs=coefs, scale=scale, backend=backend)[0]


class Source:
    """The draws of one run as tensors. A draw that two stages read is the same tensor for both."""

    def __init__(self, plan: Plan, noise: Any, walk: Walk | None, like: Tensor, rng: Tensor, backend: Any):
        self.noise, self.walk, self.like, self.rng, self.backend = noise, walk, like, rng, backend
        self.last = {d: k for k, s in enumerate(plan.stages) for d in s.draws}
        self.made: dict[Key, Tensor] = {}
        self.pieces: dict[int, Tensor] = {}

    def of(self, k: int, draws: Iterable[Key], spans: Iterable[Span | None]) -> list[Tensor]:
        """The draws of stage k."""
        found = []
        for d, span in zip(draws, spans, strict=True):
            if d not in self.made:
                self.made[d] = self._make(d, span)
            found.append(self.made[d] if self.last[d] > k else self.made.pop(d))
        return found

    def _make(self, d: Key, span: Span | None) -> Tensor:
        if self.walk is None:
            return self._ask(Draw(*d, *(span[:2] if span else (None, None))))
        if d not in self.walk.where:
            step, column = d
            return normal(self.like.shape, self.rng, step, column_stream(column), backend=self.backend)
        piece, k = self.walk.where[d]
        if piece not in self.pieces:
            self.pieces = {piece: self.walk.draw(piece, self.like, self.rng, self.backend)}
        return self.pieces[piece][k]

    def _ask(self, draw: Draw) -> Tensor:
        like = self.like
        xi = self.noise(like, draw)
        if not isinstance(xi, Tensor):
            raise TypeError(f"noise gave {type(xi).__name__} for step {draw.step}; a tensor is allowed")
        if xi.shape != like.shape or xi.device != like.device or not xi.is_floating_point():
            came, need = (f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (xi, like))
            raise ValueError(f"noise gave {came} for step {draw.step}; need {need}")
        return xi if like.dtype == torch.float64 else xi.float()


def draws_of(plan: Plan) -> dict[Key, Span | None]:
    """Every draw of a plan in the order of the steps, with the increment it is."""
    found = {d: span for s in plan.stages for d, span in zip(s.draws, s.spans, strict=True)}
    return dict(sorted(found.items()))


def _one_of(clocks: list[float | str]) -> float | str:
    """The clock of the whole path. Increments of one path by several clocks would not be independent, so
    where they differ from step to step all go by the middle one: a change of the order of a step."""
    if "t" in clocks:
        return "t"
    return float(np.median(np.array(clocks or [1.0], dtype=np.float64)))


def _cells(process: Process, times: list[float]) -> tuple[int, list[int]]:
    """The depth at which these decreasing times lie in different cells, and the cells' edges."""
    lam = np.array([-np.inf if process.node(t).pure else float(process.lam(t)) for t in times])
    if (lam > EDGE).any():
        worst = times[int(lam.argmax())]
        raise ValueError(
            f"noise='path': lambda is {lam.max():.3g} at t={worst:g}; at most {EDGE:g} is allowed"
        )
    for depth in range(DEPTHS[0], DEPTHS[1] + 1):
        cells = np.ceil((np.maximum(lam, -EDGE) + EDGE) / (2 * EDGE) * 2**depth - 0.5).astype(int).tolist()
        if all(a < b for a, b in pairwise(cells)):
            return depth, cells
    raise ValueError(
        f"noise='path': two of the times lie within {2 * EDGE / 2 ** DEPTHS[1]:.1e} in lambda, or more than "
        f"one below lambda = -{EDGE:g}; the tree does not tell them apart"
    )


def _measure(process: Process, clock: float | str, depth: int) -> Callable[[Any, Any], Any]:
    """v of the cells' range [a, b]; the outermost cells reach to the ends where that is finite."""

    def lam(cell: Any, low: float, high: float) -> Any:
        x = 2 * EDGE * (np.asarray(cell, dtype=np.float64) / 2**depth) - EDGE
        return np.where(cell == 0, low, np.where(cell == 2**depth, high, x))

    def of_time(a: Any, b: Any) -> Any:
        a, b = (lam(c, -EDGE, EDGE) for c in (a, b))
        s, t = (np.maximum(process.time_of(v), process.t_zero) for v in (a, b))
        s = np.where(a == -EDGE, np.maximum(s, process.t_max), s)
        return s - t + 1e-12 * (b - a)  # where the process ends, no cell is without measure

    if clock == "t":
        return of_time
    rate = 2 * float(clock)
    ends = (-np.inf if rate > 0 else -EDGE, np.inf if rate < 0 else EDGE)

    def of_lambda(a: Any, b: Any) -> Any:
        a, b = lam(a, *ends), lam(b, *ends)
        if rate == 0:
            return b - a
        return np.exp(rate * (b if rate > 0 else a)) * -np.expm1(-abs(rate) * (b - a)) / abs(rate)

    return of_lambda


@lru_cache(maxsize=64)
def walk_of(plan: Plan, process: Process) -> Walk:
    return Walk(plan, process)
