"""What a benchmark is and how it is measured.

A `Case` names the work, ours and the peers that do the same, the bytes that must move and the normals that
must be drawn. All of them, and a copy of as many bytes, take turns in one process until the budget is spent;
medians are compared. The floor of a case is its bytes at the copy's speed and its normals at the speed of
`fd.noise.normal` (which the suite `noise` holds against torch.randn).

Figures are of this machine while it did whatever else it did: compare ratios, not microseconds.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import fastdiff as fd

Work = Callable[[], Any]  # does the work once; returns None, or a Spent where not all of the call counts
Row = dict[str, Any]
YARDS = ("copy", "sums")  # what a case is held against from run to run: all memory, all arithmetic
HOST = 2048  # bytes of a copy that is all host time: what a case without bytes is compared with


class Spent(float):
    """Seconds that a work measured of itself, CPU only."""


@dataclass(frozen=True)
class Scale:
    """How much is asked: the device, whether few cases do, seconds a case may take."""

    device: str = "cpu"
    quick: bool = False
    budget: float = 1.0

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def thorough(self) -> bool:
        """Also what says little that is new."""
        return self.budget >= 1


@dataclass(frozen=True)
class Goal:
    """What a case should reach on one core of a quiet machine: a figure of its row, at least or at most so
    much; of every row of the case, or of that beside one peer."""

    figure: str = "ratio"
    least: float = 0.0
    most: float = math.inf
    peer: str | None = None  # how its name begins

    def about(self, row: Row) -> bool:
        return self.figure in row and (self.peer is None or str(row.get("peer")).startswith(self.peer))

    def met(self, row: Row) -> bool:
        return self.least <= row[self.figure] <= self.most

    def __str__(self) -> str:
        limit = f">= {self.least:g}" if self.least else f"<= {self.most:g}"
        return limit if self.figure == "ratio" else f"{self.figure.replace('_', ' ')} {limit}"


def judged(row: Row, goals: Sequence[Goal]) -> Row:
    """The row with the goals that are about it, and whether it meets them all."""
    about = [g for g in goals if g.about(row)]
    missed = [str(g) for g in about if not g.met(row)]
    if not about:
        return row
    return row | {"goal": ", ".join(map(str, about)), "met": not missed, "missed": ", ".join(missed)}


@dataclass(frozen=True)
class Case:
    what: str
    ours: Work | None  # None: it needs a peer that is not installed
    peers: Mapping[str, Work | None] = field(default_factory=dict)  # None: not installed
    bytes: float = 0.0  # of one unit
    normals: float = 0.0  # of one unit
    units: int = 1  # steps or draws in one call of a work; all figures are per unit
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    threads: int = 1
    along: float | None = None  # where it lies on the horizontal axis of the plot
    facts: Mapping[str, Any] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def copying(size: float, times: int, device: str) -> Work:
    """Moves `size` bytes by torch.copy_, half of them read, half written; again and again as a loop does."""
    source = torch.randn(max(1, round(size / 8)), device=device)
    target = torch.empty_like(source)

    def once() -> None:
        for _ in range(times):
            target.copy_(source)

    return once


def seconds(work: Work, device: str, least: float) -> list[float]:
    """Of each of as many calls as last `least`. The first of several is not counted: it pays for what the
    work before it left in the caches. On a GPU their mean, by its own clock."""
    if not device.startswith("cuda"):
        taken: list[float] = []
        begin = time.perf_counter()
        while True:
            start = time.perf_counter()
            spent = work()
            end = time.perf_counter()
            taken.append(float(spent) if isinstance(spent, Spent) else end - start)
            if end - begin >= least:
                return taken[1:] or taken
    count = 1
    while True:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        took = begin.elapsed_time(end) / 1e3
        if took >= least or count >= 10_000:
            return [took / count]
        count = min(10_000, max(2 * count, int(1.2 * count * least / max(took, 1e-6))))


def interleaved(
    work: Mapping[str, Work], device: str, budget: float, warm: Collection[str] = ()
) -> dict[str, list[float]]:
    """Seconds of each, taken in turn, so that what disturbs one disturbs all."""
    least, taken = 2e-3, {name: [] for name in work}
    for name, f in work.items():
        if name not in warm:
            f()
    stop, rounds = time.perf_counter() + budget, 0
    while rounds < 3 or (time.perf_counter() < stop and rounds < 2000):
        for name, f in work.items():
            taken[name] += seconds(f, device, least)
        rounds += 1
    return taken


def summing(device: str) -> Work:
    """Arithmetic on what lies in the first cache."""
    x = torch.rand(4096, device=device)
    y = torch.empty_like(x)

    def once() -> None:
        for _ in range(10):
            torch.exp(x, out=y)

    return once


def against(ours: Sequence[float], yard: Sequence[float]) -> float:
    """Ours in times of a yard: first deciles, which whoever else wants the core moves little."""

    def low(taken: Sequence[float]) -> float:
        return sorted(taken)[len(taken) // 10]

    return low(ours) / low(yard)


@functools.lru_cache
def normal_ns(n: int, device: str) -> float:
    """Nanoseconds of a normal of ours on n threads."""
    size = 1 << (24 if device.startswith("cuda") else 18)
    with threads(n):
        work = {"ours": lambda: fd.noise.normal((1, size), 0, device=device)}
        return statistics.median(interleaved(work, device, 0.1)["ours"]) / size * 1e9


def refusal(peer: Work) -> str:
    """Why a peer does not run here: other people's code must not stop ours from being measured."""
    try:
        peer()
    except Exception as error:
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:100]
    return ""


def measured(case: Case, scale: Scale) -> list[Row]:
    """A row for each peer, or one where there is none; peers that are not installed are named as skipped."""
    missing = [
        {"case": case.what, "shape": list(case.shape), "peer": n, "skipped": "not installed"}
        for n, f in case.peers.items()
        if f is None or case.ours is None
    ]
    if case.ours is None:
        return missing
    work: dict[str, Work] = {"ours": case.ours}
    work["copy"] = copying(case.bytes or HOST, case.units, scale.device)
    work["sums"] = summing(scale.device)
    for name, f in case.peers.items():
        if f is not None and (why := refusal(f)):
            missing.append({"case": case.what, "shape": list(case.shape), "peer": name, "skipped": why})
        elif f is not None:
            work[name] = f
    with threads(case.threads):
        taken = interleaved(work, scale.device, scale.budget, warm=case.peers)  # they have run once
    us = {name: statistics.median(t) / case.units * 1e6 for name, t in taken.items()}
    low, _, high = statistics.quantiles(taken["ours"], n=4)
    row: Row = {"case": case.what, "shape": list(case.shape), "threads": case.threads}
    row |= {"dtype": str(case.dtype).removeprefix("torch.")} if case.dtype else {}
    row |= {"along": case.along} if case.along is not None else {}
    row |= {"ours_us": us["ours"], "spread": (high - low) / statistics.median(taken["ours"])}
    row |= {"relative": {name: against(taken["ours"], taken[name]) for name in YARDS}}
    if each := math.prod(case.shape):
        row |= {"ns_each": us["ours"] * 1e3 / each}
        row |= {"of_normal": row["ns_each"] / normal_ns(case.threads, scale.device)} if case.normals else {}
    if case.bytes or case.normals:
        draws = case.normals * normal_ns(case.threads, scale.device) / 1e3 if case.normals else 0.0
        floor = draws + (us["copy"] if case.bytes else 0.0)
        row |= {"bytes": case.bytes, "floor_us": floor, "of_floor": floor / us["ours"]}
    if case.bytes:
        row |= {"copy_us": us["copy"], "copy_GBs": case.bytes / us["copy"] / 1e3}
        row |= {"of_copy": us["copy"] / us["ours"]}
    row |= case.facts
    peers = [n for n in us if n not in ("ours", *YARDS)]
    rows = [row | {"peer": n, "peer_us": us[n], "ratio": us[n] / us["ours"]} for n in peers] or [row]
    return [judged(r, case.goals) for r in rows] + missing


def passes(cases: Callable[[Scale], Iterable[Case]], scale: Scale) -> list[Row]:
    """The rows of a suite, from three passes over its cases where tensors are made anew each time: where in
    memory they lie, and what else the machine did, can be as much as a fifth. The figures are those of the
    pass in the middle, `relative` is the least. What takes long is measured once; so is all on a GPU, alone
    on it."""
    times, found = (1 if scale.gpu else 3), dict[int, list[list[Row]]]()
    part = replace(scale, budget=scale.budget / times)
    long: set[int] = set()
    for _ in range(times):
        for i, case in enumerate(cases(scale)):
            if i not in long:
                start = time.perf_counter()
                found.setdefault(i, []).append(measured(case, part))
                if time.perf_counter() - start > 3 * scale.budget + 1:
                    long.add(i)
    return [row for rows in found.values() for row in merged(rows)]


def merged(rows: list[list[Row]]) -> list[Row]:
    middle = sorted(rows, key=lambda r: r[0].get("ours_us", 0.0))[len(rows) // 2]
    least = {y: min(r[0]["relative"][y] for r in rows) for y in YARDS if "relative" in middle[0]}
    return [row | ({"relative": least} if "relative" in row else {}) for row in middle]
