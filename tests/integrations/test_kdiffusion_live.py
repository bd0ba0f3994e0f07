"""k-diffusion's own sample_* and get_sigmas_*, run live beside ours with the same noise_sampler.

Agreement to 1e-9 of the larger of 1 and the result in float64. Sums of 17 steps cancel from states as large
as 80, which leaves about 1e-13; the rest is room for their order of operations.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fastdiff.integrations import kdiffusion as K
from fastdiff.noise import resolve
from fastdiff.ops.normal import normal
from fastdiff.testing import GaussianMixture
from fastdiff.testing.kdiffusion import kdiffusion

MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
X = torch.linspace(-2.2, 2.2, 12, dtype=torch.float64).reshape(3, 4) * 80


@pytest.fixture(scope="module")
def sampling() -> Any:
    theirs = kdiffusion()
    if theirs is None:
        pytest.skip("k-diffusion is not installed")
    return theirs


@pytest.fixture
def double() -> Iterator[None]:
    """Where they make tensors of their own, in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def denoise(x: torch.Tensor, sigma: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
    columns = [MIXTURE.expectations(x[i : i + 1], 1.0, sigma[i])[0] for i in range(len(x))]
    return torch.cat(columns) + shift


def sigmas(steps: int = 17, low: float = 0.02, zero: bool = True) -> torch.Tensor:
    levels = torch.from_numpy(np.linspace(80 ** (1 / 7), low ** (1 / 7), steps) ** 7)
    return torch.cat([levels, levels.new_zeros(1)]) if zero else levels


class Noise:
    """Standard normals by the ends of a step alone, whoever asks, how often and in which order."""

    def __call__(self, sigma: Any, sigma_next: Any) -> torch.Tensor:
        key = [int(float(f"{float(v):.9e}") * 1e9) for v in (sigma, sigma_next)]
        return torch.from_numpy(np.random.default_rng(key).standard_normal(X.shape))


NOISE = Noise()
CASES: list[tuple[str, dict[str, Any]]] = [
    ("sample_euler", {}),
    ("sample_heun", {}),
    ("sample_dpm_2", {}),
    ("sample_lms", {}),
    ("sample_lms", {"order": 2}),
    ("sample_dpmpp_2m", {}),
    ("sample_euler_ancestral", {}),
    ("sample_euler_ancestral", {"eta": 0.4, "s_noise": 1.1}),
    ("sample_dpm_2_ancestral", {}),
    ("sample_dpm_2_ancestral", {"eta": 0.7, "s_noise": 0.9}),
    ("sample_dpmpp_2s_ancestral", {}),
    ("sample_dpmpp_2s_ancestral", {"eta": 0.5, "s_noise": 1.1}),
    ("sample_dpmpp_sde", {}),
    ("sample_dpmpp_sde", {"eta": 0.6, "s_noise": 1.05}),
    ("sample_dpmpp_sde", {"r": 0.3}),
    ("sample_dpmpp_sde", {"eta": 0.0, "r": 0.8}),
    ("sample_dpmpp_2m_sde", {}),
    ("sample_dpmpp_2m_sde", {"solver_type": "heun", "eta": 0.6, "s_noise": 1.05}),
    ("sample_dpmpp_2m_sde", {"eta": 0.0}),
    ("sample_dpmpp_3m_sde", {}),
    ("sample_dpmpp_3m_sde", {"eta": 0.3, "s_noise": 1.05}),
]


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-9) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert (ours - theirs).abs().max() <= tolerance * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("steps, zero", [(17, True), (5, True), (2, True), (17, False)])
@pytest.mark.parametrize("name, options", CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_sampler(sampling: Any, name: str, options: Any, steps: int, zero: bool) -> None:
    """The network gets extra_args and one sigma for each sample."""
    theirs = getattr(sampling, name)
    if "noise_sampler" in inspect.signature(theirs).parameters:
        options = {**options, "noise_sampler": NOISE}
    arguments = (denoise, X, sigmas(steps, zero=zero), {"shift": 0.01})
    close(getattr(K, name)(*arguments, disable=True, **options), theirs(*arguments, disable=True, **options))


@pytest.mark.parametrize("name", ["sample_euler", "sample_heun", "sample_dpm_2"])
def test_churn(sampling: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Their churn draws randn_like at every step; here the kernel's own draws are put in its place."""
    options = {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
    rng, steps = resolve(7, len(X)), iter(range(100))
    monkeypatch.setattr(torch, "randn_like", lambda x: normal(x.shape, rng, next(steps), 0, dtype=x.dtype))
    theirs = getattr(sampling, name)(denoise, X, sigmas(), disable=True, **options)
    close(getattr(K, name)(denoise, X, sigmas(), disable=True, seeds=7, **options), theirs)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 12, 20])
@pytest.mark.parametrize("options", [{}, {"eta": 0.6, "s_noise": 1.1}, {"eta": 1.0}], ids=["0", "0.6", "1"])
def test_dpm_fast(sampling: Any, double: None, n: int, options: Any) -> None:
    arguments = (denoise, X, 0.02, 80.0, n)
    options = {**options, "noise_sampler": NOISE, "disable": True}
    close(K.sample_dpm_fast(*arguments, **options), sampling.sample_dpm_fast(*arguments, **options))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    "pid", [{}, {"rtol": 1e-3, "pcoeff": 0.2, "icoeff": 0.4, "dcoeff": 0.1}], ids=["i", "pid"]
)
def test_dpm_adaptive(sampling: Any, double: None, order: int, pid: Any) -> None:
    """Ours rounds the error to float32, which moves steps by 1e-7 and a result by that much of its error."""
    options = {"order": order, "disable": True, "return_info": True, **pid}
    expected, info = sampling.sample_dpm_adaptive(denoise, X, 0.02, 80.0, **options)
    x, ours = K.sample_dpm_adaptive(denoise, X, 0.02, 80.0, **options)
    assert ours == info
    close(x, expected)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    "eta, pid", [(1.0, {}), (0.4, {"rtol": 1e-2, "pcoeff": 0.2, "icoeff": 0.4, "dcoeff": 0.1})]
)
def test_dpm_adaptive_with_eta(sampling: Any, double: None, order: int, eta: float, pid: Any) -> None:
    """Accepted and rejected attempts alike; their noise is asked for by the same sigmas. Where both orders
    agree to 1e-6 of what is allowed, their difference has 8 digits, and so has the next step."""
    options = {"order": order, "disable": True, "return_info": True, "eta": eta, "s_noise": 1.1, **pid}
    seen: list[list[tuple[float, float]]] = [[], []]

    def sampler(k: int) -> Any:
        generator = torch.Generator().manual_seed(5)

        def noise(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            seen[k].append((float(s), float(t)))
            return torch.randn(X.shape, generator=generator, dtype=X.dtype)

        return noise

    expected, info = sampling.sample_dpm_adaptive(denoise, X, 0.02, 80.0, noise_sampler=sampler(0), **options)
    x, ours = K.sample_dpm_adaptive(denoise, X, 0.02, 80.0, noise_sampler=sampler(1), **options)
    assert ours == info and info["n_reject"] > 0
    np.testing.assert_allclose(seen[0], seen[1], rtol=1e-8)
    close(x, expected)


def test_none_is_missing(sampling: Any) -> None:
    """Every public sample_* and get_sigmas_*; their parameters in their order, with their defaults."""
    wanted = [n for n in vars(sampling) if n.startswith(("sample_", "get_sigmas_"))]
    assert len(wanted) >= 17
    tested = {name for name, _ in CASES} | {"sample_dpm_fast", "sample_dpm_adaptive"}
    assert {n for n in wanted if n.startswith("sample_")} == tested
    for name in wanted:
        ours = list(inspect.signature(getattr(K, name)).parameters.values())
        theirs = list(inspect.signature(getattr(sampling, name)).parameters.values())
        pairs = [(p.name, p.default) for p in ours[: len(theirs)]]
        assert pairs == [(p.name, p.default) for p in theirs], name
        assert all(p.kind == p.KEYWORD_ONLY for p in ours[len(theirs) :]), name


GRIDS: list[tuple[str, tuple[Any, ...], dict[str, float]]] = [
    ("get_sigmas_karras", (0.0291675, 14.614642), {}),
    ("get_sigmas_karras", (0.002, 80.0), {"rho": 5.0}),
    ("get_sigmas_exponential", (0.0291675, 14.614642), {}),
    ("get_sigmas_polyexponential", (0.0291675, 14.614642), {"rho": 1.3}),
    ("get_sigmas_vp", (), {}),
    ("get_sigmas_vp", (), {"beta_d": 10.0, "beta_min": 0.2, "eps_s": 1e-2}),
]


@pytest.mark.parametrize("n", [1, 2, 20])
@pytest.mark.parametrize("name, ends, options", GRIDS)
def test_sigmas(sampling: Any, double: None, name: str, ends: Any, options: Any, n: int) -> None:
    """In float64 to its rounding; theirs of get_sigmas_vp subtracts 1 from e^x near 1, which costs digits:
    1e-16 over sigma^2 = 1.1e-4."""
    ours, theirs = (getattr(m, name)(n, *ends, **options) for m in (K, sampling))
    assert ours.shape == theirs.shape and ours[-1] == 0
    assert torch.allclose(ours, theirs, rtol=1e-11, atol=0)


@pytest.mark.parametrize("name, ends, options", GRIDS)
def test_sigmas_in_single_precision(sampling: Any, name: str, ends: Any, options: Any) -> None:
    """Theirs are computed in float32: its 1.2e-7 grows by rho or by log(sigma), and by e^x - 1 near 0."""
    ours, theirs = (getattr(m, name)(20, *ends, **options) for m in (K, sampling))
    assert ours.dtype == theirs.dtype == torch.float32
    assert torch.allclose(ours, theirs, rtol=1e-3 if "vp" in name else 1e-5, atol=0)


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_callback(sampling: Any, name: str) -> None:
    """The same facts in the same order: at the start of each step, on the state that the network saw."""

    def seen(module: Any) -> list[dict[str, Any]]:
        facts: list[dict[str, Any]] = []
        options = (
            {"noise_sampler": NOISE}
            if "noise_sampler" in inspect.signature(getattr(module, name)).parameters
            else {}
        )
        getattr(module, name)(denoise, X, sigmas(7), callback=facts.append, disable=True, **options)
        return facts

    ours, theirs = seen(K), seen(sampling)
    assert len(ours) == len(theirs) == 7
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys() and a["i"] == b["i"] and a["sigma"] == b["sigma"]
        for key in ("x", "denoised", "sigma_hat"):
            close(torch.as_tensor(a[key]), torch.as_tensor(b[key]))


@pytest.mark.parametrize("n", [6, 7])
def test_callback_of_dpm_fast(sampling: Any, double: None, n: int) -> None:
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    K.sample_dpm_fast(denoise, X, 0.02, 80.0, n, callback=ours.append, disable=True)
    sampling.sample_dpm_fast(denoise, X, 0.02, 80.0, n, callback=theirs.append, disable=True)
    assert [a["i"] for a in ours] == [b["i"] for b in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in ("x", "denoised", "sigma", "sigma_hat", "t", "t_up"):
            close(a[key], b[key])
