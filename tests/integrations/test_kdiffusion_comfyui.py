"""The ComfyUI nodes: what they register, in a stand-in for comfy that keeps ComfyUI's interface."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fastdiff.integrations import kdiffusion as K

NAMES = "euler heun lms dpm_fast dpm_adaptive dpmpp_2m dpmpp_2m_sde dpmpp_2m_sde_gpu ddpm lcm er_sde".split()
SIGMAS = K.get_sigmas_karras(5, 0.1, 10.0)
X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)) * 10


class KSAMPLER:
    """As ComfyUI calls a sampler function, its scaling of noise left out."""

    def __init__(self, function: Any, extra_options: Any, inpaint_options: Any):
        self.function, self.extra_options, self.inpaint_options = function, extra_options, inpaint_options

    def sample(self, model: Any, sigmas: Any, extra_args: Any, callback: Any, noise: Any) -> Any:
        total = len(sigmas) - 1
        see = None if callback is None else lambda f: callback(f["i"], f["denoised"], f["x"], total)
        return self.function(
            model, noise, sigmas, extra_args=extra_args, callback=see, disable=True, **self.extra_options
        )


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    parts = {
        n: types.ModuleType(n)
        for n in ("comfy", "comfy.samplers", "comfy.k_diffusion", "comfy.k_diffusion.sampling")
    }
    for n, m in parts.items():
        monkeypatch.setitem(sys.modules, n, m)
    samplers = parts["comfy.samplers"]
    samplers.KSAMPLER_NAMES = list(NAMES)  # type: ignore[attr-defined]
    samplers.SAMPLER_NAMES = [*NAMES, "ddim", "uni_pc", "uni_pc_bh2"]  # type: ignore[attr-defined]
    samplers.KSampler = type("KSampler", (), {"SAMPLERS": samplers.SAMPLER_NAMES})  # type: ignore[attr-defined]
    samplers.KSAMPLER = KSAMPLER  # type: ignore[attr-defined]
    yield types.SimpleNamespace(samplers=samplers, sampling=parts["comfy.k_diffusion.sampling"])


def net(x: torch.Tensor, sigma: torch.Tensor, **extra: Any) -> torch.Tensor:
    return x / (1 + sigma.reshape(-1, 1, 1) ** 2)


def test_import_without_comfyui() -> None:
    code = (
        'import sys, fastdiff.integrations.comfyui as c;print(*c.NODE_CLASS_MAPPINGS, "comfy" in sys.modules)'
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["FastdiffSampler", "False"]


def test_registers_all(comfy: Any) -> None:
    """Each sampler of ComfyUI's list under a name of ours, once, however often it is done; theirs stay."""
    module = importlib.import_module("fastdiff.integrations.comfyui")
    names = module.register()
    module.register()
    lists = comfy.samplers.KSAMPLER_NAMES, comfy.samplers.SAMPLER_NAMES, comfy.samplers.KSampler.SAMPLERS
    for known in lists:
        assert known[: len(NAMES)] == NAMES and len(known) == len(set(known)) and set(names) <= set(known)
    assert {f"fastdiff_{n}" for n in [*NAMES, "ddim", "uni_pc", "uni_pc_bh2", "sa_solver"]} <= set(names)
    for name in names:
        assert callable(getattr(comfy.sampling, f"sample_{name}"))
    assert comfy.sampling.sample_fastdiff_dpmpp_2m is K.sample_dpmpp_2m


@pytest.mark.parametrize("name", [*NAMES, "ddim", "uni_pc", "seeds_2"])
def test_runs_as_comfyui_runs_it(comfy: Any, name: str) -> None:
    importlib.import_module("fastdiff.integrations.comfyui").register()
    f = getattr(comfy.sampling, f"sample_fastdiff_{name}")
    seen: list[int] = []
    extra = {"model_options": {}, "seed": 3, "denoise_mask": None}
    x = KSAMPLER(f, {}, {}).sample(net, SIGMAS, extra, lambda i, denoised, x, total: seen.append(i), X)
    assert x.shape == X.shape and bool(x.isfinite().all()) and seen == sorted(set(seen)) and seen[0] == 0
    assert f(net, X, SIGMAS[:1], extra_args=extra) is X


def test_dpm_by_a_list_of_sigmas(comfy: Any) -> None:
    nodes = importlib.import_module("fastdiff.integrations.comfyui.nodes")
    ends = SIGMAS[-2], SIGMAS[0]
    got = nodes.dpm_fast(net, X, SIGMAS, disable=True)
    assert torch.equal(got, K.sample_dpm_fast(net, X, *ends, 5, disable=True))
    got = nodes.dpm_adaptive(net, X, SIGMAS, disable=True, order=2)
    assert torch.equal(got, K.sample_dpm_adaptive(net, X, *ends, disable=True, order=2))
    got = nodes.lms(net, X, SIGMAS, disable=True, order=3, legacy=True)
    assert torch.equal(got, K.sample_lms(net, X, SIGMAS, disable=True, order=3, legacy=False))


def test_node(comfy: Any) -> None:
    nodes = importlib.import_module("fastdiff.integrations.comfyui.nodes")
    node = nodes.NODE_CLASS_MAPPINGS["FastdiffSampler"]
    kinds = node.INPUT_TYPES()["required"]
    assert set(NAMES) <= set(kinds["sampler_name"][0]) and node.RETURN_TYPES == ("SAMPLER",)
    (made,) = getattr(node(), node.FUNCTION)("dpmpp_2m_sde", False, 0.5, 1.1)
    assert made.extra_options == {"legacy": False, "eta": 0.5, "s_noise": 1.1}
    got = made.sample(net, SIGMAS, {"seed": 3}, None, X)
    assert torch.equal(
        got, K.sample_dpmpp_2m_sde(net, X, SIGMAS, eta=0.5, s_noise=1.1, seeds=3, legacy=False)
    )
    (made,) = getattr(node(), node.FUNCTION)("dpmpp_2m", True, 0.5, 1.1)
    assert made.extra_options == {"legacy": True}
    with pytest.raises(ValueError, match="dpmpp_9m"):
        node().get_sampler("dpmpp_9m", True, 1.0, 1.0)
