"""Seeds: which key and which sample id each sample of a batch has.

    seeds=s (int)          sample i uses (s, i)
    seeds=[s0, s1, ...]    sample i uses (seeds[i], 0)
    Seeds(s, ids=[...])    sample i uses (s, ids[i]): keeps its noise wherever it stands in a batch
    torch.Generator        one int is drawn from it
    None                   one int is drawn from torch's default generator

Kernels read them as rng (B, 3) int64 on the device: seed in [0, 2^63), sample id in [0, 2^56), draw base.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..ops._library import EAGER, route

SEED_END, ID_END = 2**63, 2**56


@dataclass(frozen=True)
class Seeds:
    """A seed (or one for each sample) and the samples' ids; None: 0, 1, ... for one seed, 0 for many."""

    seed: int | Sequence[int] | Tensor
    ids: Sequence[int] | Tensor | None = None

    def __post_init__(self) -> None:
        _check("seeds", self.seed, SEED_END)
        if self.ids is not None:
            _check("ids", self.ids, ID_END)
            if not _many(self.ids):
                raise TypeError(f"ids: got {self.ids!r}; a sequence of ints, one for each sample, is allowed")


SeedsLike: TypeAlias = "int | Sequence[int] | Tensor | Seeds | torch.Generator | None"


def resolve(seeds: SeedsLike, batch: int, device: torch.device | str = "cpu") -> Tensor:
    """rng (batch, 3) int64 on `device`: seed, sample id and draw base 0 of each sample."""
    device = torch.device(device)
    if batch < 0:
        raise ValueError(f"seeds: the batch has size {batch}; at least 0 is allowed")
    if type(seeds) is int:
        _in_range("seeds", seeds, SEED_END)
        if route(()) == EAGER and not _capturing(device):
            # the usual case: one kernel on tables kept for this batch size
            numbers, unit = _tables(batch, _exact(device))
            return torch.add(numbers, unit, alpha=seeds)
        return _table(
            torch.full((1,), seeds, dtype=torch.int64, device=device),
            torch.arange(batch, device=device),
            batch,
        )
    if seeds is None or isinstance(seeds, torch.Generator):
        where = seeds.device if isinstance(seeds, torch.Generator) else "cpu"
        seed = torch.randint(SEED_END - 1, (1,), generator=seeds, device=where, dtype=torch.int64).to(device)
        return _table(seed, torch.arange(batch, device=device), batch)
    if not isinstance(seeds, Seeds):
        seeds = Seeds(seeds)
    if seeds.ids is not None:
        ids = _column("ids", seeds.ids, batch, device)
    else:
        ids = torch.arange(batch, device=device)
        if _many(seeds.seed):
            ids = torch.zeros_like(ids)
    return _table(_column("seeds", seeds.seed, batch, device), ids, batch)


def _table(seed: Tensor, ids: Tensor, batch: int) -> Tensor:
    seed, ids = seed.expand(batch), ids.expand(batch)
    return torch.stack([seed, ids, torch.zeros_like(ids)], 1)


def _capturing(device: torch.device) -> bool:
    """A CUDA graph is being captured: what is made now has no value before the replay; keep none."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _exact(device: torch.device) -> torch.device:
    """cuda is whichever device is current now."""
    bare = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if bare else device


@lru_cache(maxsize=64)
def _tables(batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sample numbers, and ones where the seed goes."""
    with torch.inference_mode(False):
        numbers = torch.zeros(batch, 3, dtype=torch.int64, device=device)
        numbers[:, 1] = torch.arange(batch, device=device)
        unit = torch.zeros_like(numbers)
        unit[:, 0] = 1
        return numbers, unit


def _column(name: str, x: Any, batch: int, device: torch.device) -> Tensor:
    """Checked numbers as int64 on the device: one, or one for each sample."""
    if not _many(x):
        return torch.full((1,), operator.index(x), dtype=torch.int64, device=device)
    if len(x) != batch:
        raise ValueError(
            f"{name}: got {len(x)} of them for a batch of {batch}; one for each sample is allowed"
        )
    if isinstance(x, Tensor):
        return x.to(device, torch.int64)
    return torch.tensor([operator.index(v) for v in x], dtype=torch.int64).to(device)


def _many(x: Any) -> bool:
    """A sequence, a tensor or an array with a dimension; a set has no order and a string no numbers."""
    return getattr(x, "ndim", 0) > 0 or (isinstance(x, Sequence) and not isinstance(x, (str, bytes)))


def _in_range(name: str, x: Any, end: int) -> None:
    value = x if type(x) is int else _index(name, x)
    if not 0 <= value < end:
        raise ValueError(f"{name}: got {value}; 0 .. 2^{end.bit_length() - 1} - 1 is allowed")


def _index(name: str, x: Any) -> int:
    try:
        if isinstance(x, bool) or "bool" in str(getattr(x, "dtype", "")):
            raise TypeError
        return operator.index(x)
    except TypeError:
        raise TypeError(
            f"{name}: got {x!r} ({type(x).__name__}); allowed: an int, a sequence of ints, Seeds, "
            "a torch.Generator or None"
        ) from None


def _check(name: str, x: Any, end: int) -> None:
    """Look at every number. A CUDA tensor is waited for, unless a graph is being captured."""
    if not _many(x):
        _in_range(name, x, end)
    elif isinstance(x, Tensor):
        if x.dim() != 1 or x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
            raise TypeError(
                f"{name}: got a tensor {tuple(x.shape)} of {x.dtype}; one dimension of integers is allowed"
            )
        if route((x,)) == EAGER and x.numel() and not x.is_meta and not _capturing(x.device):
            _in_range(name, int(x.min()), end)
            _in_range(name, int(x.max()), end)
    else:
        for v in x:
            _in_range(name, v, end)
