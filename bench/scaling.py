"""How cost grows: with the batch, with the tensors that a pass reads, with the steps. Linear is what is
wanted; `growth` is the slope of log time over log size between the last two points, 1 where it is."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import fastdiff as fd

from ._case import Case, Scale
from .sampler import sampling

SAMPLE = (4, 16, 16)


def batch(n: int, scale: Scale) -> Case:
    x, m = (torch.randn(n, *SAMPLE, device=scale.device) for _ in range(2))
    ours, plan = sampling("dpmpp-2m", {}, x, m, 20)
    size = plan.traffic(1) * x.numel() * 4
    return Case(
        "dpmpp-2m, batch", ours, bytes=size, units=plan.nfe, shape=tuple(x.shape), dtype=x.dtype, along=n
    )


def tensors(n: int, scale: Scale) -> Case:
    T = [torch.randn(16, 1 << 14, device=scale.device) for _ in range(n)]
    out, A = [torch.empty_like(T[0])], torch.randn(1, n, device=scale.device)
    return Case(
        "linear_step, tensors read",
        lambda: fd.ops.linear_step_(T, A, out),
        bytes=(n + 1) * T[0].numel() * 4,
        shape=tuple(T[0].shape),
        dtype=T[0].dtype,
        along=n,
    )


def steps(n: int, scale: Scale) -> Case:
    x, m = (torch.randn(1, *SAMPLE, device=scale.device) for _ in range(2))
    ours, _ = sampling("dpmpp-2m", {}, x, m, n)
    return Case("dpmpp-2m, steps (time of all)", ours, shape=tuple(x.shape), dtype=x.dtype, along=n)


def cases(scale: Scale) -> Iterator[Case]:
    few = scale.quick
    for n in (1, 16, 256) if few else (1, 4, 16, 64, 256, 1024, 4096):
        yield batch(n, scale)
    for n in (1, 8) if few else range(1, 9):
        yield tensors(n, scale)
    for n in (1, 20) if few else (1, 5, 20, 100, 300, 1000):
        yield steps(n, scale)
