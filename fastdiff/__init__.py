"""fastdiff: everything around the network in diffusion, flow and SDE models, as fused kernels for PyTorch."""
import torch as _torch  # noqa: F401 - first: the compiled module shares torch's OpenMP runtime

from . import distill, edit, grids, guidance, losses, noise, ops, processes, rl, solvers, tune
from ._version import __version__
from .core.errors import NonFinite
from .core.hook import Hook
from .core.plan import Plan, plan
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

__all__ = [
    "AdaptiveSampler", "Denoiser", "Hook", "LogProb", "NonFinite", "Pair", "Plan", "Sampler", "Seeds",
    "State", "Trajectory", "__version__", "distill", "edit", "gather", "gradients", "grid", "grids",
    "guidance", "invert", "log_prob_path", "losses", "noise", "ops", "plan", "processes", "rl", "sample",
    "solvers", "tune",
]
