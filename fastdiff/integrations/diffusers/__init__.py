"""fastdiff in diffusers: a scheduler that any pipeline takes, and diffusers networks in `fd.sample`.

    from fastdiff.integrations.diffusers import FastScheduler
    pipe.scheduler = FastScheduler.from_config(pipe.scheduler.config)

The page docs/diffusers.md has the table of configurations and solvers.
"""

from __future__ import annotations

try:
    import diffusers as _diffusers  # noqa: F401
except ImportError as e:
    raise ImportError(
        "fastdiff.integrations.diffusers needs diffusers, which cannot be imported here "
        f"({e}): pip install 'fastdiff[diffusers]'"
    ) from e

from .network import from_diffusers
from .scheduler import FastScheduler, FastSchedulerOutput

__all__ = ["FastScheduler", "FastSchedulerOutput", "from_diffusers"]
