"""The same bits on a GPU; one CUDA graph for a whole run; no waiting for the device inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.core.solver import solvers
from fastdiff.guidance import CFG, DynamicThreshold
from fastdiff.runtime.adaptive import Run

pytestmark = pytest.mark.gpu
SOLVERS = ["ddim", "ddpm", "dpmpp-2m", "dpmpp-2m-sde", "unipc", "heun"]


@pytest.fixture
def denoiser(nets: Any, vp: fd.processes.VP) -> fd.Denoiser:
    return fd.Denoiser(nets.exact, vp, predicts="noise")


def ready(denoiser: fd.Denoiser, solver: str = "dpmpp-2m", **options: Any) -> fd.Sampler:
    times = fd.grid("logsnr", denoiser.process, steps=6)
    return fd.Sampler(denoiser, fd.plan(solver, denoiser.process, times, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_cpus_bits(denoiser: fd.Denoiser, solver: str, dtype: torch.dtype) -> None:
    run = {"solver": solver, "steps": 6, "seeds": 3, "dtype": dtype}
    want = fd.sample(denoiser, (3, 5, 4), **run)
    got = fd.sample(denoiser, (3, 5, 4), device="cuda", **run)
    assert got.is_cuda and torch.equal(got.cpu(), want)
    for backend in fd.ops.backends("cuda"):
        assert torch.equal(fd.sample(denoiser, (3, 5, 4), device="cuda", backend=backend, **run).cpu(), want)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_state_moves_between_devices(denoiser: fd.Denoiser, solver: str, tmp_path: Path) -> None:
    sampler, x = ready(denoiser, solver), torch.randn(3, 4)
    want = sampler(x, seeds=1)
    sampler(x.cuda(), seeds=1, stop=3).save(tmp_path / "state.pt")
    assert torch.equal(sampler(fd.State.load(tmp_path / "state.pt", "cpu")), want)
    assert torch.equal(sampler(fd.State.load(tmp_path / "state.pt")).cpu(), want)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_captured_run_is_the_run(denoiser: fd.Denoiser, solver: str) -> None:
    guidance = CFG(2.0, uncond={"y": torch.zeros(3, device="cuda")})
    sampler = ready(denoiser, solver, guidance=guidance)
    x, cond = torch.randn(3, 4, device="cuda"), {"y": torch.ones(3, device="cuda")}
    graph = sampler.capture(x, cond=cond)
    other = sampler.capture(x, cond=cond)
    kept = []
    for k in range(4):
        z, y = torch.randn(3, 4, device="cuda"), {"y": torch.randn(3, device="cuda")}
        got = graph(z, seeds=k, cond=y)
        other(x, seeds=99)
        want = sampler(z, seeds=k, cond=y)
        assert torch.equal(got, want)
        kept.append((got, want))
    assert all(torch.equal(a, b) for a, b in kept), "a later replay does not write over earlier results"


def test_captured_calls_are_checked(denoiser: fd.Denoiser) -> None:
    x = torch.randn(3, 4, device="cuda")
    graph = ready(denoiser).capture(x, cond={"y": torch.ones(3, device="cuda")})
    for wrong in (torch.randn(2, 4, device="cuda"), x.double(), x.cpu()):
        with pytest.raises(ValueError, match="captured for"):
            graph(wrong)
    with pytest.raises(ValueError, match="cond"):
        graph(x, cond={"z": torch.ones(3, device="cuda")})
    with pytest.raises(ValueError, match="CUDA"):
        ready(denoiser).capture(x.cpu())


def test_the_host_does_not_wait(denoiser: fd.Denoiser) -> None:
    x, cond = torch.randn(3, 4, device="cuda"), {"y": torch.ones(3, device="cuda")}
    guidance = CFG(2.0, uncond={"y": torch.zeros(3, device="cuda")})
    for solver in SOLVERS:
        sampler = ready(denoiser, solver, guidance=guidance, hooks=[DynamicThreshold(0.9)])
        sampler(x, seeds=0, cond=cond)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            sampler(x, seeds=1, cond=cond)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_gradients(vp: fd.processes.VP) -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) + t[:, None]

    sampler = ready(fd.Denoiser(net, vp, predicts="noise"), "ddpm")
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for mode in ("full", "checkpoint"):
        (want,) = torch.autograd.grad(sampler(x, seeds=0, gradient=mode).sum(), [x])
        there = x.detach().cuda().requires_grad_(True)
        (got,) = torch.autograd.grad(sampler(there, seeds=0, gradient=mode).sum(), [there])
        torch.testing.assert_close(got.cpu(), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["dpm-adaptive", "ggf", "pf-ode"])
def test_adaptive(solver: str, vp: fd.processes.VP, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the CPU up to the rounding of coefficients, and no wait inside an attempt."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        return x / (x * x + 1) + t[:, None] * x

    den, attempt = fd.Denoiser(net, vp, predicts="noise"), Run.attempt

    def watched(run: Run) -> None:
        torch.cuda.set_sync_debug_mode("error" if run.attempts else "default")  # the first loads kernels
        try:
            attempt(run)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    options = {"method": "dopri5"} if solver == "pf-ode" else {}
    sampler = fd.AdaptiveSampler(den, solvers.make(solver, rtol=1e-2, atol=1e-2, sync_every=3, **options))
    x = torch.randn(7, 33)
    want = sampler.solve(x, seeds=4)
    monkeypatch.setattr(Run, "attempt", watched)
    got = sampler.solve(x.cuda(), seeds=4)
    torch.testing.assert_close(got.x.cpu(), want.x, rtol=1e-3, atol=1e-3)
    assert got.calls.tolist() == want.calls.tolist()
