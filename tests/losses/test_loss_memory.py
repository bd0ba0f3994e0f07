"""What a training step holds besides x_t, the prediction and its gradient: one tensor, the noise."""

from __future__ import annotations

import pytest
import torch

import fastdiff as fd
from fastdiff import _C  # type: ignore[attr-defined]

SHAPE = (2, 4, 64, 96)
SIZE = 4 * 2 * 4 * 64 * 96  # bytes


@pytest.mark.parametrize("predicts", ["noise", "data", "velocity", "flow"])
def test_one_extra_tensor(predicts: str) -> None:
    """Counted on both ways to memory: results of our kernels, and torch's own allocator by its profiler."""
    process = fd.processes.FlowMatching() if predicts == "flow" else fd.processes.VP()
    x0, output = torch.randn(SHAPE), torch.randn(SHAPE, requires_grad=True)
    loss = fd.losses.Denoising(process, predicts=predicts)
    activities = [torch.profiler.ProfilerActivity.CPU]
    before = _C.taken()
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        (slope,) = torch.autograd.grad(loss(lambda x, t: output, x0, seeds=0), output)
    ours = _C.taken() - before
    assert slope.shape == SHAPE
    torchs = [e.self_cpu_memory_usage for e in profile.events() if e.self_cpu_memory_usage >= SIZE]
    assert ours == 3 * SIZE + 4  # x_t, the noise, the slope, which is the gradient; and the loss
    assert not torchs
