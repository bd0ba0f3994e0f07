"""fastdiff: everything around the network in diffusion, flow and SDE models, as fused kernels for PyTorch."""
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

import torch as _torch  # noqa: F401 - first: the compiled module shares torch's OpenMP runtime

from . import grids, guidance, noise, ops, processes, solvers
from ._version import __version__
from .core.errors import NonFinite
from .core.hook import Hook
from .core.plan import Plan, plan
from .integrations import from_diffusers
from .noise import Seeds
from .runtime import gradients
from .runtime import perturb as _perturb  # noqa: F401 - fills Process.perturb
from .runtime.adaptive import AdaptiveSampler
from .runtime.denoiser import Denoiser
from .runtime.distributed import gather
from .runtime.invert import Pair, invert
from .runtime.log_prob import LogProb, log_prob_path
from .runtime.sample import grid, sample
from .runtime.sampler import Sampler
from .runtime.state import State, Trajectory

if _TYPE_CHECKING:
    from . import distill, edit, likelihood, losses, rl, tune

__all__ = [
    "AdaptiveSampler", "Denoiser", "Hook", "LogProb", "NonFinite", "Pair", "Plan", "Sampler", "Seeds",
    "State", "Trajectory", "__version__", "distill", "edit", "from_diffusers", "gather", "gradients", "grid",
    "grids", "guidance", "invert", "likelihood", "log_prob_path", "losses", "noise", "ops", "plan",
    "processes", "rl", "sample", "solvers", "tune",
]

_FAMILIES = ("distill", "edit", "likelihood", "losses", "rl", "tune")  # imported when first named


def __getattr__(name: str) -> _Any:
    if name in _FAMILIES:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
