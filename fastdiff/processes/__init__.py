"""Processes: formulas of alpha(t), sigma(t) and their inverses. One file, one process; registered by being
here."""
from ..core.errors import unknown
from ..core.process import processes as registry

registry.aliases.update({"vp-discrete": "discrete-vp"})
registry.aliases.update(dict.fromkeys(["flow", "rectified-flow", "cond-ot"], "flow-matching"))
names = registry.names


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
