"""The example that compares two losses runs, learns under both, and draws its curves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "training.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="no source tree here")
for needed in ("matplotlib", "safetensors", "sklearn", "tqdm"):
    pytest.importorskip(needed)


def test_it_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads((tmp_path / "training.json").read_text())
    curves = found["curves"]
    assert all(0 < bits < 20 and 0 < error < bits for bits, error in found["bits"].values())
    assert set(curves) == {"plain noise", "min-SNR"}
    for curve in curves.values():
        assert curve["step"] == [20, 40, 60]
        assert curve["bits"][0] > curve["bits"][1] > curve["bits"][2] > 0
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
