"""fastdiff inside other libraries. Each module imports its library when it is imported, none before."""

from __future__ import annotations

from typing import Any

__all__ = ["from_diffusers"]


def from_diffusers(model: Any, scheduler_config: Any, **options: Any) -> Any:
    """A diffusers network as a `fd.Denoiser`; see `fastdiff.integrations.diffusers.from_diffusers`."""
    from .diffusers import from_diffusers as make

    return make(model, scheduler_config, **options)
