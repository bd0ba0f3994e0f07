"""Kernels as torch operators: torch.ops.fastdiff.*, and the same with docstrings and a choice of backend."""

from ._backends import empty_cache
from ._backends import usable as backends
from .brownian import brownian
from .dots import dots, dots_
from .error_norm import error_norm
from .gaussian_kl import gaussian_kl
from .linear_step import linear_step, linear_step_
from .noise import noise
from .normal import normal, uniform
from .perturb import perturb
from .regression_loss import regression_loss

__all__ = [
    "backends",
    "brownian",
    "dots",
    "dots_",
    "empty_cache",
    "error_norm",
    "gaussian_kl",
    "linear_step",
    "linear_step_",
    "noise",
    "normal",
    "perturb",
    "regression_loss",
    "uniform",
]
