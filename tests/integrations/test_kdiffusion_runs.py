"""sample_* beyond their numbers: what legacy=False mends, batches and seeds, what is refused, what is
seen."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.core.plan import _compiled
from fastdiff.integrations import kdiffusion as K
from fastdiff.integrations.kdiffusion.samplers import SAMPLERS
from fastdiff.testing import GaussianMixture, order_of, pf_ode

MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
EDM, FLOW = fd.processes.EDM(), fd.processes.FlowMatching()
X = torch.linspace(-2.2, 2.2, 12, dtype=torch.float64).reshape(4, 3)
QUIET = {"disable": True}


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return MIXTURE.expectations(x, 1.0, float(sigma[0]))[0]


def denoise_flow(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return MIXTURE.expectations(x, 1 - float(sigma[0]), float(sigma[0]))[0]


def simple(x: torch.Tensor, sigma: torch.Tensor, **extra: Any) -> torch.Tensor:
    """Each element by itself."""
    return x / (1 + sigma.reshape(-1, *[1] * (x.dim() - 1)) ** 2) + 0.1


def logarithmic(n: int, top: float = 14.6, low: float = 0.05) -> torch.Tensor:
    return torch.from_numpy(np.geomspace(top, low, n + 1))


# what legacy=False mends


def plain(k: Any) -> Any:
    return k


THIRD: list[tuple[str, dict[str, Any], float]] = [
    ("dpmpp_3m_sde", {"eta": 0.0}, 2.0),
    ("er_sde", {"s_noise": 0.0, "noise_scaler": plain}, 1.6),
]


@pytest.mark.parametrize("name, options, order", THIRD)
def test_third_order(name: str, options: Any, order: float) -> None:
    """Without noise both are multistep methods of three nodes. A factor 2 in the curvature leaves the first
    order 2; the backward difference in place of the derivative and integrals by sums of 200 points leave the
    second less. The reference is the flow by DOP853 to 1e-12; the first step is cut into small ones, so that
    the low orders there do not show."""
    exact = torch.as_tensor(pf_ode(MIXTURE, EDM, X * 14.6, 14.6, 0.05))

    def error(n: int, legacy: bool) -> float:
        levels = logarithmic(n)
        start = torch.from_numpy(np.geomspace(14.6, float(levels[1]), n // 4 + 1)[:-1])
        sigmas = torch.cat([start, levels[1:]])
        x = SAMPLERS[name](denoise, X * 14.6, sigmas, legacy=legacy, **options, **QUIET)
        return float((x - exact).abs().max())

    steps = [40, 80, 160]
    theirs, ours = ([error(n, legacy) for n in steps] for legacy in (True, False))
    assert order_of(theirs, steps) == pytest.approx(order, abs=0.2)
    assert order_of(ours, steps) == pytest.approx(3, abs=0.2)
    assert ours[-1] < theirs[-1] / 5


GAUSS = 0.5, 0.3  # mean and standard deviation of the data


def gaussian(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    mean, std = GAUSS
    s = sigma[:, None]
    return mean + (1 - s) * std**2 / ((1 - s) ** 2 * std**2 + s**2) * (x - (1 - s) * mean)


@pytest.mark.parametrize("name", ["ddpm", "res_multistep_ancestral"])
def test_noise_of_flow_models(name: str) -> None:
    """Public code adds EDM's noise to them, and the mean of the data is missed by more than half a deviation.
    Ours is right to 6 standard errors of a mean of 20000."""
    x = fd.noise.normal((20000, 1), 3, dtype=torch.float64)
    sigmas = torch.linspace(1, 0, 41, dtype=torch.float64)
    theirs, ours = (
        SAMPLERS[name](gaussian, x, sigmas, flow=True, legacy=legacy, seeds=1, **QUIET)
        for legacy in (True, False)
    )
    bound = 6 * GAUSS[1] / len(x) ** 0.5
    assert abs(float(theirs.mean()) - GAUSS[0]) > 0.5 * GAUSS[1]
    assert abs(float(ours.mean()) - GAUSS[0]) < bound
    assert abs(float(ours.std()) / GAUSS[1] - 1) < 0.15


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_the_mean_of_a_flow_is_kept(name: str) -> None:
    """Of normal data the prediction at x = (1 - sigma) mean is the mean, so without noise every consistent
    step leads from one such point to the next: from 0 at sigma = 1 to the mean, to rounding."""
    f = SAMPLERS[name]
    options = {"tau_func": lambda s: 1.0 if s > 0.5 else 0.0} if "sa_solver" in name else {}
    if "noise_sampler" in inspect.signature(f).parameters:
        options["noise_sampler"] = lambda s, t: torch.zeros(2, 3, dtype=torch.float64)

    def net(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        out = gaussian(x, sigma)
        return (out, out) if "cfg_pp" in name else out

    x = f(
        net,
        X[:2] * 0,
        torch.linspace(1, 0, 9, dtype=torch.float64),
        flow=True,
        legacy=False,
        **options,
        **QUIET,
    )
    assert (x - GAUSS[0]).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["dpmpp_2m", "res_multistep", "unipc_bh2"])
def test_flow_models_by_their_own_lambda(name: str) -> None:
    """EDM's steps on their sigma are of order 2 as well, with a larger error: log sigma is not where the data
    prediction of a flow model is smooth; UniPC's ends at 0.001 besides."""
    top = 0.999
    exact = torch.as_tensor(pf_ode(MIXTURE, FLOW, X, top, 1e-6))
    sigmas = torch.linspace(top, 0, 21, dtype=torch.float64)
    theirs, ours = (
        float(
            (SAMPLERS[name](denoise_flow, X, sigmas, flow=True, legacy=legacy, **QUIET) - exact).abs().max()
        )
        for legacy in (True, False)
    )
    assert ours < theirs


def test_the_first_step_of_flow_models_is_exact() -> None:
    """At sigma = 1 a network is asked at sigma = 1, not at 1 - 1e-4."""
    for legacy, top in ((True, 1 - 1e-4), (False, 1.0)):
        asked: list[float] = []
        sigmas = torch.linspace(1, 0, 5)
        K.sample_dpmpp_2m_sde(
            lambda x, s, asked=asked: asked.append(float(s[0])) or x * 0,  # type: ignore[misc]
            X, sigmas, flow=True, legacy=legacy, **QUIET,
        )  # fmt: skip
        assert asked[0] == pytest.approx(top, rel=1e-12)


@pytest.mark.parametrize("name, options", [("unipc", {}), ("lms", {"order": 3})])
def test_sigma_0_is_the_data_prediction(name: str, options: Any) -> None:
    """ComfyUI's UniPC stops at 0.001; k-diffusion's LMS goes on extrapolating slopes."""
    for legacy in (True, False):
        outputs: list[torch.Tensor] = []

        def net(x: torch.Tensor, s: torch.Tensor, outputs: Any = outputs) -> torch.Tensor:
            outputs.append(denoise(x, s))
            return outputs[-1].clone()

        sigmas = K.get_sigmas_karras(8, 0.03, 14.6).double()
        before = sigmas.clone()
        x = SAMPLERS[name](net, X * 14.6, sigmas, legacy=legacy, **options, **QUIET)
        assert torch.allclose(x, outputs[-1], rtol=0, atol=1e-14) is not legacy
        assert torch.equal(sigmas, before)


def test_clamped_levels() -> None:
    theirs = K.get_sigmas_laplace(20, 0.5, 2.0)
    ours = K.get_sigmas_laplace(20, 0.5, 2.0, legacy=False)
    x = np.linspace(0, 1, 20)
    law = np.exp(-0.5 * np.sign(0.5 - x) * np.log(1 - 2 * np.abs(0.5 - x) + 1e-5)).clip(0.5, 2.0)
    assert torch.allclose(theirs.double(), torch.from_numpy(law), rtol=1e-6) and (theirs.diff() == 0).any()
    assert (ours.diff() < 0).all() and ours[0] == 2.0
    with pytest.raises(ValueError, match="fall strictly"):
        K.sample_euler(simple, X, theirs, **QUIET)


def test_dpmpp_sde_is_seeds_of_order_2() -> None:
    sigmas = K.get_sigmas_karras(8, 0.03, 14.6).double()
    noise = {
        "noise_sampler": lambda s, t: torch.from_numpy(
            np.random.default_rng(int(s * 1e6)).normal(size=(4, 3))
        )
    }
    options = {"eta": 0.7, **noise, **QUIET}
    ours = K.sample_dpmpp_sde(denoise, X * 14.6, sigmas, legacy=False, **options)
    assert torch.equal(ours, K.sample_seeds_2(denoise, X * 14.6, sigmas, **options))


# batches and seeds

DRAWING = {n: f for n, f in SAMPLERS.items() if "noise_sampler" in inspect.signature(f).parameters}
LEVELS = K.get_sigmas_karras(6, 0.03, 14.6)
BATCH = fd.noise.normal((4, 2, 5), 0) * 14.6


def both(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    out = simple(x, sigma)
    return out, 0.5 * out


def setup(name: str) -> tuple[Callable[..., Any], torch.Tensor, dict[str, Any]]:
    options = {"tau_func": lambda s: 1.0} if "sa_solver" in name else {}
    sigmas = torch.linspace(0.99, 0, 7) if "_RF" in name else LEVELS
    return (both if "cfg_pp" in name else simple), sigmas, {**options, **QUIET}


@pytest.mark.parametrize("name", sorted(DRAWING))
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    """Bit for bit: sample k of four alone, and by torch's generator the first of one and of four."""
    net, sigmas, options = setup(name)
    f = SAMPLERS[name]
    whole = f(net, BATCH, sigmas, seeds=11, **options)
    for k in range(4):
        assert torch.equal(
            f(net, BATCH[k : k + 1], sigmas, seeds=fd.Seeds(11, ids=[k]), **options), whole[k : k + 1]
        )
    torch.manual_seed(3)
    four = f(net, BATCH, sigmas, **options)
    torch.manual_seed(3)
    assert torch.equal(f(net, BATCH[:1], sigmas, **options), four[:1])
    stochastic = name not in ("res_multistep", "res_multistep_cfg_pp")
    assert torch.equal(f(net, BATCH, sigmas, seeds=12, **options), whole) is not stochastic


def test_adaptive_steps_of_each_sample() -> None:
    """legacy=False: to a bit; public code's one error for all moves it."""

    def alone(legacy: bool) -> bool:
        run = [
            K.sample_dpm_adaptive(denoise, x, 0.03, 14.6, legacy=legacy, **QUIET)
            for x in (X * 14.6, X[:1] * 14.6)
        ]
        return torch.equal(run[0][:1], run[1])

    assert alone(False) and not alone(True)
    _, info = K.sample_dpm_adaptive(denoise, X * 14.6, 0.03, 14.6, legacy=False, return_info=True, **QUIET)
    assert info["nfe"].shape == (4,) and torch.equal(info["steps"], info["n_accept"] + info["n_reject"])


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "euler_ancestral", "dpmpp_sde", "lcm"])
def test_more_steps_lead_to_the_same_sample(name: str) -> None:
    """One Brownian path whatever the steps: closer by doubling them than by another seed."""

    def run(n: int, seed: int) -> torch.Tensor:
        sigmas = torch.cat([logarithmic(n), torch.zeros(1)])
        return SAMPLERS[name](denoise, X * 14.6, sigmas, seeds=seed, **QUIET)

    if name == "lcm":
        assert not torch.equal(run(20, 1), run(20, 2))
    else:
        assert (run(80, 1) - run(160, 1)).abs().mean() < 0.4 * (run(80, 1) - run(80, 2)).abs().mean()


def test_comfyui_seed() -> None:
    """extra_args carry it to the network too; of its 64 bits 63 count."""
    seeds: list[int] = []

    def net(x: torch.Tensor, sigma: torch.Tensor, seed: int) -> torch.Tensor:
        seeds.append(seed)
        return simple(x, sigma)

    big = 2**64 - 5
    got = K.sample_euler_ancestral(net, BATCH, LEVELS, {"seed": big}, **QUIET)
    assert torch.equal(got, K.sample_euler_ancestral(simple, BATCH, LEVELS, seeds=big % 2**63, **QUIET))
    assert set(seeds) == {big}


# what is seen


def test_what_the_network_gets() -> None:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        seen: list[torch.Tensor] = []

        def net(x: torch.Tensor, sigma: torch.Tensor, seen: Any = seen) -> torch.Tensor:
            seen.append(sigma.clone())
            return simple(x, sigma).to(x.dtype)

        x = BATCH.to(dtype)
        before = x.clone()
        out = K.sample_dpmpp_2m(net, x, LEVELS, **QUIET)
        assert out.dtype == dtype and torch.equal(x, before)
        assert all(s.shape == (4,) for s in seen)
        assert torch.stack([s[0] for s in seen]).tolist() == LEVELS[:-1].tolist()


@pytest.mark.parametrize("name", ["sa_solver", "sa_solver_pece", "unipc", "ipndm", "seeds_3", "er_sde"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_callback_of_the_others(name: str, dtype: torch.dtype) -> None:
    """Once for each step, on what the network was first given at its level; the result is as without."""
    options = setup(name)[2]
    facts: list[dict[str, Any]] = []
    x = BATCH.to(dtype)

    def wide(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return simple(x, sigma).double()  # wider than x

    got = SAMPLERS[name](wide, x, LEVELS, callback=facts.append, seeds=4, **options)
    assert [f["i"] for f in facts] == list(range(6)) and [f["sigma"] for f in facts] == list(LEVELS[:-1])
    assert torch.equal(facts[0]["x"], x)
    for f in facts:
        assert torch.equal(f["denoised"], wide(f["x"], f["sigma"].to(dtype).expand(4)).to(dtype))
    plain = SAMPLERS[name](lambda x, s: simple(x, s), x, LEVELS, seeds=4, **options)
    assert torch.allclose(got, plain, rtol=1e-5, atol=1e-5)


def test_noise_of_dpm_adaptive_is_of_its_seeds() -> None:
    options = {"eta": 1.0, **QUIET}
    a, b, c = (K.sample_dpm_adaptive(denoise, X * 14.6, 0.03, 14.6, seeds=k, **options) for k in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.isfinite().all()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dpm_adaptive_ends(eta: float) -> None:
    """Where a model gives NaN it says so, and of no samples it returns none; it does not go on for ever."""
    with pytest.raises(fd.NonFinite, match="error of a step is NaN"):
        K.sample_dpm_adaptive(lambda x, s: x * float("nan"), X * 14.6, 0.03, 14.6, eta=eta, **QUIET)
    assert K.sample_dpm_adaptive(simple, X[:0], 0.03, 14.6, eta=eta, **QUIET).shape == X[:0].shape


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_callback_of_dpm_adaptive(eta: float) -> None:
    facts: list[dict[str, Any]] = []
    _, info = K.sample_dpm_adaptive(
        denoise, X * 14.6, 0.03, 14.6, callback=facts.append, return_info=True, eta=eta, **QUIET
    )
    assert [f["i"] for f in facts] == list(range(info["steps"]))
    assert {"x", "i", "sigma", "sigma_hat", "denoised", "t", "t_up"} == facts[0].keys()


def test_callback_may_not_steer() -> None:
    with pytest.raises(ValueError, match="callback changed x in place at step 0"):
        K.sample_euler(simple, BATCH, LEVELS, callback=lambda f: f["x"].zero_(), **QUIET)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    K.sample_heun(simple, BATCH, LEVELS, disable=False)
    K.sample_dpm_adaptive(simple, BATCH, 0.03, 14.6, disable=False)
    assert "6/6" in capsys.readouterr().err
    K.sample_heun(simple, BATCH, LEVELS, disable=True)
    assert capsys.readouterr().err == ""


def test_a_second_run_compiles_nothing() -> None:
    K.sample_dpmpp_3m_sde(simple, BATCH, LEVELS, seeds=0, **QUIET)
    before = _compiled.cache_info()
    K.sample_dpmpp_3m_sde(both, BATCH[:2], LEVELS.clone(), seeds=1, **QUIET)
    after = _compiled.cache_info()
    assert after.misses == before.misses and after.hits == before.hits + 1


def test_inference_mode() -> None:
    """ComfyUI runs its nodes in it."""
    with torch.inference_mode():
        x = BATCH.clone()
        got = K.sample_dpmpp_2m_sde(simple, x, LEVELS.clone(), callback=lambda f: None, seeds=0, **QUIET)
    assert torch.equal(got, K.sample_dpmpp_2m_sde(simple, BATCH, LEVELS, seeds=0, **QUIET))


# what is refused

DOWN = torch.tensor([3.0, 1.0, 0.0])
WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    (
        "euler",
        {"sigmas": DOWN.flip(0)},
        ValueError,
        r"fall strictly, got sigmas\[0\] = 0 and sigmas\[1\] = 1",
    ),
    ("euler", {"sigmas": torch.tensor([3.0, 1.0, 1.0])}, ValueError, "fall strictly"),
    ("euler", {"sigmas": DOWN[None]}, ValueError, r"one axis, got shape \(1, 3\)"),
    ("euler", {"sigmas": torch.tensor([3, 1, 0])}, TypeError, "floating dtype, got torch.int64"),
    ("euler", {"sigmas": [3.0, 1.0]}, TypeError, "must be a tensor, got list"),
    ("euler", {"sigmas": torch.tensor([3.0, float("nan")])}, ValueError, "finite"),
    ("euler", {"sigmas": torch.tensor([3.0, -1.0])}, ValueError, r"not below 0, got sigmas\[1\] = -1"),
    ("euler", {"flow": True}, ValueError, r"lie in \[0, 1\], got sigmas\[0\] = 3"),
    ("euler", {"x": [1.0]}, TypeError, "x must be a tensor"),
    ("euler", {"x": torch.ones(2, dtype=torch.int64)}, TypeError, "x must be float32"),
    ("euler", {"extra_args": 3}, TypeError, "extra_args must be a dict"),
    ("euler", {"callback": 3}, TypeError, "callback must be callable"),
    ("euler", {"legacy": 1}, TypeError, "legacy must be True or False"),
    ("euler", {"etta": 1.0}, TypeError, "etta"),
    ("euler", {"s_churn": -1.0}, ValueError, "churn must be a number"),
    ("euler_ancestral", {"noise_sampler": 3}, TypeError, "noise_sampler must be callable"),
    ("euler_ancestral", {"eta": 1.5}, ValueError, r"eta must be a number in \[0, 1\], got 1.5"),
    ("euler_ancestral", {"noise_sampler": lambda s, t: torch.ones(3)}, ValueError, "need"),
    ("lms", {"order": 5}, ValueError, "order=5"),
    ("heunpp2", {"s_churn": 1.0}, ValueError, "s_churn must be 0"),
    ("dpmpp_2m_sde", {"solver_type": "euler"}, ValueError, "weight='euler'"),
    ("dpmpp_sde", {"r": 1.5}, ValueError, "r must be a number"),
    ("seeds_2", {"r": 1.5}, ValueError, "inner nodes"),
    ("seeds_2", {"solver_type": "phi_3"}, ValueError, "phi_3"),
    ("deis", {"deis_mode": "rho"}, ValueError, "deis_mode"),
    ("sa_solver", {}, ValueError, "tau_func"),
    ("er_sde", {"max_stage": 4}, ValueError, "order=4"),
    ("lcm", {"noise_clip_std": -1.0}, ValueError, "noise_clip_std"),
    ("euler_cfg_pp", {"x": torch.ones(3)}, ValueError, r"x \(B, C, ...\)"),
    ("euler_cfg_pp", {}, TypeError, "without guidance"),
]


@pytest.mark.parametrize("name, wrong, error, message", WRONG)
def test_refused(name: str, wrong: Any, error: Any, message: str) -> None:
    """Before the network is asked, where it need not be."""
    arguments = {"model": simple, "x": torch.ones(2, 3), "sigmas": DOWN, **QUIET, **wrong}
    with pytest.raises(error, match=message):
        SAMPLERS[name](**arguments)


@pytest.mark.parametrize("low, top", [(0.0, 1.0), (1.0, 0.5), (-1.0, 1.0)])
def test_refused_ends(low: float, top: float) -> None:
    for f in (K.sample_dpm_adaptive, lambda *a, **o: K.sample_dpm_fast(*a, 5, **o)):
        with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
            f(simple, BATCH, low, top, **QUIET)


def test_refused_by_dpm() -> None:
    for wrong, words in (
        ({"eta": 1.5}, r"eta must lie in \[0, 1\]"),
        ({"eta": 0.5, "legacy": False}, "legacy=True"),
        ({"eta": 0.5, "s_noise": float("nan")}, "s_noise must be finite"),
    ):
        with pytest.raises(ValueError, match=words):
            K.sample_dpm_adaptive(simple, BATCH, 0.1, 1.0, **wrong, **QUIET)
    for n in (0, 1.5, True):
        with pytest.raises(ValueError, match="n must be an int"):
            K.sample_dpm_fast(simple, BATCH, 0.1, 1.0, n, **QUIET)  # type: ignore[arg-type]
    for f in (K.get_sigmas_karras, K.get_sigmas_exponential):
        with pytest.raises(ValueError, match="n must be at least 1"):
            f(0, 0.1, 1.0)
        with pytest.raises(ValueError, match="sigma_min"):
            f(5, 1.0, 0.1)


def test_the_page_names_them_all() -> None:
    page = Path(__file__).parents[2] / "docs" / "kdiffusion.md"
    if not page.exists():
        pytest.skip("no source tree here")
    named = set()
    for cell in re.findall(r"^\|([^|]*)\|[^|]*\| \|([^|]*)\|", page.read_text(), re.M):
        for group in cell:
            first = ""
            for name in re.findall(r"`([a-zA-Z0-9_]+)`", group):
                first = name if not name.startswith("_") else first
                named.add(name if not name.startswith("_") else first + name)
    missing = {n for n in SAMPLERS if n not in named} - {
        "dpmpp_2m_sde_heun_gpu",
        "dpmpp_2s_ancestral_RF_cfg_pp",
    }
    assert not missing


@pytest.mark.parametrize("count", [0, 1])
def test_no_step_changes_nothing(count: int) -> None:
    for name, f in SAMPLERS.items():
        assert f(simple, BATCH, torch.ones(count), **QUIET) is BATCH, name
