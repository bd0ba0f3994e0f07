"""Brownian increments of a sampling run against torchsde and k-diffusion, and against plain normals.

Each side makes its path anew and asks for its increments in order, as a sampler does, between the levels of
20 Karras steps: what k-diffusion's samplers ask of their tree. The floor is the normals that our tree must
draw for these times, counted, at the speed of `fd.noise.normal`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

import fastdiff as fd

from . import _peers
from ._case import Case, Goal, Scale, Spent, Work
from .sampler import sampling

SHAPE, INCREMENTS, DEPTH = (16, 4, 64, 64), 20, 16
GOALS = (
    Goal(least=25.0, peer="k-diffusion"),
    Goal(least=1.5, peer="torchsde"),
    Goal("of_normal", most=12.0),
)
Times = Sequence[float]


def drawn(times: Times, depth: int) -> float:
    """Normals of an element for each increment: the nodes of the tree above any of the times, and the leaves
    that a time cuts."""
    cells = [(t - times[0]) / (times[-1] - times[0]) * 2**depth for t in times[1:-1]]
    inner = {
        (level, int(c) >> (depth - level))
        for c in cells
        for level in range(depth)
        if c % 2 ** (depth - level)
    }
    return (1 + len(inner) + sum(c % 1 != 0 for c in cells)) / (len(times) - 1)


def interval(shape: tuple[int, ...], times: Times, apart: bool) -> Work | None:
    """torchsde's interval; apart: one for each sample, as the others' and our seeds are."""
    if (torchsde := _peers.torchsde()) is None:
        return None
    pairs = list(zip(times[:-1], times[1:], strict=True))

    def whole() -> Any:
        path = torchsde.BrownianInterval(times[0], times[-1], size=shape, entropy=0)
        return [path(s, t) for s, t in pairs]

    def each() -> Any:
        one = (1, *shape[1:])
        paths = [torchsde.BrownianInterval(times[0], times[-1], size=one, entropy=i) for i in range(shape[0])]
        return [torch.cat([path(s, t) for path in paths]) for s, t in pairs]

    return each if apart else whole


def tree(shape: tuple[int, ...], times: Times, apart: bool) -> Work | None:
    if (theirs := _peers.kdiffusion()) is None:
        return None
    x, points = torch.zeros(shape), [torch.tensor(t, dtype=torch.float64) for t in times]

    def run() -> Any:
        seed: Any = list(range(shape[0])) if apart else 0
        sampler = theirs.BrownianTreeNoiseSampler(x, points[0], points[-1], seed=seed)
        return [sampler(s, t) for s, t in zip(points[:-1], points[1:], strict=True)]

    return run


def made(case: str, times: Times, goals: tuple[Goal, ...] = ()) -> Case:
    size = int(np.prod(SHAPE))
    return Case(
        case,
        lambda: fd.noise.BrownianPath(SHAPE, 0, times[0], times[-1], depth=DEPTH).increments(times),
        {
            "torchsde BrownianInterval": interval(SHAPE, times, False),
            "torchsde BrownianInterval, one a sample": interval(SHAPE, times, True),
            "k-diffusion tree, one seed": tree(SHAPE, times, False),
            "k-diffusion tree, a seed a sample": tree(SHAPE, times, True),
        },
        normals=drawn(times, DEPTH) * size,
        units=INCREMENTS,
        shape=SHAPE,
        dtype=torch.float32,
        facts={"normals": drawn(times, DEPTH)},
        goals=goals,
    )


def query(n: int, scale: Scale) -> Case:
    """One increment between times that are no nodes, against as many normals."""
    shape = (16, n // 16)
    path = fd.noise.BrownianPath(shape, 0, 0.0, 1.0, depth=DEPTH, device=scale.device)
    return Case(
        "one increment",
        lambda: path.increment(0.3, 0.35),
        {"torch.randn": lambda: torch.randn(shape, device=scale.device)},
        bytes=4.0 * n,
        normals=n,
        shape=shape,
        dtype=torch.float32,
        along=n,
    )


def on_grid(scale: Scale) -> Case:
    """A step's default noise, that of the plan's own grid: a sampler's time less that of its twin without."""
    x, m = (torch.randn(SHAPE, device=scale.device) for _ in range(2))
    (noisy, plan), (silent, _) = (sampling("dpmpp-2m-sde", {"eta": e}, x, m, INCREMENTS) for e in (1.0, 0.0))

    def run() -> Spent:
        start = time.perf_counter()
        noisy()
        middle = time.perf_counter()
        silent()
        return Spent(2 * middle - start - time.perf_counter())

    return Case(
        "the plan's own grid",
        run,
        normals=x.numel(),
        units=plan.nfe,
        shape=SHAPE,
        dtype=x.dtype,
        goals=(Goal("of_normal", most=1.3),),
    )


def cases(scale: Scale) -> Iterator[Case]:
    for n in (1 << 16, 1 << 20, 1 << 24, 1 << 28) if scale.gpu else ():
        yield query(n, scale)
    if scale.gpu:
        return
    yield on_grid(scale)
    ends = 14.6146 ** (1 / 7), 0.0292 ** (1 / 7)  # of Stable Diffusion's levels
    karras = np.linspace(*ends, INCREMENTS + 1) ** 7
    yield made("a sampler's levels", karras[::-1].tolist(), GOALS)
    if scale.thorough:
        yield made("even times", np.linspace(0, 1, INCREMENTS + 1).tolist())
        scattered = np.random.default_rng(0).random(INCREMENTS - 1)
        yield made("scattered times", [0.0, *sorted(scattered.tolist()), 1.0])
