"""ddpm with a variance that the network gives: against diffusers' own step, run live."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd

SHAPE = (3, 2, 4, 4)


def net(x: Tensor, t: Tensor) -> Tensor:
    """2C channels: a noise prediction, and v around 0."""
    return torch.cat([torch.tanh(x), torch.sin(3 * x)], 1)


@pytest.mark.parametrize("kind", ["learned-range", "learned"])
def test_agrees_with_diffusers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same chain in float64 ("learned": the network of Nichol & Dhariwal gives log c^2, theirs c^2),
    their clip of the sample off. Their clamp of a variance at 1e-20 is far from all but the last step, which
    has no noise. 1e-10: the 1 / alpha = 150 of noise predictions magnifies rounding."""
    schedulers = pytest.importorskip("diffusers.schedulers")
    theirs = schedulers.DDPMScheduler(variance_type=kind.replace("-", "_"), clip_sample=False)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.one = theirs.one.double()
    theirs.set_timesteps(12)
    drawn = iter(range(100))

    def draw(k: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng(k).standard_normal(SHAPE))

    module: Any = sys.modules[type(theirs).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: draw(next(drawn)))
    x = start = draw(77)
    for t in theirs.timesteps:
        prediction, v = net(x, t).chunk(2, 1)
        v = v.exp() if kind == "learned" else v
        x = theirs.step(torch.cat([prediction, v], 1), t, x).prev_sample

    process = fd.processes.DiscreteVP(theirs.alphas_cumprod.numpy())
    denoiser = fd.Denoiser(net, process, predicts="noise", variance=kind)
    ours = fd.sample(
        denoiser, start, solver="ddpm", variance=kind, times=[*((theirs.timesteps.numpy() + 1) / 1000), 0.0],
        noise=lambda like, d: draw(d.step),
    )  # fmt: skip
    torch.testing.assert_close(ours, x, atol=1e-10, rtol=1e-10)


def test_the_ends_of_the_range_are_the_fixed_variances() -> None:
    """v = -1 is "small", v = 1 "large"; float32: some roundings apart."""
    process = fd.processes.VP()
    for v, variance in ((-1.0, "small"), (1.0, "large")):

        def fixed(x: Tensor, t: Tensor, v: float = v) -> Tensor:
            return torch.cat([torch.tanh(x), torch.full_like(x, v)], 1)

        learned = fd.Denoiser(fixed, process, predicts="noise", variance="learned-range")
        plain = fd.Denoiser(lambda x, t: torch.tanh(x), process, predicts="noise")
        a = fd.sample(learned, SHAPE, solver="ddpm", variance="learned-range", steps=8, seeds=3)
        b = fd.sample(plain, SHAPE, solver="ddpm", variance=variance, steps=8, seeds=3)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        again = fd.sample(learned, SHAPE, solver="dpmpp-2m", steps=8, seeds=3)  # ignores the second half
        assert torch.equal(again, fd.sample(plain, SHAPE, solver="dpmpp-2m", steps=8, seeds=3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_guidance_stop_and_dtypes(dtype: torch.dtype) -> None:
    """Guided by scale 1 it is the plain branch; stopped and resumed, the same bits."""
    denoiser = fd.Denoiser(
        lambda x, t, y: net(x + y, t), fd.processes.VP(), predicts="noise", variance="learned-range"
    )
    x = fd.noise.normal(SHAPE, 1, dtype=dtype)
    y = torch.zeros((), dtype=dtype)
    times = fd.grid("logsnr", denoiser.process, steps=6)
    plan = fd.plan("ddpm", denoiser.process, times, variance="learned-range")
    sampler = fd.Sampler(denoiser, plan)
    whole = sampler(x, seeds=5, cond={"y": y})
    assert whole.dtype == dtype and torch.isfinite(whole).all()
    assert torch.equal(sampler(sampler(x, seeds=5, cond={"y": y}, stop=3), cond={"y": y}), whole)
    guidance = fd.guidance.CFG(2.0, uncond={"y": y + 1})
    guided = fd.sample(
        denoiser, x, solver="ddpm", variance="learned-range", times=times, seeds=5, cond={"y": y},
        guidance=guidance,
    )  # fmt: skip
    assert torch.isfinite(guided).all() and not torch.equal(guided, whole)


def test_a_network_without_it_is_told() -> None:
    denoiser = fd.Denoiser(lambda x, t: x, fd.processes.VP(), predicts="noise")
    with pytest.raises(ValueError, match="learned"):
        fd.sample(denoiser, SHAPE, solver="ddpm", variance="learned-range", steps=3)
    narrow = fd.Denoiser(lambda x, t: x, fd.processes.VP(), predicts="noise", variance="learned-range")
    with pytest.raises(ValueError, match="shape"):
        fd.sample(narrow, SHAPE, solver="ddpm", variance="learned-range", steps=3)
    with pytest.raises(ValueError, match="variance"):
        fd.solvers.make("ddpm", variance="medium")
