"""What a sampler gives back besides x: a trajectory, or a state to go on from."""
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.plan import Plan

_KINDS = {"digest": str, "stage": int, "step": int, "dtype": torch.dtype, "registers": dict, "rng": Tensor}


@dataclass(frozen=True)
class Trajectory:
    """x (B, *): the result. times (N+1,): float64, as visited. states (N+1, B, *): x at each time. data (N, B, *): the newest
    data prediction of each step."""

    x: Tensor
    times: np.ndarray
    states: Tensor
    data: Tensor


@dataclass(frozen=True)
class State:
    """A sampler stopped between two steps: its plan's digest, the stage to go on with, how many steps are done, the dtype of x, the
    tensors still needed by register, the random keys. All tensors are its own; going on from it leaves it as it is."""

    digest: str
    stage: int
    step: int
    dtype: torch.dtype
    registers: dict[int, Tensor]
    rng: Tensor

    @property
    def like(self) -> Tensor:
        """A tensor of x's shape, dtype and device."""
        some = next(iter(self.registers.values()))
        return some if some.dtype == self.dtype else torch.empty_like(some, dtype=self.dtype)

    def check(self, plan: Plan) -> None:
        """Raise unless this plan can go on from here."""
        if self.digest != plan.digest:
            raise ValueError(f"this State was made by another plan (digest {self.digest[:8]}, here {plan.digest[:8]})")
        if not 0 < self.stage < len(plan.stages) or set(self.registers) != needed(plan, self.stage):
            raise ValueError(f"this State does not hold what stage {self.stage} of its plan reads")
        shape, device = self.like.shape, self.like.device
        if any(t.shape != shape or t.device != device for t in self.registers.values()) or self.rng.device != device:
            raise ValueError("the tensors of this State differ in shape or device")
        if self.rng.dtype != torch.int64 or self.rng.shape != (shape[0], 3):
            raise ValueError(f"this State has random keys {tuple(self.rng.shape)} {self.rng.dtype}; need ({shape[0]}, 3) int64")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state; an interruption leaves an older file whole."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        torch.save(vars(self), part)
        part.replace(path)

    @staticmethod
    def load(path: str | os.PathLike[str], device: torch.device | str | None = None) -> State:
        """Read a saved state (tensors and plain values only; nothing in the file is executed)."""
        try:
            data = torch.load(path, map_location=device, weights_only=True)
        except OSError:
            raise
        except Exception as e:  # whatever torch makes of bytes that are not its own
            raise ValueError(f"{os.fspath(path)}: not a saved fastdiff state") from e
        if not isinstance(data, dict) or set(data) != set(_KINDS) or not all(isinstance(data[k], kind) for k, kind in _KINDS.items()):
            raise ValueError(f"{os.fspath(path)}: not a saved fastdiff state")
        registers: dict[Any, Any] = data["registers"]
        if not registers or not all(isinstance(r, int) and isinstance(t, Tensor) for r, t in registers.items()):
            raise ValueError(f"{os.fspath(path)}: not a saved fastdiff state")
        return State(**data)


def needed(plan: Plan, stage: int) -> set[int]:
    """The registers that the stages from this one on read before they write them."""
    reads: set[int] = set()
    written: set[int] = set()
    for s in plan.stages[stage:]:
        reads |= set(s.inputs) - written
        written |= set(s.outputs)
        if s.call is not None:
            reads |= set(s.call.args) - written
            written |= set(s.call.outs)
    return reads | ({plan.out} - written)
