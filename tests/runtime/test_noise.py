"""noise= of a run: the user's draws, and Brownian paths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.noise.streams import column_stream
from fastdiff.runtime.noise import Draw

VP = fd.processes.VP()


def net(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(x)


def sampler(solver: str = "ddpm", steps: int = 6, process: Any = VP, **options: Any) -> fd.Sampler:
    times = fd.grid("logsnr", process, steps=steps)
    plan = fd.plan(solver, process, times, **options)
    return fd.Sampler(fd.Denoiser(net, process, predicts="noise"), plan)


def own(like: Tensor, draw: Draw) -> Tensor:
    """The draws that kernels make, made by hand."""
    return fd.noise.normal(like.shape, 7, stream=column_stream(draw.column), draw=draw.step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("solver", ["ddpm", "dpmpp-2m-sde", "euler-a"])
def test_a_callable_stands_where_the_draw_stood(solver: str, dtype: torch.dtype) -> None:
    """The same numbers in the same columns: the same bits."""
    x = torch.linspace(-1, 1, 45).view(5, 9).to(dtype)
    s = sampler(solver)
    assert torch.equal(s(x, seeds=7, noise=own), s(x, seeds=7))


def test_a_callable_is_asked_once_a_draw_with_its_place() -> None:
    asked = []

    def noise(like: Tensor, draw: Draw) -> Tensor:
        asked.append(draw)
        return torch.zeros_like(like)

    s = sampler("ddpm", 4)
    s(torch.ones(2, 3), noise=noise)
    times = s.plan.times.tolist()
    assert asked == [Draw(k, 0, times[k], times[k + 1]) for k in range(3)]
    asked.clear()
    sampler("heun", 4, churn=2.0)(torch.ones(2, 3), noise=noise)
    assert asked == [Draw(k, 0, None, None) for k in range(4)]  # churn is no increment


@pytest.mark.parametrize("noise", ["path", own])
def test_stop_and_go_on(noise: Any, tmp_path: Any) -> None:
    x, s = torch.linspace(-1, 1, 12).view(3, 4), sampler(steps=8)
    whole = s(x, seeds=7, noise=noise)
    state = s(x, seeds=7, noise=noise, stop=3)
    state.save(tmp_path / "state")
    state = fd.State.load(tmp_path / "state")
    assert torch.equal(s(state, noise=noise), whole)
    if noise == "path":
        assert torch.equal(s(state), whole)
    else:
        with pytest.raises(ValueError, match="callable"):
            s(state)
    with pytest.raises(ValueError, match="went by noise"):
        s(s(x, seeds=7, stop=3), noise=noise)


@pytest.mark.parametrize("bad, error", [
    (lambda like, draw: 3, "int"),
    (lambda like, draw: like[:1], "need"),
    (lambda like, draw: like.long(), "need"),
    ("paths", "'path'"),
    (3, "'path'"),
])  # fmt: skip
def test_what_is_no_noise_is_said(bad: Any, error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        sampler()(torch.ones(2, 3), noise=bad)
    with pytest.raises((ValueError, TypeError), match=error):
        fd.sample(fd.Denoiser(net, VP, predicts="noise"), (2, 3), solver="ddpm", steps=2, noise=bad)


def test_a_callable_wants_the_whole_batch() -> None:
    with pytest.raises(ValueError, match="chunk"):
        fd.sample(fd.Denoiser(net, VP, predicts="noise"), (4, 3), solver="ddpm", chunk=2, noise=own)


def test_gradients_pass_a_callable() -> None:
    """d x_0 / d noise by finite differences in float64 (the network is smooth: error ~ h^2 = 1e-10)."""
    x = torch.linspace(-1, 1, 4, dtype=torch.float64).view(1, 4)
    z = [fd.noise.normal((1, 4), 3, draw=k).double().requires_grad_() for k in range(6)]
    s = sampler()

    def run(z: list[Tensor]) -> Tensor:
        return s(x, noise=lambda like, draw: z[draw.step], gradient="full").sum()

    grads = torch.autograd.grad(run(z), z[:5])
    h = 1e-5
    for k in range(5):
        for i in range(4):
            near = [a.detach().clone() for a in z]
            near[k][0, i] += h
            up = run(near).item()
            near[k][0, i] -= 2 * h
            assert abs((up - run(near).item()) / (2 * h) - grads[k][0, i].item()) < 1e-8
