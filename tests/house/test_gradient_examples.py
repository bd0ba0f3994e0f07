"""The examples about gradients and fitted solvers, on a small network trained on real digits."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastdiff as fd

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.skipif(not (EXAMPLES / "morph.py").exists(), reason="no source tree here")
for needed in ("matplotlib", "safetensors", "sklearn", "tqdm"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the weights that the first of them trains."""
    return tmp_path_factory.mktemp("out")


def run(name: str, out: Path) -> dict[str, Any]:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((out / f"{name}.json").read_text())


def test_guided_by_gradient(out: Path) -> None:
    """Every sample becomes more likely the digit it is to be: most likely of all for the classifier that was
    asked, and on the whole for one that was not (by chance one of ten is right)."""
    found = run("guided_by_gradient", out)
    before, after = found["asked"]
    assert all(b < a and a > 0.5 for b, a in zip(before, after, strict=True))
    before, after = found["not asked"]
    right = sum(a > 0.5 for a in after)
    assert right > len(after) / 2 > 2 * sum(b > 0.5 for b in before) and sum(after) > sum(before)


def test_morph(out: Path) -> None:
    """Ends within half a grey level, 1/16, of the real digits, so that they round to them, and nearer than by
    inversion. Halfway both digits are likely: -(log p_a + log p_b) / 2 is log 2 at least, and where p_a + p_b
    <= 1 it is below log 4 only if both are above 1/16."""
    found = run("morph", out)
    assert all(e < 1 / 16 and e < i for e, i in zip(found["error"], found["error of inversion"], strict=True))
    circle, searched = found["halfway"]
    assert all(
        math.log(2) - 1e-6 <= s < math.log(4) and s <= c for s, c in zip(searched, circle, strict=True)
    )


def test_bespoke(out: Path) -> None:
    """A tuned plan of 6 calls reaches an untuned DPM++ 2M of 12, on starts that no search has seen, and so is
    nearer than half of what the best of 6 by hand is off."""
    found = run("bespoke", out)
    errors = found["errors"]
    assert found["calls"]["fitted"] == 6
    assert errors["fitted"] <= errors["dpmpp-2m, logsnr, 12 calls"], errors
    assert errors["fitted"] <= errors[found["best by hand"]] / 2, errors
    assert fd.Plan.load(out / "bespoke-plan.json").nfe == 6
