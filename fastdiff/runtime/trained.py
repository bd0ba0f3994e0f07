"""Coefficients and times in place of a plan's own: what a run takes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.math import exp
from ..core.plan import Coefficients
from .denoiser import Denoiser
from .executor import Executor


def trained(
    e: Executor, coefficients: Coefficients | Sequence[Tensor] | None, like: Tensor
) -> tuple[list[Tensor] | None, list[Any] | None]:
    """(tables, network times) by stage; None: the plan's own."""
    if coefficients is None:
        return None, None
    stages = e.plan.stages
    rows = coefficients.tables if isinstance(coefficients, Coefficients) else list(coefficients)
    if len(rows) != len(stages):
        raise ValueError(f"coefficients: got {len(rows)} tables for a plan of {len(stages)} stages")
    tables = []
    for k, (s, given) in enumerate(zip(stages, rows, strict=True)):
        table = _table(given, e.device, like.shape[0])
        if not s.outputs:
            tables.append(table.new_zeros(0, 0))
            continue
        need = len(s.outputs), len(s.inputs) + len(s.draws)
        if tuple(table.shape[-2:]) != need or table.dim() not in (2, 3):
            raise ValueError(f"coefficients: table {k} has shape {tuple(table.shape)}, need {need}")
        if s.draws and not s.inputs:  # a stage of draws alone reads a zero, so that it has a batch
            table = torch.nn.functional.pad(table, (1, 0))
        tables.append(table)
    if not isinstance(coefficients, Coefficients):
        return tables, None
    times: list[Any] = list(e.times)
    called = [k for k, s in enumerate(stages) if s.call is not None]
    for k, t in zip(called, coefficients.times, strict=True):
        if times[k] is not None:
            times[k] = clock(e.denoiser, t, like)
    return tables, times


def _table(rows: Any, device: torch.device, batch: int) -> Tensor:
    """Rows of numbers, torch scalars and arrays over the samples, as one float64 tensor."""
    if isinstance(rows, Tensor):
        return rows.to(device, torch.float64)
    made = [[torch.as_tensor(v, dtype=torch.float64, device=device) for v in row] for row in rows]
    wide = any(v.dim() for row in made for v in row)
    if wide:
        made = [[v.expand(batch) for v in row] for row in made]
    if not made or not made[0]:
        return torch.zeros(len(made), 0, dtype=torch.float64, device=device)
    return torch.stack([torch.stack(row, -1) for row in made], -2)


def clock(denoiser: Denoiser, t: Any, like: Tensor) -> Tensor:
    """What the network is given at time t, differentiable where t is; an index is a whole number, so it is
    not."""
    if not isinstance(t, Tensor) or isinstance(denoiser.time, tuple):
        t = t.detach() if isinstance(t, Tensor) else t
        return denoiser.times_tensor(t, like).expand(like.shape[0]).clone()
    real = torch.float64 if like.dtype == torch.float64 else torch.float32
    if denoiser.time == "t":
        value = t
    else:
        lam = denoiser.process.lam(t)
        value = {"lambda": lambda: lam, "sigma": lambda: exp(-lam), "c_noise": lambda: -lam / 4}[
            denoiser.time
        ]()
    return value.to(like.device, real).expand(like.shape[0])
