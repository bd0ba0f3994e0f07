"""What a sampler gives back besides x: a trajectory, or a state to go on from."""
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Trajectory:
    """x (B, *): the result. times (N+1,): float64. states (N+1, B, *): x at each time. data (N, B, *): the newest data prediction of each step."""

    x: Tensor
    times: np.ndarray
    states: Tensor
    data: Tensor


@dataclass(frozen=True)
class State:
    """A sampler stopped between two steps: its plan's digest, the stage to go on with, the tensors alive, the random keys."""

    digest: str
    stage: int
    step: int
    registers: dict[int, Tensor]
    rng: Tensor

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state; an interruption leaves an older file whole."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        torch.save(vars(self), part)
        part.replace(path)

    @staticmethod
    def load(path: str | os.PathLike[str], device: torch.device | str | None = None) -> State:
        """Read a saved state (tensors and plain values only; nothing in the file is executed)."""
        data = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(data, dict) or set(data) != set(State.__dataclass_fields__):
            raise ValueError(f"{os.fspath(path)}: not a saved fastdiff state")
        return State(**data)
