"""`import fastdiff` costs under 0.5 s beyond torch's own, in its own process; and imports nothing heavy."""
from __future__ import annotations

import subprocess
import sys

BUDGET = 0.5
HEAVY = ("triton", "scipy", "sklearn", "matplotlib", "tqdm", "rich", "sympy", "mpmath")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


def seconds_beyond_torch() -> float:
    """Of the processor: the clock on the wall counts whoever else wants the core."""
    clock = "time.process_time()"
    code = f"import time, torch; start = {clock}; import fastdiff; print({clock} - start)"
    return float(python("-c", code).stdout)


def test_import_is_quick() -> None:
    best = min(seconds_beyond_torch() for _ in range(3))
    assert best < BUDGET, f"{best:.2f} s; see python -X importtime -c 'import torch, fastdiff'"


def test_import_leaves_heavy_things_alone() -> None:
    code = "import sys, torch; had = set(sys.modules); import fastdiff; print(*(set(sys.modules) - had))"
    got = {name.split(".")[0] for name in python("-c", code).stdout.split()}
    assert not got & set(HEAVY), f"import fastdiff also imports {', '.join(got & set(HEAVY))}"
