"""Other people's code: a peer that is not installed is None, and its cases say that they were skipped."""

from __future__ import annotations

import functools
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


def module(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name) is not None else None


@functools.lru_cache
def schedulers() -> Any:
    return module("diffusers.schedulers") if importlib.util.find_spec("diffusers") is not None else None


@functools.lru_cache
def torchsde() -> Any:
    return module("torchsde")


@functools.lru_cache
def torchdiffeq() -> Any:
    return module("torchdiffeq")


@functools.lru_cache
def kdiffusion() -> Any:
    """k_diffusion/sampling.py without the rest of the package, whose imports are heavy."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or not spec.submodule_search_locations or torchsde() is None:
        return None
    stubs = {n: types.ModuleType(n) for n in ("torchdiffeq", "k_diffusion", "k_diffusion.utils")}
    stubs["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    stubs["k_diffusion.utils"].append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]  # type: ignore[attr-defined]
    stubs["k_diffusion"].utils = stubs["k_diffusion.utils"]  # type: ignore[attr-defined]
    before = {n: sys.modules.get(n) for n in stubs}
    sys.modules.update(stubs)
    try:
        path = Path(next(iter(spec.submodule_search_locations))) / "sampling.py"
        own = importlib.util.spec_from_file_location("k_diffusion.sampling", path)
        assert own is not None and own.loader is not None
        found = importlib.util.module_from_spec(own)
        own.loader.exec_module(found)
        return found
    finally:
        for n, m in before.items():
            sys.modules.pop(n)
            if m is not None:
                sys.modules[n] = m
