"""Kernels as torch operators: torch.ops.fastdiff.*, and the same with docstrings and a choice of backend."""

from ._backends import usable as backends
from .brownian import brownian
from .error_norm import error_norm
from .linear_step import linear_step, linear_step_
from .noise import noise
from .normal import normal, uniform
from .perturb import perturb

__all__ = [
    "backends",
    "brownian",
    "error_norm",
    "linear_step",
    "linear_step_",
    "noise",
    "normal",
    "perturb",
    "uniform",
]
