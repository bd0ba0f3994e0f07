"""One file of k-diffusion, run live, without the rest of the package: its `__init__` imports training code
and much that is not needed here."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ALONE = "k_diffusion_alone"  # beside a k_diffusion that somebody imports whole
NEEDED = ("k_diffusion", "scipy", "tqdm")
OPTIONAL = ("torchdiffeq", "torchsde")  # for the log-likelihood and the Brownian tree; hollow where missing


@functools.cache
def kdiffusion(name: str = "sampling") -> Any:
    """The module k_diffusion/`name`.py, or None where k-diffusion or what that file imports is missing."""
    if not all(importlib.util.find_spec(n) for n in NEEDED):
        return None
    found = importlib.util.find_spec("k_diffusion")
    if found is None or not found.submodule_search_locations:
        return None
    package, utils = ModuleType(ALONE), ModuleType(f"{ALONE}.utils")
    utils.__dict__["append_dims"] = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    hollow = {ALONE: package, f"{ALONE}.utils": utils}
    if name != "sampling":
        hollow[f"{ALONE}.sampling"] = ModuleType(f"{ALONE}.sampling")
    for full, module in hollow.items():
        package.__dict__[full.removeprefix(f"{ALONE}.")] = module
    for n in OPTIONAL:
        if importlib.util.find_spec(n) is None:
            hollow[n] = ModuleType(n)
            hollow[n].__dict__["odeint"] = None
    before = {n: sys.modules.get(n) for n in hollow}
    sys.modules.update(hollow)
    try:
        path = Path(next(iter(found.submodule_search_locations))) / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"{ALONE}.{name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        for n, was in before.items():
            sys.modules.pop(n)
            if was is not None:
                sys.modules[n] = was
