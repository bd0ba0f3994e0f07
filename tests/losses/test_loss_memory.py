"""What a training step holds besides x_t, the prediction and its gradient: one tensor, the noise."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.ops import _backends

SHAPE = (2, 4, 64, 96)
SIZE = (
    4 * 2 * 4 * 64 * 96
)  # bytes: above what malloc keeps, so that `fresh` is asked for all that kernels write


@pytest.mark.parametrize("predicts", ["noise", "data", "velocity", "flow"])
def test_one_extra_tensor(monkeypatch: pytest.MonkeyPatch, predicts: str) -> None:
    """Counted on both ways to memory: results of our kernels, and torch's own allocator by its profiler."""
    process = fd.processes.FlowMatching() if predicts == "flow" else fd.processes.VP()
    x0, output = torch.randn(SHAPE), torch.randn(SHAPE, requires_grad=True)
    loss = fd.losses.Denoising(process, predicts=predicts)
    ours: list[int] = []
    fresh = _backends.fresh

    def counted(*args: Any) -> Tensor:
        y = fresh(*args)
        ours.append(y.nbytes)
        return y

    monkeypatch.setattr(_backends, "fresh", counted)
    monkeypatch.setattr(
        importlib.import_module("fastdiff.ops.regression_loss")._outputs, "__defaults__", (counted,)
    )
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        (slope,) = torch.autograd.grad(loss(lambda x, t: output, x0, seeds=0), output)
    assert slope.shape == SHAPE
    torchs = [e.self_cpu_memory_usage for e in profile.events() if e.self_cpu_memory_usage >= SIZE]
    assert sum(b >= SIZE for b in ours) == 3  # x_t, the noise, the slope, which is the gradient
    assert not torchs
