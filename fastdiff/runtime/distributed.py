"""Sampling over ranks: each takes its slice of the samples, and what they draw does not depend on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from ..noise.seeds import Seeds


def share(batch: int) -> tuple[int, int]:
    """The samples of this rank, first and past the last: as even as can be, in the order of the ranks."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    return batch * rank // ranks, batch * (rank + 1) // ranks


def check_distributed(distributed: Any) -> None:
    if distributed is None:
        return
    if distributed != "batch":
        raise ValueError(f"distributed={distributed!r}; allowed: None, 'batch'")
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "distributed='batch' needs a process group: call torch.distributed.init_process_group"
        )


def agreed(seeds: Any) -> Any:
    """Seeds that all ranks have: where they are left to chance, the first rank's."""
    if seeds is not None and not isinstance(seeds, torch.Generator):
        return seeds
    where = seeds.device if isinstance(seeds, torch.Generator) else "cpu"
    drawn = torch.randint(2**62, (1,), generator=seeds, device=where).tolist()
    dist.broadcast_object_list(drawn, src=0)
    return Seeds(drawn[0])


def gather(x: Tensor) -> Tensor:
    """The whole batch on every rank, from the slices that `fd.sample(..., distributed="batch")` gave."""
    check_distributed("batch")
    sizes = [torch.zeros((), dtype=torch.int64, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor(x.shape[0], device=x.device))
    counts = [int(n) for n in sizes]
    padded = x.new_zeros((max(counts), *x.shape[1:]))  # ranks must send alike
    padded[: x.shape[0]] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([p[:n] for p, n in zip(parts, counts, strict=True)])
