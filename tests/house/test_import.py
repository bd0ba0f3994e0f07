"""`import fastdiff` costs under 0.5 s beyond torch's own; in its own process, the best of three."""
from __future__ import annotations

import subprocess
import sys

BUDGET = 0.5


def seconds_beyond_torch() -> float:
    code = "import torch, fastdiff"
    out = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    for line in out.stderr.splitlines():  # "import time: self | cumulative | name", microseconds; top level: one space before the name
        cells = line.removeprefix("import time:").split("|")
        if len(cells) == 3 and cells[2].rstrip() == " fastdiff":
            return int(cells[1]) / 1e6
    raise AssertionError(out.stderr[-2000:])


def test_import_is_quick() -> None:
    best = min(seconds_beyond_torch() for _ in range(3))
    assert best < BUDGET, f"import fastdiff took {best:.2f} s beyond torch; python -X importtime -c 'import torch, fastdiff' says where"


def test_import_leaves_heavy_things_alone() -> None:
    code = ("import sys, torch; before = set(sys.modules); import fastdiff; "
            "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before} & {'triton', 'scipy', 'sklearn', 'matplotlib', 'tqdm', 'rich', 'sympy'}))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "", f"import fastdiff also imports {out.stdout.strip()}"
