"""The demo runs, keeps its weights, and leaves nothing half-written when it is interrupted."""
from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "digits.py"
TINY = ["--solvers", "ddim", "--calls", "2", "3", "--repeats", "1"]

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="no source tree here")
for needed in ("matplotlib", "safetensors", "sklearn", "tqdm"):
    pytest.importorskip(needed)


def test_it_runs_and_the_second_time_reuses_the_weights(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *TINY, "--steps", "3", "--out", str(tmp_path)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert "training" in runs[0].stderr, "no progress bar"
    assert "from an earlier run" not in runs[0].stdout and "from an earlier run" in runs[1].stdout
    numbers = json.loads((tmp_path / "digits.json").read_text())
    assert 0.1 < numbers["distance"]["training digits"] < 0.3 and numbers["distance"]["noise"] > 5
    assert list(numbers["distance"]["solvers"]["ddim"]) == ["2", "3"]
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    tables = [run.stdout[run.stdout.index("Frechet"):run.stdout.index("wrote")] for run in runs]
    assert tables[0] == tables[1], "the same settings gave other numbers"


def test_an_interruption_leaves_nothing_half_written(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *TINY, "--steps", "100000", "--out", str(tmp_path)]
    run = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / ".gitignore").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode not in (0, None) and "Traceback" not in err, err[-2000:]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".gitignore"]
