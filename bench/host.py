"""What the loop itself costs: whole samplers on a tensor too small to matter, per network call."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import fastdiff as fd

from ._case import Case, Goal, Scale
from .sampler import CASES, sampling


def op() -> Case:
    """One call of the public op from Python."""
    T, out = [torch.randn(1, 256) for _ in range(4)], [torch.empty(1, 256) for _ in range(2)]
    A = torch.randn(2, 4)
    return Case("fd.ops.linear_step_", lambda: fd.ops.linear_step_(T, A, out), shape=(1, 256))


def cases(scale: Scale) -> Iterator[Case]:
    yield op()
    x = torch.randn(1, 4, 8, 8)
    m = torch.randn_like(x)
    for name, ((solver, options), _, _) in CASES.items():
        ours, plan = sampling(solver, options, x, m, 20)
        what, shape = f"{name}, a step in the loop", tuple(x.shape)
        yield Case(what, ours, units=plan.nfe, shape=shape, dtype=x.dtype, goals=(Goal("ours_us", most=2.0),))
