"""Memory that a run writes into again: a fresh MiB costs 256 page faults, more than the step that fills it.

A block is used again only when nothing else holds it, neither a tensor nor a view, a numpy array, a saved
tensor of autograd or the storage itself; so no result ever changes under its owner. Devices have caching
allocators of their own.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor

LEAST = 1 << 16  # bytes; below it malloc hands out memory that is warm already
MOST = 6  # blocks kept: two of the caller's, and the history
_users = getattr(torch._C, "_storage_Use_Count", None)


class Block:
    __slots__ = ("address", "storage")

    def __init__(self, storage: torch.UntypedStorage):
        self.storage, self.address = storage, storage.data_ptr()

    def holders(self) -> tuple[int, int]:
        """C++'s and Python's."""
        s = self.storage
        return _users(s._cdata), sys.getrefcount(s)  # type: ignore[misc]


def _alone() -> Any:
    return None if _users is None else Block(torch.empty(1).untyped_storage()).holders()


ALONE = _alone()


class Memory:
    """Blocks of one size."""

    __slots__ = ("blocks", "shape", "size", "strides")

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.size, self.shape, self.strides = 0, torch.Size(), ()

    def __reduce__(self) -> Any:
        return Memory, ()

    def tensor(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A contiguous tensor of like's shape, with anything in it."""
        device, shape = like.device, like.shape
        size = like.numel() * dtype.itemsize
        if size < LEAST or ALONE is None or device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=device)
        if shape != self.shape:
            self.shape, self.strides = shape, tuple(math.prod(shape[i:]) for i in range(1, len(shape) + 1))
        if size != self.size:
            self.blocks, self.size = [], size
        for block in self.blocks:
            if block.holders() == ALONE:
                s = block.storage
                if s.data_ptr() == block.address and s.nbytes() == size:  # neither shared nor resized since
                    y = torch.empty(0, dtype=dtype, device=device)
                    return y.set_(s, 0, shape, self.strides)  # type: ignore[call-overload]
        y = torch.empty(shape, dtype=dtype, device=device)
        if len(self.blocks) == MOST:
            del self.blocks[0]
        self.blocks.append(Block(y.untyped_storage()))
        return y
