"""Which snapshots of a chain of segments are kept, and in which order the others are made again.

    s snapshots and r times through any segment serve a chain of up to binom(s + r, s) of them

`Every(k)` keeps each k-th and makes a group of k again at once: 2 N calls for k > 1, N / k + k snapshots.
`Binomial(c)` holds at most c besides the first, by the split that makes the fewest segments again.

Source: Griewank & Walther 2000, doi:10.1145/347837.347846.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from math import comb
from typing import Any


@dataclass(frozen=True)
class Every:
    k: int

    def kept(self, count: int) -> frozenset[int]:
        return frozenset(range(1, count + 1, self.k))

    def slots(self, count: int) -> int:
        return count


@dataclass(frozen=True)
class Binomial:
    c: int

    def kept(self, count: int) -> frozenset[int]:
        first, last, slots, found = 1, count + 1, self.c, {1}
        while slots and last - first > slots + 1:
            first = split(first, last, slots)
            found.add(first)
            slots -= 1
        return frozenset(found) if not slots else frozenset(found | set(range(first, last)))

    def slots(self, count: int) -> int:
        return self.c


def split(first: int, last: int, slots: int) -> int:
    """The segment before which to keep a snapshot, of first .. last - 1 with `slots` of them free."""
    length, s = last - first, slots + 1
    r = next(r for r in range(1, length + 1) if comb(s + r, s) >= length)
    least = comb(s + r - 2, s) if r > 1 else 1
    return first + max(1, least, length - comb(s - 1 + r, s - 1))


def backwards(
    first: int,
    last: int,
    slots: int,
    kept: MutableMapping[int, Any],
    advance: Callable[[int, int, Any, bool], dict[int, Any]],
) -> Iterator[tuple[int, Any]]:
    """(j, snapshot before segment j) for j = last - 1 .. first; the snapshot before `first` is kept.
    advance(i, j, snapshot, all_of_them) -> the snapshots before j, or before i + 1 .. j."""
    while last - first > 1:
        inside = [j for j in kept if first < j < last]
        if inside:
            middle = max(inside)
        elif slots >= last - first - 1:
            kept.update(advance(first, last - 1, kept[first], True))
            continue
        elif slots <= 0:
            yield last - 1, advance(first, last - 1, kept[first], False)[last - 1]
            last -= 1
            continue
        else:
            middle = split(first, last, slots)
            kept.update(advance(first, middle, kept[first], False))
            inside = [middle]
        yield from backwards(middle, last, slots - len(inside), kept, advance)
        last = middle
    yield first, kept.pop(first)
