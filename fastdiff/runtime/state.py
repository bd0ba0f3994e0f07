"""What a sampler gives back besides x: a trajectory, or a state to go on from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.plan import Plan

_KINDS = {
    "digest": str,
    "stage": int,
    "step": int,
    "dtype": torch.dtype,
    "registers": dict,
    "rng": Tensor,
    "noise": str,
}


@dataclass(frozen=True)
class Trajectory:
    """x (B, *): the result. times (N+1,): float64, as visited. states (N+1, B, *): x at each time.
    data (N, B, *): the newest data prediction of each step. registers: what a linear process moves besides x,
    by name, each (N+1, B, *): v at the end is registers["v"][-1]."""

    x: Tensor
    times: np.ndarray
    states: Tensor
    data: Tensor
    registers: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """A sampler stopped between two steps.

    digest     of its plan
    stage      to go on with
    step       how many steps are done
    dtype      of x
    registers  register -> tensor: what is still needed, in memory of its own; going on leaves it as it is
    rng        the random keys (B, 3)
    noise      "" (independent draws), "path" or "callable": what it went by, and goes on by
    """

    digest: str
    stage: int
    step: int
    dtype: torch.dtype
    registers: dict[int, Tensor]
    rng: Tensor
    noise: str = ""

    @property
    def like(self) -> Tensor:
        """A tensor of x's shape, dtype and device."""
        some = next(iter(self.registers.values()))
        return some if some.dtype == self.dtype else torch.empty_like(some, dtype=self.dtype)

    def check(self, plan: Plan) -> None:
        """Raise unless this plan can go on from here."""
        if self.digest != plan.digest:
            raise ValueError(
                f"this State was made by another plan (digest {self.digest[:8]}, here {plan.digest[:8]})"
            )
        if not 0 < self.stage < len(plan.stages) or set(self.registers) != needed(plan, self.stage):
            raise ValueError(f"this State does not hold what stage {self.stage} of its plan reads")
        if self.noise not in ("", "path", "callable"):
            raise ValueError(f"this State goes by noise {self.noise!r}; '', 'path' and 'callable' are known")
        shape, device = self.like.shape, self.like.device
        alike = all(t.shape == shape and t.device == device for t in self.registers.values())
        if not alike or self.rng.device != device:
            raise ValueError("the tensors of this State differ in shape or device")
        if self.rng.dtype != torch.int64 or self.rng.shape != (shape[0], 3):
            came = f"{tuple(self.rng.shape)} {self.rng.dtype}"
            raise ValueError(f"this State has random keys {came}; need ({shape[0]}, 3) int64")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state; an interruption leaves an older file whole."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        torch.save(vars(self), part)
        part.replace(path)

    @staticmethod
    def load(path: str | os.PathLike[str], device: torch.device | str | None = None) -> State:
        """Read a saved state (tensors and plain values only; nothing in the file is executed)."""
        error = ValueError(f"{os.fspath(path)}: not a saved fastdiff state")
        try:
            data = torch.load(path, map_location=device, weights_only=True)
        except OSError:
            raise
        except Exception as e:  # whatever torch makes of bytes that are not its own
            raise error from e
        if not isinstance(data, dict) or set(data) != set(_KINDS):
            raise error
        if not all(isinstance(data[k], kind) for k, kind in _KINDS.items()) or not data["registers"]:
            raise error
        if not all(isinstance(r, int) and isinstance(t, Tensor) for r, t in data["registers"].items()):
            raise error
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
