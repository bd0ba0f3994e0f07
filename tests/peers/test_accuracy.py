"""At equal network calls no solver is, by default, less accurate than the peer of its name, from 50 calls on.

Probability flows: the mixture of the other tests, the largest error of 11 points against the flow itself
(good to 1e-10); on lambda from -2.5 to 2.5, on Karras' levels from 80 to 0, and on the peers' own grids.
Stochastic ones: the exact law on Gaussian data (no Monte Carlo: both are affine maps of their draws), its
Wasserstein-2 distance to the marginal. Solvers that the other tests find equal to their peers by default are
here once or not at all. The allowance is what rounding makes of equal mathematics, 1e-9 of
results of size 3.

Not compared, with figures. Third orders of the exponential kind on other grids than the first (where theirs,
halved in its third difference, loses by 2.5 to 4): down to sigma = 0 the last step is of order 1 in both and
its own error, 1.4e-3 from sigma = 0.02 on, is most of what is left at 100 calls; and where steps grow, the
halved weight damps what a true third order extrapolates (`dpm-3m` at 100 calls on Karras' levels to 0.02:
9.5e-4, theirs 2.7e-4). `deis` in time against theirs in log rho on
their Karras levels for VP: 9.0e-3 and 7.4e-3 at 50 calls (`variant="rhoab"`: 5.9e-3).
"""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdiff.core.interpret import interpret
from fastdiff.core.plan import plan
from fastdiff.core.process import Process
from fastdiff.testing import affine_law, pf_ode

sys.path.append(str(Path(__file__).parent))
diffusers_peer, k_peer = importlib.import_module("test_diffusers"), importlib.import_module("test_kdiffusion")
sampling, doubled = k_peer.sampling, diffusers_peer.doubled  # fixtures
BETAS, MIXTURE = diffusers_peer.BETAS, k_peer.MIXTURE
VP, EDM, FLOW = diffusers_peer.VP, k_peer.EDM, diffusers_peer.FLOW
POINTS = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)[None]
CALLS = (50, 100)
GROUPS = {"order": 2, "prediction": "data"}  # what their singlestep scheduler is by default
FLOWS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
M0, S0 = 0.7, 0.4


def spec_grid(process: Process, steps: int) -> np.ndarray:
    return np.asarray(process.time_of(np.linspace(-2.5, 2.5, steps + 1)))


def error(process: Process, times: Any, x: torch.Tensor) -> float:
    return float((x - exact(process, tuple(float(t) for t in times[[0, -1]]))).abs().max())


@lru_cache
def exact(process: Process, ends: tuple[float, float]) -> torch.Tensor:
    return pf_ode(MIXTURE, process, start(process, ends[0]), *ends)


def start(process: Process, t: float) -> torch.Tensor:
    return POINTS * float(process.sigma(t))


def ours(process: Process, times: Any, key: str, options: dict[str, Any]) -> tuple[float, int]:
    """Error and network calls."""

    def net(x: torch.Tensor, call: Any, branch: int) -> torch.Tensor:
        return MIXTURE.expectations(x, float(process.alpha(call.t)), float(process.sigma(call.t)))[0]

    p = plan(key, process, times, predicts="data", **options)
    return error(process, times, interpret(p, net, start(process, float(times[0])))), p.nfe


def no_worse(mine: float, theirs: float) -> None:
    assert mine <= theirs + 3e-9


# probability flows: k-diffusion

ORDER_3 = ("dpmpp-3m", "dpmpp-3m-sde")
KDIFFUSION: list[Any] = [
    ("sample_euler", {}, "euler", {}, 1),
    ("sample_heun", {}, "heun", {}, 2),
    ("sample_lms", {}, "lms", {}, 1),
    ("sample_lms", {"order": 3}, "lms", {"order": 3}, 1),
    ("sample_lms", {}, "ipndm-v", {}, 1),
    ("sample_dpmpp_2s_ancestral", {"eta": 0.0}, "dpmpp-2s", {}, 2),
    ("sample_dpmpp_sde", {"eta": 0.0}, "dpmpp-sde", {"eta": 0.0}, 2),
    ("sample_dpmpp_2m", {}, "dpmpp-2m", {}, 1),
    ("sample_dpmpp_3m_sde", {"eta": 0.0}, "dpmpp-3m", {}, 1),
    ("sample_dpmpp_3m_sde", {"eta": 0.0}, "dpmpp-3m-sde", {"eta": 0.0}, 1),
]
ON_BOTH = [
    pytest.param(*case, grid, id=f"{case[0]}-{case[2]}-{grid}-{len(case[3])}")
    for case in KDIFFUSION
    for grid in ("lambda", "karras")
    if grid == "lambda" or case[2] not in ORDER_3
]


@pytest.mark.parametrize("process", [VP, EDM], ids=["vp", "ve"])
@pytest.mark.parametrize("name, theirs, key, options, calls, grid", ON_BOTH)
def test_kdiffusion(
    sampling: Any, process: Process, name: str, theirs: Any, key: str, options: Any, calls: int, grid: str
) -> None:
    """Their state is x / alpha, their sigma sigma / alpha."""
    for budget in CALLS:
        steps = budget // calls
        times = spec_grid(process, steps)
        if grid == "karras":
            rho = sampling.get_sigmas_karras(steps, 0.02, 80.0).double().numpy()
            times = np.append(process.time_of(-np.log(rho[:-1])), 0.0)
        alpha, sigma = (np.array([float(f(t)) for t in times]) for f in (process.alpha, process.sigma))
        asked = []

        def denoise(x: torch.Tensor, s: torch.Tensor, asked: list[float] = asked) -> torch.Tensor:
            asked.append(float(s[0]))
            return MIXTURE.expectations(x, 1.0, s[0])[0]

        if "sde" in name or "ancestral" in name:
            theirs = {**theirs, "noise_sampler": lambda s, n: torch.zeros_like(POINTS)}
        x = start(process, float(times[0])) / alpha[0]
        y = getattr(sampling, name)(denoise, x, torch.from_numpy(sigma / alpha), disable=True, **theirs)
        mine, nfe = ours(process, times, key, options)
        assert nfe <= len(asked) <= budget
        no_worse(mine, error(process, times, y * alpha[-1]))


# probability flows: diffusers

DPM = "DPMSolverMultistepScheduler"
TO_MIN = {"final_sigmas_type": "sigma_min"}
ON_VP: list[Any] = [
    ("LMSDiscreteScheduler", {}, "lms", {}, 1, "own"),
    (DPM, {}, "dpmpp-2m", {}, 1, "own"),
    (DPM, TO_MIN, "dpmpp-2m", {}, 1, "lambda"),
    (DPM, {**TO_MIN, "solver_order": 3}, "dpmpp-3m", {}, 1, "lambda"),
    (DPM, {**TO_MIN, "algorithm_type": "dpmsolver"}, "dpm-2m", {}, 1, "lambda"),
    (DPM, {**TO_MIN, "algorithm_type": "dpmsolver", "solver_order": 3}, "dpm-3m", {}, 1, "lambda"),
    ("UniPCMultistepScheduler", {}, "unipc", {}, 1, "own"),
    ("UniPCMultistepScheduler", TO_MIN, "unipc", {}, 1, "lambda"),
    ("DEISMultistepScheduler", {}, "deis", {}, 1, "own"),
    ("DEISMultistepScheduler", {}, "deis", {}, 1, "lambda"),
    ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, "dpm-fast", GROUPS, 1, "own"),
    ("DPMSolverSinglestepScheduler", TO_MIN, "dpm-fast", GROUPS, 1, "lambda"),
]


@pytest.mark.parametrize("name, config, key, options, calls, grid", ON_VP)
def test_diffusers(
    doubled: Any, name: str, config: Any, key: str, options: Any, calls: int, grid: str
) -> None:
    for budget in CALLS:
        s = doubled(diffusers_peer.make(name, budget // calls, **BETAS, **config))
        s.sigmas = s.sigmas.double()
        if grid == "lambda":
            s.sigmas = torch.from_numpy(np.exp(-np.linspace(-2.5, 2.5, len(s.sigmas))))
        times = diffusers_peer.times_of(s.sigmas)
        scaled = hasattr(s, "is_scale_input_called") or "KDPM2" in name or "Heun" in name
        x, ends = start(VP, float(times[0])), [float(VP.alpha(t)) for t in times[[0, -1]]]
        y = diffusers_peer.run_sigmas(s, x / ends[0] if scaled else x)
        mine, nfe = ours(VP, times, key, options)
        assert nfe <= len(s.timesteps) <= budget
        no_worse(mine, error(VP, times, y * ends[1] if scaled else y))


ON_FLOW: list[Any] = [
    ("FlowMatchEulerDiscreteScheduler", {}, "euler", {}, 1, "own"),
    ("FlowMatchHeunDiscreteScheduler", {}, "heun", {}, 2, "own"),
    (DPM, FLOWS, "dpmpp-2m", {}, 1, "own"),
    (DPM, {**FLOWS, **TO_MIN}, "dpmpp-2m", {}, 1, "lambda"),
    (DPM, {**FLOWS, **TO_MIN, "solver_order": 3}, "dpmpp-3m", {}, 1, "lambda"),
    ("UniPCMultistepScheduler", FLOWS, "unipc", {}, 1, "own"),
    ("UniPCMultistepScheduler", {**FLOWS, **TO_MIN}, "unipc", {}, 1, "lambda"),
    ("DEISMultistepScheduler", FLOWS, "deis", {}, 1, "own"),
    ("DEISMultistepScheduler", FLOWS, "deis", {}, 1, "lambda"),
    ("DPMSolverSinglestepScheduler", {**FLOWS, "lower_order_final": True}, "dpm-fast", GROUPS, 1, "own"),
    ("DPMSolverSinglestepScheduler", {**FLOWS, **TO_MIN}, "dpm-fast", GROUPS, 1, "lambda"),
]


@pytest.mark.parametrize("name, config, key, options, calls, grid", ON_FLOW)
def test_flow(doubled: Any, name: str, config: Any, key: str, options: Any, calls: int, grid: str) -> None:
    """Shifted by 3. (Their Heun knows no other end than sigma = 0.)"""
    shift = {"shift": 3.0} if "FlowMatch" in name else {"flow_shift": 3.0}
    for budget in CALLS:
        s = doubled(diffusers_peer.make(name, budget // calls, **shift, **config))
        s.sigmas = s.sigmas.double()
        if grid == "lambda":
            s.sigmas = torch.from_numpy(FLOW.sigma(spec_grid(FLOW, len(s.timesteps))))
        times = np.unique(s.sigmas.numpy())[::-1].copy()
        y = diffusers_peer.run_sigmas(s, start(FLOW, float(times[0])), diffusers_peer.flow_of)
        mine, nfe = ours(FLOW, times, key, options)
        assert nfe <= len(s.timesteps) <= budget
        no_worse(mine, error(FLOW, times, y))


# stochastic ones: exact laws

LAWS: list[Any] = [
    ("sample_euler_ancestral", "euler-a", 1),
    ("sample_dpm_2_ancestral", "dpm2-a", 2),
    ("sample_dpmpp_2s_ancestral", "dpmpp-2s-a", 2),
    ("sample_dpmpp_sde", "dpmpp-sde", 2),
    ("sample_dpmpp_2m_sde", "dpmpp-2m-sde", 1),
    ("sample_dpmpp_3m_sde", "dpmpp-3m-sde", 1),
]


def distance(run: Any, process: Process, times: np.ndarray) -> float:
    """Wasserstein-2, of the law of run(model, x, noise) and the marginal at the last time."""
    law = affine_law(run, process, float(times[0]), mean=M0, std=S0, predicts="data", draws=400)
    a, s = (float(f(times[-1])) for f in (process.alpha, process.sigma))
    return float(np.hypot(law.mean - a * M0, law.std - np.hypot(a * S0, s)))


def our_distance(process: Process, times: np.ndarray, key: str, **options: Any) -> float:
    p = plan(key, process, times, predicts="data", **options)

    def run(model: Any, x: torch.Tensor, noise: Any) -> torch.Tensor:
        return interpret(p, lambda x, call, b: model(x, call.t), x, noise=noise)

    return distance(run, process, times)


@pytest.mark.parametrize("name, key, calls", LAWS)
def test_laws_of_kdiffusion(sampling: Any, name: str, key: str, calls: int) -> None:
    for budget in CALLS:
        times = spec_grid(EDM, budget // calls)

        def run(model: Any, x: torch.Tensor, noise: Any, times: np.ndarray = times) -> torch.Tensor:
            return getattr(sampling, name)(
                lambda x, s: model(x, float(s[0])),
                x,
                torch.from_numpy(times),
                disable=True,
                noise_sampler=lambda s, n: noise(float(s)),
            )

        no_worse(our_distance(EDM, times, key), distance(run, EDM, times))


SCHEDULERS: list[Any] = [
    ("EulerAncestralDiscreteScheduler", {}, "euler-a", {}),
    ("DPMSolverMultistepScheduler", {**TO_MIN, "algorithm_type": "sde-dpmsolver++"}, "dpmpp-2m-sde", {}),
    ("SASolverScheduler", {"tau_func": lambda t: 1.0}, "sa-solver", {"tau": 1.0}),
    ("SASolverScheduler", {"tau_func": lambda t: 0.4}, "sa-solver", {"tau": 0.4}),
]


@pytest.mark.parametrize("name, config, key, options", SCHEDULERS)
def test_laws_of_diffusers(
    doubled: Any, monkeypatch: pytest.MonkeyPatch, name: str, config: Any, key: str, options: Any
) -> None:
    for budget in CALLS:
        times = spec_grid(VP, budget)

        def run(
            model: Any, x: torch.Tensor, noise: Any, budget: int = budget, times: np.ndarray = times
        ) -> torch.Tensor:
            s = doubled(diffusers_peer.make(name, budget, prediction_type="epsilon", **BETAS, **config))
            s.sigmas = torch.from_numpy(np.exp(-np.linspace(-2.5, 2.5, budget + 1)))
            module = sys.modules[type(s).__module__]
            count = iter(range(10**6))
            monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: noise(next(count)), raising=False)

            def net(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
                return (x - alpha * model(x, VP.node(float(VP.time_of(np.log(alpha / sigma)))))) / sigma

            scaled = hasattr(s, "is_scale_input_called")
            y = diffusers_peer.run_sigmas(s, x / float(VP.alpha(times[0])) if scaled else x, net)
            return y * float(VP.alpha(times[-1])) if scaled else y

        no_worse(our_distance(VP, times, key, **options), distance(run, VP, times))
