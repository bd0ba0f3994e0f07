"""diffusers' own schedulers run beside FastScheduler: the same network, seeds and timesteps.

float32  both as they are: 3e-6 of the largest value, some 20 roundings of float32 and what their float32
         coefficients lose; those of third order cancel: 1e-5, SA-Solver's of orders 3 and 4 twice: 1e-4
float64  their tables cast to float64, their arithmetic in it: 1e-9, the noise prediction's 1 / alpha = 150
         and the cancellations of their formulas
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
FastScheduler = pytest.importorskip("fastdiff.integrations.diffusers").FastScheduler
sys.path.append(str(Path(__file__).parents[1] / "peers"))
doubled = importlib.import_module("test_diffusers").doubled

SDE, FLOW = (
    {"algorithm_type": "sde-dpmsolver++"},
    {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
)
SDE_NOISE = {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}
V, KARRAS = {"prediction_type": "v_prediction"}, {"use_karras_sigmas": True}
NO_CLIP = {"clip_sample": False}
STEPS = 12

CASES: list[Any] = [
    ("DDIM", {}),
    ("DDIM", {**NO_CLIP, "timestep_spacing": "linspace"}),
    ("DDIM", {**NO_CLIP, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, **V}),
    ("DDIM", {"thresholding": True}),
    ("DDPM", {}),
    ("DDPM", {**NO_CLIP, "variance_type": "fixed_large", "timestep_spacing": "trailing"}),
    ("DDPM", {"variance_type": "fixed_small_log", "beta_schedule": "squaredcos_cap_v2"}),
    ("PNDM", {}),
    ("PNDM", {"skip_prk_steps": True, "steps_offset": 1, "beta_schedule": "scaled_linear"}),
    ("PNDM", {"skip_prk_steps": True, "timestep_spacing": "linspace", **V}),
    ("LCM", {}),
    ("LCM", {"clip_sample": True}),
    ("TCD", {}),
    ("DPMSolverMultistep", {}),
    ("DPMSolverMultistep", {"solver_order": 3, "timestep_spacing": "leading", "steps_offset": 1}),
    ("DPMSolverMultistep", {"solver_type": "heun", **KARRAS}),
    ("DPMSolverMultistep", {"euler_at_final": True, "final_sigmas_type": "sigma_min", **KARRAS}),
    ("DPMSolverMultistep", {"use_lu_lambdas": True, "prediction_type": "sample"}),
    ("DPMSolverMultistep", {"use_exponential_sigmas": True, "thresholding": True}),
    ("DPMSolverMultistep", {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}),
    (
        "DPMSolverMultistep",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3},
    ),
    ("DPMSolverMultistep", {**FLOW, "flow_shift": 3.0}),
    ("DPMSolverMultistep", SDE),
    ("DPMSolverMultistep", {**SDE, "solver_type": "heun", "timestep_spacing": "trailing"}),
    ("DPMSolverMultistep", {**SDE, "solver_order": 3, "lower_order_final": False}),
    ("DPMSolverSinglestep", {}),
    ("DPMSolverSinglestep", {"solver_order": 3, "solver_type": "heun"}),
    ("DPMSolverSinglestep", {"solver_order": 3}),
    ("DPMSolverSinglestep", {**SDE, "solver_order": 3, "solver_type": "heun"}),
    ("DPMSolverSinglestep", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("DEISMultistep", {}),
    ("DEISMultistep", {"solver_order": 3, **KARRAS}),
    ("UniPCMultistep", {}),
    ("UniPCMultistep", {"solver_order": 3, "disable_corrector": [0, 1, 5], **KARRAS}),
    ("UniPCMultistep", {"predict_x0": False, "final_sigmas_type": "sigma_min", "solver_type": "bh1"}),
    ("UniPCMultistep", {**FLOW, "flow_shift": 2.0}),
    ("SASolver", {}),
    ("SASolver", {"predictor_order": 3, "corrector_order": 4}),
    ("EulerDiscrete", {}),
    ("EulerDiscrete", {"timestep_spacing": "leading", "final_sigmas_type": "sigma_min", **V, **KARRAS}),
    ("EulerDiscrete", {"timestep_type": "continuous", **V, **KARRAS, "sigma_min": 0.002, "sigma_max": 700.0}),
    ("EulerDiscrete", {"interpolation_type": "log_linear"}),
    ("EulerAncestralDiscrete", {}),
    ("HeunDiscrete", {"clip_sample": True}),
    ("HeunDiscrete", {**V, **KARRAS}),
    ("KDPM2Discrete", {}),
    ("KDPM2AncestralDiscrete", {}),
    ("LMSDiscrete", {}),
    ("LMSDiscrete", {**V, **KARRAS}),
    ("EDMEuler", {}),
    ("EDMEuler", {**V, "sigma_schedule": "exponential"}),
    ("EDMDPMSolverMultistep", {"solver_order": 3}),
    ("EDMDPMSolverMultistep", SDE),
    ("IPNDM", {}),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}),
    ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True, "shift_terminal": 0.02}),
    ("FlowMatchEulerDiscrete", {"invert_sigmas": True}),
    ("FlowMatchEulerDiscrete", {"stochastic_sampling": True}),
    ("FlowMatchHeunDiscrete", {"shift": 3.0}),
    ("FlowMatchLCM", {}),
    ("LTXEulerAncestralRF", {}),
    ("DPMSolverMultistep", SDE_NOISE),
    ("DPMSolverMultistep", {**SDE_NOISE, "solver_type": "heun", **V}),
    ("DPMSolverMultistep", {**SDE_NOISE, "solver_order": 1}),
    ("DDIMInverse", {}),
    ("DDIMInverse", {**NO_CLIP, "steps_offset": 1}),
    ("DDIMInverse", {**NO_CLIP, "timestep_spacing": "trailing", **V}),
    ("DDIMInverse", {**NO_CLIP, "set_alpha_to_one": False, "prediction_type": "sample"}),
    ("DPMSolverMultistepInverse", {"timestep_spacing": "leading", "prediction_type": "sample"}),
    ("DPMSolverMultistepInverse", {"solver_order": 3}),
    ("DPMSolverMultistepInverse", {"algorithm_type": "dpmsolver", "solver_type": "heun", **KARRAS}),
    (
        "DPMSolverMultistepInverse",
        {"thresholding": True, "lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"},
    ),
]
IN_DOUBLE = (
    "DDIM DDPM PNDM LCM TCD DPMSolverMultistep DPMSolverSinglestep UniPCMultistep DEISMultistep SASolver "
    "EulerDiscrete EulerAncestralDiscrete HeunDiscrete KDPM2Discrete DDIMInverse DPMSolverMultistepInverse"
).split()


def net(x: torch.Tensor, t: Any) -> torch.Tensor:
    return torch.tanh(0.7 * x + 0.1) + 0.05 * float(t) / 1000 * x


def run(s: Any, x: torch.Tensor, generator: torch.Generator, **options: Any) -> torch.Tensor:
    if "generator" in inspect.signature(s.step).parameters:
        options["generator"] = generator
    for t in s.timesteps:
        shown = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
        x = s.step(net(shown, t), t, x, return_dict=False, **options)[0]
    return x


def pair(name: str, config: Any, steps: int = STEPS, **options: Any) -> tuple[Any, Any]:
    theirs = getattr(diffusers, f"{name}Scheduler")(**config)
    ours = FastScheduler.from_config(theirs)
    if config.get("use_dynamic_shifting"):
        options["mu"] = 0.8
    for s in (theirs, ours):
        s.set_timesteps(steps, **options)
    return theirs, ours


def both(
    theirs: Any, ours: Any, dtype: torch.dtype, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    x = x * getattr(theirs, "init_noise_sigma", 1.0)
    a, b = (torch.Generator().manual_seed(2) for _ in range(2))
    y, z = run(theirs, x, a, **options), run(ours, x, b, **options)
    return y, z, bool((a.get_state() == b.get_state()).all())


def ident(v: Any) -> str | None:
    return "-".join(f"{k}={o}" for k, o in v.items()) or "default" if isinstance(v, dict) else None


@pytest.mark.parametrize("name, config", CASES, ids=ident)
def test_float32(name: str, config: Any) -> None:
    theirs, ours = pair(name, config)
    start = getattr(theirs, "init_noise_sigma", 1.0)
    assert ours.init_noise_sigma == start and torch.equal(theirs.timesteps, ours.timesteps)
    assert theirs.timesteps.dtype == ours.timesteps.dtype
    y, z, spent = both(theirs, ours, torch.float32)
    assert y.dtype == z.dtype
    third = config.get("solver_order") == 3 or config.get("predictor_order") == 3
    tolerance = 1e-4 if name == "SASolver" and third else 1e-5 if third else 3e-6
    assert (y - z).abs().max() <= tolerance * y.abs().max()
    assert spent  # as many draws were taken of the generator


@pytest.mark.parametrize("name, config", [c for c in CASES if c[0] in IN_DOUBLE], ids=ident)
def test_float64(doubled: Any, name: str, config: Any) -> None:
    if config.get("clip_sample") or config.get("thresholding"):
        pytest.skip("a clip decides by rounding")
    theirs, ours = pair(name, config)
    y, z, _ = both(doubled(theirs), ours, torch.float64)
    assert (y - z).abs().max() <= 1e-9 * y.abs().max()


@pytest.mark.parametrize(
    "name, eta", [("DDIM", 0.0), ("DDIM", 0.6), ("DDIM", 1.0), ("TCD", 0.0), ("TCD", 0.8)]
)
def test_eta(name: str, eta: float) -> None:
    y, z, spent = both(*pair(name, {}), torch.float32, eta=eta)
    assert (y - z).abs().max() <= 3e-6 * y.abs().max() and spent


CHURN: list[Any] = [
    ("EulerDiscrete", {}),
    ("EulerDiscrete", {**V, **KARRAS}),
    ("EulerDiscrete", {"prediction_type": "sample"}),
    ("EDMEuler", {}),
    ("EDMEuler", V),
]


@pytest.mark.parametrize("name, config", CHURN, ids=ident)
@pytest.mark.parametrize(
    "options", [{"s_churn": 4.0}, {"s_churn": 40.0, "s_tmin": 0.3, "s_tmax": 5.0, "s_noise": 1.007}]
)
def test_churn(name: str, config: Any, options: Any) -> None:
    y, z, spent = both(*pair(name, config), torch.float32, **options)
    assert (y - z).abs().max() <= 3e-6 * y.abs().max() and spent and y.dtype == z.dtype


@pytest.mark.parametrize("config", CHURN[:3], ids=ident)
def test_churn_in_double(doubled: Any, config: Any) -> None:
    theirs, ours = pair(*config)
    y, z, _ = both(doubled(theirs), ours, torch.float64, s_churn=4.0)
    assert (y - z).abs().max() <= 1e-9 * y.abs().max()


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"stochastic_sampling": True}], ids=ident)
def test_tokens_at_their_own_levels(config: Any) -> None:
    """As a video that is continued: the tokens that are given stand at 0 and stay."""
    theirs, ours = pair("FlowMatchEulerDiscrete", config)
    x, free = torch.randn(2, 6, 5), (torch.rand(2, 6) > 0.3).float()
    found, states = [], []
    for s in (theirs, ours):
        y, generator = x, torch.Generator().manual_seed(3)
        for t in s.timesteps:
            options = {"per_token_timesteps": t * free, "generator": generator}
            y = s.step(-net(y, t), t, y, **options).prev_sample
        found.append(y), states.append(generator.get_state())
    assert (found[0] - found[1]).abs().max() <= 3e-6 * found[0].abs().max()
    assert torch.equal(*states) and (config or torch.equal(found[1][free == 0], x[free == 0]))


def test_clipped_output() -> None:
    y, z, _ = both(*pair("DDIM", {}), torch.float32, use_clipped_model_output=True)
    assert (y - z).abs().max() <= 3e-6 * y.abs().max()


@pytest.mark.parametrize(
    "name, options",
    [
        ("DDPM", {"timesteps": [900, 700, 300, 20]}),
        ("DPMSolverMultistep", {"timesteps": [900, 700, 300, 20]}),
        ("EulerDiscrete", {"timesteps": [900, 700, 300, 20]}),
        ("EulerDiscrete", {"sigmas": [12.0, 5.0, 1.0, 0.2, 0.0]}),
        ("FlowMatchEulerDiscrete", {"sigmas": [1.0, 0.7, 0.2]}),
        ("LCM", {"num_inference_steps": 4, "original_inference_steps": 100}),
        ("LCM", {"num_inference_steps": 4, "strength": 0.5}),
    ],
)
def test_custom_schedules(name: str, options: Any) -> None:
    theirs = getattr(diffusers, f"{name}Scheduler")()
    ours = FastScheduler.from_config(theirs)
    for s in (theirs, ours):
        s.set_timesteps(**options)
    assert torch.equal(theirs.timesteps, ours.timesteps)
    y, z, _ = both(theirs, ours, torch.float32)
    assert (y - z).abs().max() <= 3e-6 * y.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["DPMSolverMultistep", "EulerDiscrete", "UniPCMultistep", "FlowMatchEulerDiscrete"]
)
def test_half(name: str, dtype: torch.dtype) -> None:
    """Their steps round every intermediate tensor, ours once: two roundings a step apart, and the network's
    own (its slope is below 2) on top."""
    y, z, _ = both(*pair(name, {}), dtype)
    assert z.dtype == dtype
    exact = both(*pair(name, {}), torch.float32)[1]
    scale = exact.abs().max() * STEPS * torch.finfo(dtype).eps
    assert (z.float() - exact).abs().max() <= 4 * scale and (y - z).float().abs().max() <= 8 * scale


@pytest.mark.parametrize(
    "name, config",
    [
        ("DPMSolverMultistep", {"solver_order": 3}),
        ("DPMSolverSinglestep", {}),
        ("UniPCMultistep", {"solver_order": 3}),
        ("SASolver", {}),
        ("DEISMultistep", {}),
        ("EulerDiscrete", {}),
        ("HeunDiscrete", {}),
        ("KDPM2Discrete", {}),
        ("LMSDiscrete", {}),
        ("FlowMatchEulerDiscrete", {}),
        ("DDIM", {}),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_image_to_image(name: str, config: Any, told: bool) -> None:
    """Entered at a later timestep, by set_begin_index or by the timestep itself."""
    theirs, ours = pair(name, config)
    start = 4 * theirs.order
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    results = []
    for s in (theirs, ours):
        generator, timesteps = torch.Generator().manual_seed(0), s.timesteps[start:]
        if told and hasattr(s, "set_begin_index"):
            s.set_begin_index(start)
        one = timesteps[:1].repeat(2)
        y = s.scale_noise(x, timesteps[:1], noise) if name.startswith("Flow") else s.add_noise(x, noise, one)
        options = {"generator": generator} if "generator" in inspect.signature(s.step).parameters else {}
        for t in timesteps:
            shown = s.scale_model_input(y, t) if hasattr(s, "scale_model_input") else y
            y = s.step(net(shown, t), t, y, **options).prev_sample
        results.append(y)
    assert (results[0] - results[1]).abs().max() <= 3e-6 * results[0].abs().max()


@pytest.mark.parametrize(
    "name", ["DDIM", "DDPM", "LCM", "EulerDiscrete", "DPMSolverMultistep", "HeunDiscrete"]
)
def test_noise_and_velocity(name: str) -> None:
    theirs, ours = pair(name, {})
    x, noise = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    t = theirs.timesteps[[0, 3, 7]]
    a, b = theirs.add_noise(x, noise, t), ours.add_noise(x, noise, t)
    assert (a - b).abs().max() <= 1e-6 * a.abs().max()
    if name in ("DDIM", "DDPM"):
        a, b = theirs.get_velocity(x, noise, t), ours.get_velocity(x, noise, t)
        assert (a - b).abs().max() <= 1e-6 * a.abs().max()


@pytest.mark.parametrize(
    "name", ["DDIM", "EulerDiscrete", "LMSDiscrete", "HeunDiscrete", "KDPM2Discrete", "LCM", "TCD"]
)
def test_second_output(name: str) -> None:
    """pred_original_sample, denoised, pred_noised_sample; as a tuple and by name."""
    theirs, ours = pair(name, {}, steps=4)
    x = torch.randn(2, 3, 4, 4)
    options: dict[str, Any] = {"eta": 0.5} if name == "TCD" else {}
    for i, (t, u) in enumerate(zip(theirs.timesteps, ours.timesteps, strict=True)):
        shown = theirs.scale_model_input(x, t)
        ours.scale_model_input(x, u)
        out = net(shown, t)
        if name in ("LCM", "TCD"):
            options["generator"] = torch.Generator().manual_seed(i)
        a = theirs.step(out, t, x, return_dict=False, **options)
        if name in ("LCM", "TCD"):
            options["generator"] = torch.Generator().manual_seed(i)
        b = ours.step(out, u, x, **options)
        assert (a[1] - b.to_tuple()[1]).abs().max() <= 2e-6 * max(a[1].abs().max(), 1)
        x = a[0]
