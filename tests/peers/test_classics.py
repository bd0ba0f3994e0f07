"""The classics of k-diffusion and diffusers run live, on the same levels, network and noise, in float64.

1e-9: from sigma / alpha = 80 to 150 on, the state is that much larger than the result, and rounding with it;
fourth-order weights add up to 6 times their sum.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdiff.core.interpret import interpret
from fastdiff.core.plan import plan
from fastdiff.core.process import Process, processes
from fastdiff.testing import GaussianMixture

sys.path.append(str(Path(__file__).parent))
diffusers_peer, k_peer = importlib.import_module("test_diffusers"), importlib.import_module("test_kdiffusion")
sampling, doubled = k_peer.sampling, diffusers_peer.doubled  # fixtures
BETAS, X, VP, FLOW = diffusers_peer.BETAS, diffusers_peer.X, diffusers_peer.VP, diffusers_peer.FLOW
make, inject, ours, close = (getattr(diffusers_peer, n) for n in ("make", "inject", "ours", "close"))
MIXTURE: GaussianMixture = diffusers_peer.MIXTURE
EDM, VP20 = k_peer.EDM, k_peer.VP


# k-diffusion

KDIFFUSION: list[Any] = [
    *(
        ("sample_lms", {"order": q}, key, {"order": q, "legacy": True})
        for q in (1, 2, 3, 4)
        for key in ("lms", "ipndm-v")
    ),
    ("sample_dpm_2_ancestral", {}, "dpm2-a", {}),
    ("sample_dpm_2_ancestral", {"eta": 0.4, "s_noise": 1.1}, "dpm2-a", {"eta": 0.4, "s_noise": 1.1}),
    ("sample_dpm_2_ancestral", {"eta": 0.0}, "dpm2", {}),
]


@pytest.mark.parametrize("process", [EDM, VP20], ids=["edm", "vp"])
@pytest.mark.parametrize("name, theirs, key, options", KDIFFUSION)
def test_kdiffusion(sampling: Any, process: Process, name: str, theirs: Any, key: str, options: Any) -> None:
    sigmas = sampling.get_sigmas_karras(12, 0.02, 80.0).double()
    times = np.append(process.time_of(-np.log(sigmas[:-1].numpy())), 0.0)
    steps = iter(range(100))
    if "ancestral" in name:
        theirs = {**theirs, "noise_sampler": lambda s, n: k_peer.draw(next(steps))}
    x = k_peer.X * 80
    expected = getattr(sampling, name)(k_peer.denoise, x, sigmas, disable=True, **theirs)

    def net(x: torch.Tensor, call: Any, branch: int) -> torch.Tensor:
        return MIXTURE.expectations(x, float(process.alpha(call.t)), float(process.sigma(call.t)))[0]

    p = plan(key, process, times, predicts="data", **options)
    y = interpret(p, net, x * float(process.alpha(times[0])), noise=k_peer.draw)
    assert (y - expected).abs().max() <= 1e-9 * expected.abs().max()


# diffusers


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms(doubled: Any, order: int) -> None:
    s = doubled(make("LMSDiscreteScheduler", 12, **BETAS))
    s.sigmas = s.sigmas.double()
    times = diffusers_peer.times_of(s.sigmas)
    s.set_begin_index(0)
    s.derivatives = []
    x = X / float(VP.alpha(times[0]))
    for i, t in enumerate(s.timesteps):
        rho = float(s.sigmas[i])
        a = (1 + rho**2) ** -0.5
        eps = diffusers_peer.noise_of(s.scale_model_input(x, t), a, rho * a)
        x = s.step(eps, t, x, order=order, return_dict=False)[0]
    close(x, ours(plan("lms", VP, times, order=order, legacy=True), VP, X), 1e-9)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("to_one", [True, False])
def test_pndm(doubled: Any, skip: bool, to_one: bool) -> None:
    """Their Runge-Kutta warm-up needs the half-way times: 1000 // 20 // 2 = 25 steps, exactly between. With
    set_alpha_to_one the last step goes to sigma = 0, at a multistep formula; else it stops at their first
    step, which "leading" with offset 1 does not ask the network at."""
    s = doubled(
        make("PNDMScheduler", 20, skip_prk_steps=skip, set_alpha_to_one=to_one, steps_offset=1, **BETAS)
    )
    process = diffusers_peer.DiscreteVP(s.alphas_cumprod.numpy())
    shown = sorted({int(t) for t in s._timesteps}, reverse=True)
    p = plan(
        "pndm",
        process,
        [*((n + 1) / 1000 for n in shown), 0.0 if to_one else 0.001],
        legacy=True,
        warmup="trapezoid" if skip else "runge-kutta",
    )
    assert p.nfe == len(s.timesteps) == (21 if skip else 29)
    close(diffusers_peer.run_alphas(s, X), ours(p, process, X), 1e-9)


def test_ipndm(doubled: Any) -> None:
    """Their process is the trigonometric one, times linear, the network a velocity."""
    s = make("IPNDMScheduler", 12)
    trig = processes.get("trig")()
    times = torch.linspace(1, 0, 13, dtype=torch.float64)
    s.betas, s.alphas = (times * torch.pi / 2).sin(), (times * torch.pi / 2).cos()
    s.set_begin_index(0)

    def velocity(x: torch.Tensor, a: float, b: float) -> torch.Tensor:
        x0, eps = MIXTURE.expectations(x, a, b)
        return a * eps - b * x0

    times[0] = 0.95  # at alpha = 0 their data prediction is a division by 1e-8
    s.betas[0], s.alphas[0] = (times[0] * torch.pi / 2).sin(), (times[0] * torch.pi / 2).cos()
    x = X
    for i, t in enumerate(s.timesteps):
        x = s.step(velocity(x, float(s.alphas[i]), float(s.betas[i])), t, x, return_dict=False)[0]
    p = plan("ipndm", trig, times.numpy(), predicts="velocity", legacy=True)
    close(x, ours(p, trig, X, velocity), 1e-9)


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(doubled: Any, order: int, steps: int) -> None:
    """Theirs is the variant in log rho. To sigma = 0 it takes log 0 at 20 steps, so it ends above there."""
    s = doubled(make("DEISMultistepScheduler", steps, solver_order=order, **BETAS))
    s.sigmas = torch.cat([s.sigmas[:-1], s.sigmas[-2:-1] / 2])
    times = diffusers_peer.times_of(s.sigmas)
    y = diffusers_peer.run_sigmas(s, X)
    close(y, ours(plan("deis", VP, times, order=order, variant="logrho"), VP, X), 1e-9)


def test_kdpm2_ancestral(doubled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s = doubled(make("KDPM2AncestralDiscreteScheduler", 12, **BETAS))
    inject(s, monkeypatch)
    rho = s.sigmas[[0, *range(1, len(s.sigmas) - 1, 2), -1]].double().unique().flip(0)
    after = torch.cat([rho[1:], rho[-1:]])
    up = after * (1 - (after / rho).nan_to_num() ** 2).clamp(min=0).sqrt()
    down = (after**2 - up**2).sqrt()
    middle = (rho * down).sqrt()
    middle[-2:] = 0

    def spread(v: torch.Tensor) -> torch.Tensor:
        return torch.cat([v[:1], v[1:].repeat_interleave(2), v[-1:]])

    s.sigmas, s.sigmas_up, s.sigmas_down, s.sigmas_interpol = map(spread, (rho, up, down, middle))
    times = diffusers_peer.times_of(rho)
    x = X / float(VP.alpha(times[0]))
    s.set_begin_index(0)
    for t in s.timesteps:
        i = s.step_index or 0
        r = float(s.sigmas[i] if s.state_in_first_order else s.sigmas_interpol[i - 1])
        a = (1 + r**2) ** -0.5
        x = s.step(diffusers_peer.noise_of(x * a, a, r * a), t, x, return_dict=False)[0]
    close(x, ours(plan("dpm2-a", VP, times), VP, X), 1e-9)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lcm(doubled: Any, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    s = doubled(make("LCMScheduler", steps, clip_sample=False, **BETAS))
    inject(s, monkeypatch)
    process = diffusers_peer.DiscreteVP(s.alphas_cumprod.numpy())
    times = [*((s.timesteps.numpy() + 1) / 1000), 0.0]
    y = diffusers_peer.run_alphas(s, X)
    close(y, ours(plan("lcm", process, times, boundary=True), process, X), 1e-9)
    # without the boundary's share of x, 1e-6 beside the noisy end and 1e-3 at step 9, it is another by that
    plain = ours(plan("lcm", process, times), process, X)
    assert 1e-9 < (y - plain).abs().max() < 1e-2


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [2, 5])
def test_tcd(doubled: Any, monkeypatch: pytest.MonkeyPatch, steps: int, gamma: float) -> None:
    """Their last step ends at the first training step, t = 1 / 1000, without noise."""
    s = doubled(make("TCDScheduler", steps, **BETAS))
    inject(s, monkeypatch)
    process = diffusers_peer.DiscreteVP(s.alphas_cumprod.numpy())
    times = [*((s.timesteps.numpy() + 1) / 1000), 0.001]
    p = plan("tcd", process, times, gamma=gamma, legacy=True)
    close(diffusers_peer.run_alphas(s, X, eta=gamma), ours(p, process, X), 1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_euler_a_rf(doubled: Any, monkeypatch: pytest.MonkeyPatch, eta: float) -> None:
    """Their 1e-12 beside squares that are as small as 1e-2 leaves 1e-9 of agreement."""
    s = make("LTXEulerAncestralRFScheduler", 12, eta=eta, s_noise=1.05)
    monkeypatch.setattr(sys.modules[type(s).__module__], "torch", diffusers_peer.Doubled())
    inject(s, monkeypatch)
    s.sigmas = torch.linspace(0.97, 0, 13, dtype=torch.float64)
    s._step_index = 0
    x = X
    for i in range(12):
        sigma = float(s.sigmas[i])
        x = s.step(diffusers_peer.flow_of(x, 1 - sigma, sigma), float(sigma), x, return_dict=False)[0]
    p = plan("euler-a-rf", FLOW, s.sigmas.numpy(), predicts="flow", eta=eta, s_noise=1.05)
    close(x, ours(p, FLOW, X, diffusers_peer.flow_of), 1e-9)


def test_flow_lcm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs computes in float32 (32 roundings of it); from alpha = 0."""
    s = make("FlowMatchLCMScheduler", 6)
    inject(s, monkeypatch)
    s.set_begin_index(0)
    x = X
    for i, t in enumerate(s.timesteps):
        sigma = float(s.sigmas[i])
        x = s.step(diffusers_peer.flow_of(x, 1 - sigma, sigma), t, x, return_dict=False)[0]
    p = plan("lcm", FLOW, s.sigmas.double().numpy(), predicts="flow")
    close(x, ours(p, FLOW, X, diffusers_peer.flow_of), 4e-6)
