"""Other people's code: a peer that is not installed is None, and its cases say that they were skipped."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

from fastdiff.testing.kdiffusion import kdiffusion as loaded


def module(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name) is not None else None


@functools.lru_cache
def schedulers() -> Any:
    return module("diffusers.schedulers") if importlib.util.find_spec("diffusers") is not None else None


@functools.lru_cache
def torchsde() -> Any:
    return module("torchsde")


def kdiffusion() -> Any:
    """Its sampling module; without torchsde it has no noise of its own."""
    return loaded() if torchsde() is not None else None
