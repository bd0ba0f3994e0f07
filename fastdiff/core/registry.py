"""One registry per family: a class is registered by standing in its folder and having a `key`."""
from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Generic, TypeVar

from .errors import check_options, unknown

T = TypeVar("T")
Preset = dict[str, Any] | Callable[[], dict[str, Any]]  # a callable's files are imported when it is asked for


def _kinds(cls: type) -> tuple[str, ...]:
    """What a solver serves, or a process is."""
    return getattr(cls, "kinds", None) or (getattr(cls, "kind", ""),)


class Registry(Generic[T]):
    """Keys of one family -> classes.

    The folder is imported at the first question, so that `import fastdiff` costs nothing for files nobody
    asked for.
    """

    def __init__(
        self, what: str, package: str, aliases: Mapping[str, str | tuple[str, Preset]] | None = None
    ):
        self.what, self.package, self.aliases = what, package, dict(aliases or {})
        self.classes: dict[str, type[T]] = {}
        self._complete = False

    def add(self, cls: type[T]) -> None:
        """Called by the family's base class for each subclass that names a `key`."""
        key = cls.__dict__.get("key")
        if not key:
            return
        known = self.classes.get(key)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{self.what} {key!r} is defined by {known.__module__} and by {cls.__module__}")
        self.classes[key] = cls

    def _load(self) -> None:
        if not self._complete:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self.package}.{module.name}")
            self._complete = True

    def names(self, kind: str | None = None) -> list[str]:
        """All keys, sorted; aliases are left out. kind: of the processes they are or serve, "gaussian" or
        "linear"."""
        self._load()
        return sorted(k for k, cls in self.classes.items() if kind is None or kind in _kinds(cls))

    def get(self, key: str) -> type[T]:
        return self._resolve(key)[0]

    def _resolve(self, key: str) -> tuple[type[T], dict[str, Any]]:
        if not isinstance(key, str):
            raise TypeError(f"{self.what} must be a key (a string), got {type(key).__name__}")
        self._load()
        name, preset = key, dict[str, Any]()
        if key in self.aliases:
            alias = self.aliases[key]
            name, preset = (alias, {}) if isinstance(alias, str) else alias
            preset = preset() if callable(preset) else preset
        if name not in self.classes:
            raise unknown(self.what, key, [*self.classes, *self.aliases])
        return self.classes[name], preset

    def make(self, key: str, **options: Any) -> T:
        """The class of `key` with its options, each checked against the class's own fields."""
        cls, preset = self._resolve(key)
        check_options(f"{self.what} {key!r}", options, (f.name for f in fields(cls) if f.init))  # type: ignore[arg-type]
        return cls(**{**preset, **options})
