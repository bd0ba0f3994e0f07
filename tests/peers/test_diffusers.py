"""diffusers' schedulers run live, on the same levels, network and noise.

exact      their float32 tables (sigmas, alphas_cumprod) are cast to float64 and ours are made from the same
           numbers: 1e-10, which allows for the 1 / alpha = 150 by which noise predictions on VP magnify
           rounding, and for what their formulas cancel
untouched  their tables as they are, ours computed in float64: 2e-6, some 16 roundings of float32
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fastdiff.core.interpret import interpret
from fastdiff.core.plan import Plan, plan
from fastdiff.core.process import processes
from fastdiff.testing import GaussianMixture

diffusers = pytest.importorskip("diffusers")
torch_module = torch

VP, FLOW, DiscreteVP = (
    processes.get("vp")(beta_max=21.0),
    processes.get("flow-matching")(),
    processes.get("discrete-vp"),
)
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
X = torch.linspace(-2.2, 2.2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
ONES = ("final_alpha_cumprod", "initial_alpha_cumprod")
BETAS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


class Doubled:
    """torch for their modules, with float64 where they write float32."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch_module, name)


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    before = torch.get_default_dtype()

    def double(scheduler: Any) -> Any:
        module = sys.modules[type(scheduler).__module__]
        monkeypatch.setattr(module, "torch", Doubled())
        torch.set_default_dtype(torch.float64)  # their torch.tensor([...]) of Python floats
        for name in ("alphas_cumprod", "sigmas", *ONES, "one", "betas", "alphas"):
            if isinstance(getattr(scheduler, name, None), torch.Tensor):
                setattr(scheduler, name, getattr(scheduler, name).double())
        if hasattr(scheduler, "sigmas_interpol"):
            s = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2]])
            s = s.log().lerp(s.roll(1).log(), 0.5).exp()
            scheduler.sigmas_interpol = torch.cat([s[:1], s[1:].repeat_interleave(2), s[-1:]])
        return scheduler

    yield double
    torch.set_default_dtype(before)


def make(name: str, steps: int, **config: Any) -> Any:
    scheduler = getattr(importlib.import_module("diffusers"), name)(**config)
    scheduler.set_timesteps(steps)
    return scheduler


def draw(step: int, column: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([step + 1, column]).standard_normal(X.shape))


def inject(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their k-th draw is our draw of step k."""
    steps = iter(range(10**6))
    module = sys.modules[type(scheduler).__module__]
    monkeypatch.setattr(
        module,
        "randn_tensor",
        lambda *a, dtype=torch.float64, **k: draw(next(steps)).to(dtype),
        raising=False,
    )


def level(scheduler: Any) -> tuple[float, float]:
    """(alpha, sigma) at which their next network call is made."""
    i = scheduler.step_index or 0
    sigmas = scheduler.sigmas
    if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:
        sigmas = scheduler.sigmas_interpol
    rho = float(sigmas[i])
    if "FlowMatch" in type(scheduler).__name__:
        return 1 - rho, rho
    return (1 + rho**2) ** -0.5, rho * (1 + rho**2) ** -0.5


def noise_of(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    return MIXTURE.expectations(x, alpha, sigma)[1]


def flow_of(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    x0, eps = MIXTURE.expectations(x, alpha, sigma)
    return eps - x0


def run_sigmas(scheduler: Any, x: torch.Tensor, net: Any = noise_of, stop: int | None = None) -> torch.Tensor:
    """Their loop; the network is asked at (alpha, sigma) instead of at their time."""
    scheduler.set_begin_index(0)
    for t in scheduler.timesteps[:stop]:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(scaled, *level(scheduler)), t, x, return_dict=False)[0]
    return x


def run_alphas(scheduler: Any, x: torch.Tensor, **options: Any) -> torch.Tensor:
    for t in scheduler.timesteps:
        abar = float(scheduler.alphas_cumprod[t])
        x = scheduler.step(
            noise_of(x, abar**0.5, (1 - abar) ** 0.5), int(t), x, return_dict=False, **options
        )[0]
    return x


def ours(p: Plan, process: Any, x: torch.Tensor, net: Any = noise_of) -> torch.Tensor:
    def call(x: torch.Tensor, c: Any, b: int) -> torch.Tensor:
        return net(x, float(process.alpha(c.t)), float(process.sigma(c.t)))

    return interpret(p, call, x, noise=draw)


def times_of(sigmas: torch.Tensor) -> np.ndarray:
    """Times on VP at which sigma / alpha is theirs; their repeats (two calls a step) once."""
    s = np.unique(sigmas.double().numpy())[::-1]
    t = np.zeros(len(s))
    t[s > 0] = VP.time_of(-np.log(s[s > 0]))
    return t


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    assert a.isfinite().all() and (a.double() - b).abs().max() <= tolerance * b.abs().max()


# alphas_cumprod: DDIM and DDPM


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(doubled: Any, monkeypatch: pytest.MonkeyPatch, eta: float, spacing: str) -> None:
    """20 steps divide 1000. Otherwise their "trailing" steps do not end where the next one starts: they end
    at t - 1000 // steps."""
    s = doubled(make("DDIMScheduler", 20, clip_sample=False, timestep_spacing=spacing, **BETAS))
    inject(s, monkeypatch)
    process = DiscreteVP(s.alphas_cumprod.numpy())
    p = plan("ddim", process, [*((s.timesteps.numpy() + 1) / 1000), 0.0], eta=eta)
    close(run_alphas(s, X, eta=eta), ours(p, process, X), 1e-10)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(doubled: Any, monkeypatch: pytest.MonkeyPatch, variance: str) -> None:
    """Their "fixed_small" is clamped at 1e-20, which no step but the last, where there is no noise, comes
    near."""
    s = doubled(make("DDPMScheduler", 20, clip_sample=False, variance_type=f"fixed_{variance}", **BETAS))
    inject(s, monkeypatch)
    process = DiscreteVP(s.alphas_cumprod.numpy())
    p = plan("ddpm", process, [*((s.timesteps.numpy() + 1) / 1000), 0.0], variance=variance)
    close(run_alphas(s, X), ours(p, process, X), 1e-10)


# sigma / alpha: the rest

SIGMAS: list[Any] = [
    ("EulerDiscreteScheduler", {}, "euler", {}),
    ("EulerAncestralDiscreteScheduler", {}, "euler-a", {}),
    ("HeunDiscreteScheduler", {}, "heun", {}),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True}, "heun", {}),
    ("KDPM2DiscreteScheduler", {}, "dpm2", {}),
    (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 1},
        "dpmpp-2m",
        {"order": 1},
    ),
    (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"},
        "dpmpp-2m",
        {},
    ),
    (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_type": "heun"},
        "dpmpp-2m",
        {"weight": "heun"},
    ),
    (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
        "dpmpp-2m",
        {},
    ),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, "ddpm", {}),
    (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "midpoint"},
        "dpmpp-2m-sde",
        {},
    ),
    (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        "dpmpp-2m-sde",
        {"weight": "heun"},
    ),
    *(
        (
            "UniPCMultistepScheduler",
            {"solver_order": q, "solver_type": bh, "predict_x0": data, "final_sigmas_type": last},
            "unipc",
            {"order": q, "variant": bh, "prediction": "data" if data else "noise"},
        )
        for q in (1, 2, 3)
        for bh in ("bh1", "bh2")
        for data in (True, False)
        for last in ("zero", "sigma_min")
        if (data and bh == "bh2") or last == "sigma_min"
    ),
]


def ident(v: Any) -> str | None:
    return "-".join(f"{k}={o}" for k, o in v.items()) or "default" if isinstance(v, dict) else None


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("name, config, key, options", SIGMAS, ids=ident)
def test_sigmas(
    doubled: Any, monkeypatch: pytest.MonkeyPatch, name: str, config: Any, key: str, options: Any, steps: int
) -> None:
    """10 steps: both lower the order at the end (fewer than 15 steps). 20: neither does, but for UniPC."""
    s = doubled(make(name, steps, **BETAS, **config))
    inject(s, monkeypatch)
    scaled = (
        hasattr(s, "is_scale_input_called") or "KDPM2" in name or "Heun" in name
    )  # their state is x / alpha
    times = times_of(s.sigmas)
    alpha = float(VP.alpha(times[0]))
    y = run_sigmas(s, X / alpha if scaled else X)
    if scaled:
        y = y * float(VP.alpha(times[-1]))
    close(y, ours(plan(key, VP, times, **options), VP, X), 1e-10)


@pytest.mark.parametrize("weight, theirs", [("midpoint", "midpoint"), ("taylor", "heun")])
def test_singlestep(doubled: Any, weight: str, theirs: str) -> None:
    """Their second evaluation stands at the next node of the grid, ours half-way in lambda: so the grid is
    lambda-uniform here and each of our steps is two of theirs. Their last two steps are always of order 1,
    so they are left out."""
    s = doubled(
        make(
            "DPMSolverSinglestepScheduler",
            14,
            solver_order=2,
            solver_type=theirs,
            final_sigmas_type="zero",
            **BETAS,
        )
    )
    lam = torch.linspace(-4.5, 4.5, 14, dtype=torch.float64)
    s.sigmas = torch.cat([(-lam).exp(), torch.zeros(1, dtype=torch.float64)])
    y = run_sigmas(s, X, stop=12)
    times = np.asarray(VP.time_of(lam[:13:2].numpy()))
    close(y, ours(plan("dpmpp-2s", VP, times, weight=weight), VP, X), 1e-10)


@pytest.mark.parametrize(
    "name, key",
    [
        ("FlowMatchEulerDiscreteScheduler", "euler"),
        ("FlowMatchHeunDiscreteScheduler", "heun"),
        ("FlowMatchEulerDiscreteScheduler", "ddim"),
    ],
)
def test_flow(doubled: Any, name: str, key: str) -> None:
    s = doubled(make(name, 12, shift=3.0))
    times = np.unique(s.sigmas.numpy())[::-1]
    y = run_sigmas(s, X, flow_of)
    close(y, ours(plan(key, FLOW, times, predicts="flow"), FLOW, X, flow_of), 1e-10)


UNTOUCHED = [
    ("EulerDiscreteScheduler", {}, "euler", {}),
    ("HeunDiscreteScheduler", {}, "heun", {}),
    ("DPMSolverMultistepScheduler", {}, "dpmpp-2m", {}),
    ("UniPCMultistepScheduler", {}, "unipc", {}),
    ("EulerAncestralDiscreteScheduler", {}, "euler-a", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "dpmpp-2m-sde", {}),
]


@pytest.mark.parametrize("name, config, key, options", UNTOUCHED, ids=ident)
def test_untouched(monkeypatch: pytest.MonkeyPatch, name: str, config: Any, key: str, options: Any) -> None:
    """Their tables in float32 against our process of the same betas in float64."""
    s = make(name, 20, timestep_spacing="leading", **BETAS, **config)
    inject(s, monkeypatch)
    process = DiscreteVP.linear()
    shown = torch.unique_consecutive(s.timesteps).numpy()
    times = [*((shown + 1) / 1000), 0.0]
    alpha = float(process.alpha(times[0]))
    scaled = hasattr(s, "is_scale_input_called") or "Heun" in name
    y = run_sigmas(s, X / alpha if scaled else X)
    close(y, ours(plan(key, process, times, **options), process, X), 2e-6)


@pytest.mark.parametrize("key", ["ddim", "ddpm"])
def test_untouched_alphas(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    s = make(key.upper() + "Scheduler", 20, clip_sample=False, **BETAS)
    inject(s, monkeypatch)
    process = DiscreteVP.linear()
    p = plan(key, process, [*((s.timesteps.numpy() + 1) / 1000), 0.0])
    close(run_alphas(s, X), ours(p, process, X), 2e-6)


# where the mathematics is another


def test_their_churn_evaluates_before_it_raises(doubled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """EulerDiscreteScheduler gets the network's output from its caller, so with s_churn it uses the output
    at sigma for a state raised to sigma (1 + gamma). Karras et al., k-diffusion and we evaluate at the
    raised level. So results differ, by more than rounding."""
    s = doubled(make("EulerDiscreteScheduler", 20, **BETAS))
    inject(s, monkeypatch)
    s.set_begin_index(0)
    times = times_of(s.sigmas)
    x = X / float(VP.alpha(times[0]))
    for t in s.timesteps:
        x = s.step(noise_of(s.scale_model_input(x, t), *level(s)), t, x, s_churn=4.0, return_dict=False)[0]
    y = ours(plan("euler", VP, times, churn=4.0), VP, X)
    assert (x - y).abs().max() > 1e-3


@pytest.mark.parametrize(
    "config, options",
    [({"solver_type": "bh1"}, {"variant": "bh1"}), ({"predict_x0": False}, {"prediction": "noise"})],
    ids=ident,
)
def test_their_unipc_to_zero_is_nan(doubled: Any, config: Any, options: Any) -> None:
    """To sigma = 0 their last step multiplies inf (h in B = h, or expm1(h) of a noise prediction) by 0. The
    limit is finite: alpha x0."""
    s = doubled(make("UniPCMultistepScheduler", 10, final_sigmas_type="zero", **config, **BETAS))
    assert run_sigmas(s, X).isnan().all()
    assert ours(plan("unipc", VP, times_of(s.sigmas), **options), VP, X).isfinite().all()
