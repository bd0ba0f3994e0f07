"""Which machinery a gradient mode is run by."""

from __future__ import annotations

from typing import Any

from .continuous import adjoint_run
from .gradients import Checkpoint, Mode, Reversible
from .replay import Tape, checkpointed
from .reverse import reversed_run
from .run import Run


def run_recorded(mode: Mode, tape: Tape, **look: Any) -> Run:
    if isinstance(mode, Checkpoint):
        return checkpointed(mode.schedule, tape, **look)
    if isinstance(mode, Reversible):
        return reversed_run(tape, mode.warn, **look)
    return adjoint_run(mode, tape, **look)
