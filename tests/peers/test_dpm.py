"""The DPM-Solver family and SA-Solver: k-diffusion's and diffusers' code run live, on the same levels,
network and noise, in float64.

1e-10 as in the tests of the other peers. Where a scheduler integrates powers of the absolute lambda, it loses
(lambda / h)^3, some 4 digits, and noise predictions lose 1 / alpha = 150 on top: 1e-9 there.
"""

from __future__ import annotations

import importlib
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdiff.core.interpret import interpret
from fastdiff.core.plan import plan
from fastdiff.core.process import Process

sys.path.append(str(Path(__file__).parent))
diffusers_peer, k_peer = importlib.import_module("test_diffusers"), importlib.import_module("test_kdiffusion")
sampling, doubled = k_peer.sampling, diffusers_peer.doubled  # fixtures
BETAS, X, VP, MIXTURE = diffusers_peer.BETAS, diffusers_peer.X, diffusers_peer.VP, diffusers_peer.MIXTURE
make, inject, ours, close = (getattr(diffusers_peer, n) for n in ("make", "inject", "ours", "close"))
EDM, VP20, draw, denoise = k_peer.EDM, k_peer.VP, k_peer.draw, k_peer.denoise

on_both = pytest.mark.parametrize("process", [EDM, VP20], ids=["edm", "vp"])


# k-diffusion


def result(process: Process, times: Any, key: str, options: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """Ours, over alpha; x is theirs, sigma / alpha = 80 at the start."""

    def net(x: torch.Tensor, call: Any, branch: int) -> torch.Tensor:
        return MIXTURE.expectations(x, float(process.alpha(call.t)), float(process.sigma(call.t)))[0]

    p = plan(key, process, times, predicts="data", **options)
    y = interpret(p, net, x * float(process.alpha(times[0])), noise=draw)
    return y / float(process.alpha(times[-1]))


def assert_close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    assert (a - b).abs().max() <= tolerance * b.abs().max()


ETAS: list[Any] = [{}, {"eta": 0.4, "s_noise": 1.1}, {"eta": 0.0}]
PEERS = [
    *(("sample_dpmpp_2s_ancestral", o, "dpmpp-2s-a", o) for o in ETAS),
    *(("sample_dpmpp_sde", o, "dpmpp-sde", {**o, "legacy": True}) for o in ETAS),
    *(("sample_dpmpp_3m_sde", o, "dpmpp-3m-sde", {**o, "legacy": True}) for o in ETAS),
    ("sample_dpmpp_3m_sde", {"eta": 0.0}, "dpmpp-3m", {"legacy": True}),
]


class Path2:
    """Their Brownian tree over sigma, made of our draws: two halves a step, asked for as the first one and as
    both."""

    def __init__(self) -> None:
        self.step, self.middle = 0, math.nan

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first = draw(self.step, 0)
        if math.isnan(self.middle):
            self.middle = float(b)
            return first
        w = (float(a) - self.middle) / float(a - b)
        both = math.sqrt(w) * first + math.sqrt(1 - w) * draw(self.step, 1)
        self.step, self.middle = self.step + 1, math.nan
        return both


@on_both
@pytest.mark.parametrize("name, theirs, key, options", PEERS)
def test_kdiffusion(sampling: Any, process: Process, name: str, theirs: Any, key: str, options: Any) -> None:
    """17 steps: neither lowers the order before the last step, which goes to sigma = 0."""
    sigmas = sampling.get_sigmas_karras(17, 0.02, 80.0).double()
    times = np.append(process.time_of(-np.log(sigmas[:-1].numpy())), 0.0)
    steps = iter(range(100))
    noise = Path2() if name == "sample_dpmpp_sde" else lambda s, n: draw(next(steps))
    x = k_peer.X * 80
    expected = getattr(sampling, name)(denoise, x, sigmas, disable=True, noise_sampler=noise, **theirs)
    assert_close(result(process, times, key, options, x), expected)


@on_both
@pytest.mark.parametrize("nfe", [1, 2, 3, 10, 11, 12])
def test_dpm_fast(
    sampling: Any, monkeypatch: pytest.MonkeyPatch, process: Process, nfe: int
) -> None:
    """Their steps are uniform in lambda, and a step of order q is q equal steps of ours."""
    orders = [3] * (nfe // 3 - 1) + [2, 1] if nfe % 3 == 0 else [3] * (nfe // 3) + [nfe % 3]
    ends = np.linspace(-math.log(80), -math.log(0.02), len(orders) + 1)
    lam = [a + (b - a) * j / q for a, b, q in zip(ends, ends[1:], orders, strict=False) for j in range(q)]
    times = process.time_of(np.array([*lam, ends[-1]]))
    solver, x = sampling.DPMSolver(denoise), k_peer.X * 80
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, dtype=torch.float64))  # float32 there
    expected = solver.dpm_solver_fast(x, torch.tensor(ends[0]), torch.tensor(ends[-1]), nfe)
    assert plan("dpm-fast", process, times).nfe == nfe
    assert_close(result(process, times, "dpm-fast", {}, x), expected)


@on_both
@pytest.mark.parametrize("order", [2, 3])
def test_singlestep(sampling: Any, process: Process, order: int) -> None:
    ends = torch.linspace(-math.log(80), -math.log(0.02), 8, dtype=torch.float64)
    solver, x = sampling.DPMSolver(denoise), k_peer.X * 80
    expected = x
    for a, b in zip(ends, ends[1:], strict=False):
        expected = getattr(solver, f"dpm_solver_{order}_step")(expected, a, b)[0]
    assert_close(result(process, process.time_of(-(-ends).numpy()), f"dpm-{order}", {}, x), expected)


# diffusers

MULTISTEP = [
    ("dpmsolver++", q, weight, "zero", f"dpmpp-{q}m") for q in (2, 3) for weight in ("midpoint", "heun")
] + [("dpmsolver", q, weight, "sigma_min", f"dpm-{q}m") for q in (2, 3) for weight in ("midpoint", "heun")]


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("algorithm, order, weight, final, key", MULTISTEP)
def test_multistep(
    doubled: Any, algorithm: str, order: int, weight: str, final: str, key: str, steps: int
) -> None:
    """10 steps: both lower the order at the end; 20: neither does. legacy: half of the third difference."""
    config = {"algorithm_type": algorithm, "solver_type": weight, "final_sigmas_type": final}
    s = doubled(make("DPMSolverMultistepScheduler", steps, solver_order=order, **config, **BETAS))
    options: dict[str, Any] = {"weight": weight, **({"legacy": True} if order == 3 else {})}
    p = plan(key, VP, diffusers_peer.times_of(s.sigmas), **options)
    close(diffusers_peer.run_sigmas(s, X), ours(p, VP, X), 1e-10)


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize(
    "weight, order, steps",
    [("taylor", 3, 9), ("taylor", 3, 10), ("taylor", 3, 11), ("midpoint", 2, 9), ("taylor", 2, 11)],
)
def test_groups(doubled: Any, prediction: str, weight: str, order: int, steps: int) -> None:
    """Their singlestep scheduler: stages at the grid's own nodes. Of order 2 and an even number of steps it
    ends in two steps of order 1, ours in one of order 2."""
    config = {
        "algorithm_type": "dpmsolver++" if prediction == "data" else "dpmsolver",
        "solver_type": "heun" if weight == "taylor" else "midpoint",
        "final_sigmas_type": "zero" if prediction == "data" else "sigma_min",
        "lower_order_final": True,
    }
    s = doubled(make("DPMSolverSinglestepScheduler", steps, solver_order=order, **config, **BETAS))
    p = plan(
        "dpm-fast", VP, diffusers_peer.times_of(s.sigmas), order=order, weight=weight, prediction=prediction
    )
    close(diffusers_peer.run_sigmas(s, X), ours(p, VP, X), 1e-10)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("predictor, corrector", [(1, 1), (1, 2), (2, 2), (2, 1), (3, 3), (3, 4), (4, 4)])
def test_sa_solver(
    doubled: Any, monkeypatch: pytest.MonkeyPatch, predictor: int, corrector: int, tau: float
) -> None:
    """Their rules of two nodes are always the simplified ones: legacy."""
    s = make(
        "SASolverScheduler", 12, predictor_order=predictor, corrector_order=corrector,
        tau_func=lambda t: tau, **BETAS,
    )
    s = doubled(s)
    inject(s, monkeypatch)
    times = diffusers_peer.times_of(s.sigmas)
    p = plan("sa-solver", VP, times, predictor=predictor, corrector=corrector, tau=tau, legacy=True)
    close(diffusers_peer.run_sigmas(s, X), ours(p, VP, X), 1e-9)


def test_sa_solver_interval(doubled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their default: tau = 1 where 200 <= index <= 800, asked at the start of a step; ours at its end."""
    s = doubled(make("SASolverScheduler", 15, **BETAS))
    inject(s, monkeypatch)
    times, index = diffusers_peer.times_of(s.sigmas), s.timesteps.tolist()
    level = {float(t): float(200 <= n <= 800) for t, n in zip(times[1:], index, strict=True)}
    p = plan("sa-solver", VP, times, predictor=2, corrector=2, tau=lambda n: level[float(n.t)], legacy=True)
    assert 0 < sum(level.values()) < len(level)
    close(diffusers_peer.run_sigmas(s, X), ours(p, VP, X), 1e-9)


# where the mathematics is another


def test_their_third_order_sde_has_a_wrong_sign(doubled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """sde-dpmsolver++ of order 3: their third difference has the weight (1 - e^{-k} - k) / k^2 - 1/2, which
    tends to -1 for small steps; with k-diffusion's + 1/2 it tends to 0. The difference is (m_0 - 2 m_1 + m_2)
    / 2 for equal steps, so a network that gave 1 two steps ago and 0 since shows it."""
    config = {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "prediction_type": "sample"}
    s = doubled(make("DPMSolverMultistepScheduler", 30, **config, **BETAS))
    monkeypatch.setattr(sys.modules[type(s).__module__], "randn_tensor", lambda *a, **k: torch.zeros(1))
    lam = torch.linspace(0, 0.3, 31, dtype=torch.float64)  # steps of 0.01
    s.sigmas = (-lam).exp()
    s.set_begin_index(0)
    x = torch.zeros(1, dtype=torch.float64)
    for t, m in zip(s.timesteps[:3], (1.0, 0.0, 0.0), strict=True):
        x = s.step(torch.full((1,), m), t, x, return_dict=False)[0]
    outputs = iter((1.0, 0.0, 0.0))
    p = plan("dpmpp-3m-sde", VP, VP.time_of(lam[:4].numpy()), predicts="data", lower_order_final="never")
    y = interpret(p, lambda x, call, branch: next(outputs), 0.0, noise=lambda step, column: 0.0)
    assert abs(y) < 0.05 < 0.3 < abs(float(x))
