"""Grids: sampling times as pure formulas. One file, one grid; registered by being here."""
from ..core.errors import unknown
from ..core.grid import grids as registry

names = registry.names


def _classes() -> dict[str, type]:
    return {registry.get(key).__name__: registry.get(key) for key in registry.names()}


def __getattr__(name: str) -> type:
    """`fd.grids.Karras`: found by class name, imported when asked for."""
    if not name.startswith("_") and name in (classes := _classes()):
        return classes[name]
    known = [] if name.startswith("_") else classes
    raise AttributeError(f"fastdiff.grids: {unknown('grid', name, known)}")


def __dir__() -> list[str]:
    return sorted([*_classes(), "names", "registry"])
