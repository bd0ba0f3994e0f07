"""Samplers that draw from torchsde's Brownian trees, run live with their own trees; ours through a `noise=`
callable that asks the same tree for the increments of its draws. In float64, 1e-9."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.core.process import Process

torchsde = pytest.importorskip("torchsde")
sys.path.append(str(Path(__file__).parent))
diffusers_peer, k_peer = importlib.import_module("test_diffusers"), importlib.import_module("test_kdiffusion")
sampling, doubled = k_peer.sampling, diffusers_peer.doubled  # fixtures
BETAS, MIXTURE, X, EDM, VP = diffusers_peer.BETAS, k_peer.MIXTURE, k_peer.X, k_peer.EDM, k_peer.VP


class Same:
    """The increments of a tree over sigma / alpha, at unit variance. A path is rough: at times that differ in
    the last digit it differs in the eighth, so each time is taken for the nearest that they asked at."""

    def __init__(self, tree: Any, process: Process):
        self.tree, self.process, self.known = tree, process, set[float]()

    def theirs(self, a: Any, b: Any) -> torch.Tensor:
        self.known |= {float(a), float(b)}
        return self.tree(a, b)

    def ours(self, like: torch.Tensor, draw: Any) -> torch.Tensor:
        assert draw.s is not None
        a, b = (self.nearest(self.process.node(t)) for t in (draw.s, draw.t))
        return self.tree(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))

    def nearest(self, n: Any) -> float:
        rho = float(n.rho)
        found = min(self.known, key=lambda s: abs(s - rho))
        assert abs(found - rho) <= 1e-12 * rho
        return found


SAMPLERS: list[Any] = [
    ("sample_dpmpp_sde", {}, "dpmpp-sde", {"legacy": True}),
    (
        "sample_dpmpp_sde",
        {"eta": 0.4, "s_noise": 1.1},
        "dpmpp-sde",
        {"eta": 0.4, "s_noise": 1.1, "legacy": True},
    ),
    ("sample_dpmpp_2m_sde", {}, "dpmpp-2m-sde", {}),
    (
        "sample_dpmpp_2m_sde",
        {"solver_type": "heun", "eta": 0.6},
        "dpmpp-2m-sde",
        {"weight": "heun", "eta": 0.6},
    ),
    ("sample_dpmpp_3m_sde", {}, "dpmpp-3m-sde", {"legacy": True}),
]


@pytest.mark.parametrize("process", [EDM, VP], ids=["edm", "vp"])
@pytest.mark.parametrize("name, theirs, key, options", SAMPLERS)
def test_kdiffusion(
    sampling: Any,
    monkeypatch: pytest.MonkeyPatch,
    process: Process,
    name: str,
    theirs: Any,
    key: str,
    options: Any,
) -> None:
    """Their own default tree."""
    made: list[Same] = []
    tree = sampling.BrownianTreeNoiseSampler

    def watched(x: torch.Tensor, *ends: Any, **kwargs: Any) -> Any:
        made.append(Same(tree(x, *ends, **{**kwargs, "seed": 5}), process))
        return made[0].theirs

    monkeypatch.setattr(sampling, "BrownianTreeNoiseSampler", watched)
    sigmas = sampling.get_sigmas_karras(17, 0.02, 80.0).double()
    times = np.append(process.time_of(-np.log(sigmas[:-1].numpy())), 0.0)
    x = X * 80
    expected = getattr(sampling, name)(k_peer.denoise, x, sigmas, disable=True, **theirs)
    den = fd.Denoiser(MIXTURE.denoiser(process, "data"), process, predicts="data")
    y = fd.sample(
        den, x * float(process.alpha(times[0])), solver=key, times=times, noise=made[0].ours, **options
    )
    assert (y - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("s_noise", [1.0, 1.05])
def test_diffusers(doubled: Any, monkeypatch: pytest.MonkeyPatch, karras: bool, s_noise: float) -> None:
    """DPMSolverSDEScheduler is k-diffusion's `dpmpp_sde` at eta = 1."""
    s = doubled(diffusers_peer.make("DPMSolverSDEScheduler", 12, use_karras_sigmas=karras, **BETAS))
    times = diffusers_peer.times_of(s.sigmas)
    process = diffusers_peer.VP
    module = sys.modules[type(s).__module__]
    low, high = s.sigmas[s.sigmas > 0].min(), s.sigmas.max()
    same = Same(module.BrownianTreeNoiseSampler(X, low, high, 3), process)
    s.noise_sampler = same.theirs
    s.set_begin_index(0)
    x = X * float(s.sigmas[0])
    for t in s.timesteps:
        rho = float(s.sigmas[s.step_index or 0] if s.state_in_first_order else s.mid_point_sigma)
        a = (1 + rho**2) ** -0.5
        eps = diffusers_peer.noise_of(s.scale_model_input(x, t), a, rho * a)
        x = s.step(eps, t, x, return_dict=False, s_noise=s_noise)[0]
    den = fd.Denoiser(MIXTURE.denoiser(process, "noise"), process, predicts="noise")
    start = X * float(s.sigmas[0]) * float(process.alpha(times[0]))
    run: dict[str, Any] = {"solver": "dpmpp-sde", "legacy": True, "times": times, "s_noise": s_noise}
    y = fd.sample(den, start, noise=same.ours, **run)
    assert (y - x).abs().max() <= 1e-9 * x.abs().max()
