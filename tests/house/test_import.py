"""`import fastdiff` costs under 0.5 s beyond torch's own; in its own process, the best of three."""
from __future__ import annotations

import subprocess
import sys

BUDGET = 0.5
HEAVY = ("triton", "scipy", "sklearn", "matplotlib", "tqdm", "rich", "sympy", "mpmath")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


def seconds_beyond_torch() -> float:
    err = python("-X", "importtime", "-c", "import torch, fastdiff").stderr
    for line in err.splitlines():  # import time: self us | cumulative us | name, indented by its depth
        cells = line.split("|")
        if len(cells) == 3 and cells[2].rstrip() == " fastdiff":
            return int(cells[1]) / 1e6
    raise AssertionError(err[-2000:])


def test_import_is_quick() -> None:
    best = min(seconds_beyond_torch() for _ in range(3))
    assert best < BUDGET, f"{best:.2f} s; see python -X importtime -c 'import torch, fastdiff'"


def test_import_leaves_heavy_things_alone() -> None:
    code = "import sys, torch; had = set(sys.modules); import fastdiff; print(*(set(sys.modules) - had))"
    got = {name.split(".")[0] for name in python("-c", code).stdout.split()}
    assert not got & set(HEAVY), f"import fastdiff also imports {', '.join(got & set(HEAVY))}"
