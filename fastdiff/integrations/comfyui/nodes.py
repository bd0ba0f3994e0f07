"""fastdiff's samplers in ComfyUI: under names of their own in every list of samplers, and as a node.

Registered are functions `sample_fastdiff_NAME` beside ComfyUI's own, called as ComfyUI calls those:
sampler_function(model, x, sigmas, extra_args=, callback=, disable=, **options).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import Tensor

from ..kdiffusion.dpm import sample_dpm_adaptive, sample_dpm_fast
from ..kdiffusion.samplers import SAMPLERS, sample_lms

PREFIX = "fastdiff_"
RENAMED = {"unipc": "uni_pc", "unipc_bh2": "uni_pc_bh2"}


def lms(model: Any, x: Tensor, sigmas: Tensor, *args: Any, **options: Any) -> Tensor:
    """ComfyUI's ends in the data prediction, whichever numbers are asked for."""
    return sample_lms(model, x, sigmas, *args, **{**options, "legacy": False})


def dpm_fast(model: Any, x: Tensor, sigmas: Tensor, *args: Any, **options: Any) -> Tensor:
    """As many network calls as there are steps."""
    if len(sigmas) < 2:
        return x
    return sample_dpm_fast(model, x, *_ends(sigmas), len(sigmas) - 1, *args, **options)


def dpm_adaptive(model: Any, x: Tensor, sigmas: Tensor, *args: Any, **options: Any) -> Tensor:
    if len(sigmas) < 2:
        return x
    return sample_dpm_adaptive(model, x, *_ends(sigmas), *args, **options)


def _ends(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    return (sigmas[-2] if sigmas[-1] == 0 else sigmas[-1]), sigmas[0]


def functions() -> dict[str, Callable[..., Tensor]]:
    """ComfyUI's name for a sampler -> ours."""
    found = {RENAMED.get(name, name): f for name, f in SAMPLERS.items() if "_RF" not in name}
    return {
        **found,
        "ddim": SAMPLERS["euler"],
        "lms": lms,
        "dpm_fast": dpm_fast,
        "dpm_adaptive": dpm_adaptive,
    }


def register() -> list[str]:
    """Put them into ComfyUI's module of samplers and its lists of names; the names."""
    samplers: Any = importlib.import_module("comfy.samplers")
    sampling: Any = importlib.import_module("comfy.k_diffusion.sampling")
    names = []
    for name, f in functions().items():
        setattr(sampling, f"sample_{PREFIX}{name}", f)
        names.append(PREFIX + name)
    for held, what in (
        (samplers, "KSAMPLER_NAMES"),
        (samplers, "SAMPLER_NAMES"),
        (samplers.KSampler, "SAMPLERS"),
    ):
        known = getattr(held, what, None)
        if isinstance(known, list):
            known.extend(n for n in names if n not in known)
    return names


class FastdiffSampler:
    """A SAMPLER for ComfyUI's custom sampling nodes. eta and s_noise go to samplers that have them."""

    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get_sampler"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01, "round": False}
        return {
            "required": {
                "sampler_name": (sorted(functions()),),
                "legacy": ("BOOLEAN", {"default": True}),
                "eta": ("FLOAT", number),
                "s_noise": ("FLOAT", number),
            }
        }

    def get_sampler(self, sampler_name: str, legacy: bool, eta: float, s_noise: float) -> tuple[Any]:
        known = functions()
        if sampler_name not in known:
            raise ValueError(f"sampler_name={sampler_name!r} is not one of {', '.join(sorted(known))}")
        f = known[sampler_name]
        given = {"eta": eta, "s_noise": s_noise}
        options = {name: v for name, v in given.items() if name in signature(f).parameters}
        samplers: Any = importlib.import_module("comfy.samplers")
        return (samplers.KSAMPLER(f, {"legacy": legacy, **options}, {"random": sampler_name == "ddim"}),)


NODE_CLASS_MAPPINGS = {"FastdiffSampler": FastdiffSampler}
NODE_DISPLAY_NAME_MAPPINGS = {"FastdiffSampler": "fastdiff sampler"}
