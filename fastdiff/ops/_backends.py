"""Which backends this machine has, and which of them an op runs on.

    reference   plain torch, any device: the definition
    cpu         fastdiff._C, CPU tensors
    cuda        fastdiff._cuda, CUDA tensors, when the package was built with a CUDA compiler
    triton      CUDA tensors, when triton is installed; by name also CPU tensors under TRITON_INTERPRET=1

All give the same bits. None means the first of cpu, cuda, triton, reference that serves the tensors' device;
a backend asked for by name runs or raises. Each has the same kernels (`linear_step_`, `fill_`, `brownian_`,
`error_norm_`, `dots_`, `regression_loss_`, `gaussian_kl_`), called alike.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from . import _reference, _reference_sums

NAMES = ("cpu", "cuda", "triton", "reference")
WARM = 128 << 10  # bytes from which a result lies on memory of our own
_CODES = {
    torch.float32: (2, 32),
    torch.float64: (2, 64),
    torch.float16: (2, 16),
    torch.bfloat16: (4, 16),
}  # in DLPack

try:
    from .. import _C  # type: ignore[attr-defined]
except ImportError as e:
    raise ImportError(
        "fastdiff: the compiled module fastdiff._C is missing or does not load: this is a source folder, not "
        "an installed package. Run `pip install .` and start Python elsewhere, or `pip install -e .`"
    ) from e
try:
    from .. import _cuda  # type: ignore[attr-defined]
except ImportError:  # built without a CUDA compiler
    _cuda = None


def _admit(module: ModuleType) -> None:
    """Refuse a module that another version of these files built; give it torch's DLPack exchange table."""
    if module.__version__ != __version__:
        raise ImportError(
            f"{module.__name__} was built for fastdiff {module.__version__}, the Python files are "
            f"{__version__}: reinstall"
        )
    module.bind(torch.Tensor)


for _module in (_C, _cuda):
    if _module is not None:
        _admit(_module)


_COMPILED = ("linear_step_", "fill_", "brownian_", "dots_", "regression_loss_", "gaussian_kl_")
_CPU = {name: getattr(_C, name) for name in _COMPILED}


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def missing(backend: str, device: str) -> str | None:
    """Why `backend` cannot run on tensors of a device type; None when it can."""
    if backend == "reference":
        return None
    if backend == "cpu":
        return None if device == "cpu" else f"it takes CPU tensors, these are on {device}"
    if backend == "cuda":
        if _cuda is None:
            return "fastdiff was built without a CUDA compiler"
        return None if device == "cuda" else f"it takes CUDA tensors, these are on {device}"
    if not _triton_installed():
        return "triton is not installed"
    if device == "cuda" or device == "cpu" and _interpreted():
        return None
    return f"it takes CUDA tensors (or CPU tensors under TRITON_INTERPRET=1), these are on {device}"


@cache
def automatic(device: str) -> str:
    """The backend that None stands for."""
    wanted = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(device, ())
    return next((b for b in wanted if missing(b, device) is None), "reference")


def choose(call: str, backend: str | None, device: str) -> str:
    """The backend to run on, or a ValueError that says why the one asked for cannot."""
    if backend is None:
        return automatic(device)
    if backend not in NAMES:
        raise ValueError(f"{call}: backend={backend!r} is unknown; it is one of {', '.join(NAMES)} or None")
    why = missing(backend, device)
    if why:
        raise ValueError(f"{call}: backend={backend!r} is not available: {why}")
    return backend


def must_be_automatic(call: str, backend: str | None, t: torch.Tensor) -> None:
    """Inside the dispatcher there is one kernel for a device."""
    if backend is None:
        return
    device = t.device.type
    if choose(call, backend, device) != automatic(device):
        raise ValueError(
            f"{call}: backend={backend!r} cannot be chosen under torch.compile, torch.func or a mode, or "
            f"with a tensor subclass: {automatic(device)!r} serves these"
        )


def compiled(backend: str | None, t: torch.Tensor, name: str) -> Callable[..., Any] | None:
    """The compiled kernel for tensors on t's device; None when the call wants or needs another backend."""
    if backend is None or backend == "cpu":
        if t.is_cpu:
            return _CPU[name]
    if _cuda is not None and t.is_cuda and (backend is None or backend == "cuda"):
        return getattr(_cuda, name)
    return None


def fresh(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous tensor for a result, not written to; a large one on memory whose pages are there."""
    if device.type == "cpu" and dtype in _CODES and prod(shape) * dtype.itemsize >= WARM:
        return _C.fresh(shape, *_CODES[dtype])
    return empty(shape, dtype, device)


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`fresh` for the tensors of a trace."""
    return torch.empty(shape, dtype=dtype, device=device)


def empty_cache() -> int:
    """Give the memory that dropped CPU results left, 256 MiB at most, back to the system; how many bytes.

    Results of 128 KiB and more lie on memory that is kept for the next one of their size: a fresh page costs
    more than what a step writes into it. What is larger than 256 MiB is not kept.
    """
    return _C.release()


def usable(device: str) -> list[str]:
    """The backends that run on tensors of this device type, in the order of preference."""
    return [b for b in NAMES if missing(b, device) is None]


@cache
def kernel(backend: str, name: str) -> Callable[..., Any]:
    """The kernel `name` of a backend."""
    if backend == "triton":
        return getattr(importlib.import_module("fastdiff.ops.triton"), name)
    if backend == "reference":
        return getattr(_reference if hasattr(_reference, name) else _reference_sums, name)
    return getattr({"cpu": _C, "cuda": _cuda}[backend], name)
