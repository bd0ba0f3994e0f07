"""Processes: formulas of alpha(t), sigma(t) and their inverses. One file, one process; registered by being
here."""
from typing import Any

from ..core.errors import unknown
from ..core.process import processes as registry

IRSDE = {"s_inf": 50 / 255, "steps": 100}
registry.aliases.update({"vp-discrete": "discrete-vp"})
registry.aliases.update(dict.fromkeys(["flow", "rectified-flow", "cond-ot"], "flow-matching"))
registry.aliases.update({"ddbm": "diffusion-bridge", "irsde": ("mean-reverting", IRSDE)})
registry.aliases.update({"sb-ve": ("diffusion-bridge", lambda: {"base": _bridge().sb_ve().base})})
names = registry.names


def _bridge() -> Any:
    from .diffusion_bridge import DiffusionBridge

    return DiffusionBridge


def _classes() -> dict[str, type]:
    return {registry.get(key).__name__: registry.get(key) for key in registry.names()}


def __getattr__(name: str) -> type:
    """`fd.processes.VP`: found by class name, imported when asked for."""
    if not name.startswith("_") and name in (classes := _classes()):
        return classes[name]
    known = [] if name.startswith("_") else classes
    raise AttributeError(f"fastdiff.processes: {unknown('process', name, known)}")


def __dir__() -> list[str]:
    return sorted([*_classes(), "names", "registry"])
