"""k-diffusion's samplers run live, on the same sigmas, network and noise.

Their state is x / alpha and their sigma is sigma / alpha: our EDM process to the letter, and VP after
division by alpha. Agreement to 1e-10 in float64: from sigma = 80 on, the state is 100 times as large as the
result, and rounding with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastdiff.core.interpret import interpret
from fastdiff.core.plan import plan
from fastdiff.core.process import Process, processes
from fastdiff.core.solver import solvers
from fastdiff.runtime.adaptive import AdaptiveSampler
from fastdiff.runtime.denoiser import Denoiser
from fastdiff.testing import GaussianMixture
from fastdiff.testing.kdiffusion import kdiffusion

VP, EDM = processes.get("vp")(), processes.get("edm")()
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
X = torch.linspace(-2.2, 2.2, 9, dtype=torch.float64).reshape(3, 3)


@pytest.fixture(scope="module")
def sampling() -> Any:
    theirs = kdiffusion()
    if theirs is None:
        pytest.skip("k-diffusion is not installed")
    return theirs


def draw(step: int, column: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([step + 1, column]).standard_normal(X.shape))


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return MIXTURE.expectations(x, 1.0, sigma[0])[0]


SAMPLERS = [
    ("sample_euler", {}, "euler", {}),
    ("sample_euler", {"s_churn": 4.0}, "euler", {"churn": 4.0}),
    (
        "sample_euler",
        {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
        "euler",
        {"churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
    ),
    ("sample_euler_ancestral", {}, "euler-a", {}),
    ("sample_euler_ancestral", {"eta": 0.4, "s_noise": 1.1}, "euler-a", {"eta": 0.4, "s_noise": 1.1}),
    ("sample_euler_ancestral", {"eta": 0.7}, "ddim", {"eta": 0.7}),
    ("sample_heun", {}, "heun", {}),
    (
        "sample_heun",
        {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
        "heun",
        {"churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
    ),
    ("sample_dpm_2", {}, "dpm2", {}),
    ("sample_dpm_2", {"s_churn": 4.0}, "dpm2", {"churn": 4.0}),
    ("sample_dpmpp_2s_ancestral", {"eta": 0.0}, "dpmpp-2s", {}),
    ("sample_dpmpp_2m", {}, "dpmpp-2m", {}),
    ("sample_dpmpp_2m_sde", {}, "dpmpp-2m-sde", {}),
    (
        "sample_dpmpp_2m_sde",
        {"solver_type": "heun", "eta": 0.6, "s_noise": 1.05},
        "dpmpp-2m-sde",
        {"weight": "heun", "eta": 0.6, "s_noise": 1.05},
    ),
    ("sample_dpmpp_2m_sde", {"eta": 0.0}, "dpmpp-2m", {}),
]


@pytest.mark.parametrize("process", [EDM, VP], ids=["edm", "vp"])
@pytest.mark.parametrize("name, theirs, key, options", SAMPLERS)
def test_sampler(
    sampling: Any,
    monkeypatch: pytest.MonkeyPatch,
    process: Process,
    name: str,
    theirs: Any,
    key: str,
    options: Any,
) -> None:
    """17 steps: from 15 on neither lowers the order before the last step, which goes to sigma = 0
    (k-diffusion never lowers it)."""
    sigmas = sampling.get_sigmas_karras(17, 0.02, 80.0).double()
    levels = sigmas[:-1].numpy()
    times = np.append(process.time_of(-np.log(levels)), 0.0)
    steps = iter(range(100))
    monkeypatch.setattr(
        torch, "randn_like", lambda x: draw(next(steps))
    )  # churn's draws: one a step, used or not
    if name in ("sample_euler_ancestral", "sample_dpmpp_2s_ancestral", "sample_dpmpp_2m_sde"):
        theirs = {**theirs, "noise_sampler": lambda s, n: draw(next(steps))}
    x = X * 80
    expected = getattr(sampling, name)(denoise, x, sigmas, disable=True, **theirs)

    def net(x: torch.Tensor, call: Any, branch: int) -> torch.Tensor:
        return MIXTURE.expectations(x, float(process.alpha(call.t)), float(process.sigma(call.t)))[0]

    p = plan(key, process, times, predicts="data", **options)
    y = interpret(p, net, x * float(process.alpha(times[0])), noise=draw)
    assert (y - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_their_churn_counts_the_same_steps(sampling: Any) -> None:
    """gamma = churn / (len(sigmas) - 1): the step to sigma = 0 counts on both sides."""
    sigmas = sampling.get_sigmas_karras(5, 0.1, 10.0).double()
    asked: list[float] = []
    sampling.sample_euler(
        lambda x, s: asked.append(float(s[0])) or x * 0, X, sigmas, disable=True, s_churn=1.0
    )
    p = plan("euler", EDM, sigmas.numpy(), churn=1.0)
    assert [c.t for c in p.calls] == pytest.approx(asked, rel=1e-14)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("rtol", [0.05, 1e-3])
@pytest.mark.parametrize("pid", [{}, {"pcoeff": 0.2, "icoeff": 0.4, "dcoeff": 0.1}])
def test_adaptive(sampling: Any, order: int, rtol: float, pid: dict[str, float]) -> None:
    """sample_dpm_adaptive with one error for the batch. Its times are 0-dim tensors of the default dtype, so
    that must be float64. Ours rounds the error to float32: steps differ by 1e-7 of themselves, which moves a
    result by that much of its own error."""
    torch.set_default_dtype(torch.float64)
    try:
        options = {"order": order, "rtol": rtol, "atol": rtol / 6, **pid}
        expected, info = sampling.sample_dpm_adaptive(
            denoise, X * 80, 0.02, 80.0, disable=True, return_info=True, **options
        )
    finally:
        torch.set_default_dtype(torch.float32)
    net = MIXTURE.denoiser(EDM, "data")
    solver = solvers.make("dpm-adaptive", controller="pid", legacy=True, **options)
    sampler = AdaptiveSampler(Denoiser(net, EDM, predicts="data"), solver, (80.0, 0.02))
    got = sampler.solve(X * 80)
    assert got.steps.tolist() == [info["n_accept"]] * 3 and got.rejected.tolist() == [info["n_reject"]] * 3
    assert got.calls.tolist() == [info["nfe"]] * 3
    assert (got.x - expected).abs().max() <= 1e-9 * expected.abs().max()
