"""fd.distill.Trajectory against the teacher's own states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.distill import Trajectory

DOUBLE = torch.float64
VP = fd.processes.VP()


def teacher(steps: int = 6) -> fd.Sampler:
    times = torch.linspace(0.9, 0.05, steps + 1).tolist()
    denoiser = fd.Denoiser(lambda x, t: torch.tanh(x), VP, predicts="noise")
    return fd.Sampler(denoiser, fd.plan("ddim", VP, times, predicts="noise"))


def student(w: Tensor):
    return lambda x, t: w * x[:, None] + t[:, None]


def test_written_out() -> None:
    """The states are DDIM's, x_t = alpha_t x0 + sigma_t eps, to 1e-12; value 1e-12, slope 1e-10."""
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(4, 3, generator=g, dtype=DOUBLE), torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    s, weights = teacher(), (0.2, 0.5, 0.3)
    loss = Trajectory(s, every=2, weights=weights, rho="l2")
    states, y, seen = loss.states(x), x, []
    for a, b in zip(s.plan.times[:-1], s.plan.times[1:], strict=True):
        eps = torch.tanh(y)
        y = VP.alpha(b) / VP.alpha(a) * (y - VP.sigma(a) * eps) + VP.sigma(b) * eps
        seen.append(y)
    torch.testing.assert_close(states, torch.stack(seen[1::2], 1), rtol=1e-12, atol=1e-12)
    said = student(w)(x, torch.tensor(loss.times))
    want = ((said - states).square().mean(2) * torch.tensor(weights, dtype=DOUBLE)).sum(1).mean()
    got = loss(student(w), x)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    slopes = [torch.autograd.grad(v, w)[0] for v in (got, want)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=0)
    torch.testing.assert_close(loss(student(w), x, states=states), got, rtol=0, atol=0)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="every"):
        Trajectory(teacher(), every=4)
    with pytest.raises(ValueError, match="weights"):
        Trajectory(teacher(), weights=[1.0])
    with pytest.raises(ValueError, match="net's output"):
        Trajectory(teacher())(lambda x, t: x, torch.zeros(2, 3))
