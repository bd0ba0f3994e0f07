"""The examples of rewards and of one call, with what the docs claim of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="no source tree here")
for needed in ("matplotlib", "safetensors", "sklearn", "tqdm"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for both: the second finds the network that the first trained."""
    return tmp_path_factory.mktemp("out")


def found(name: str, out: Path) -> dict:
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((out / f"{name}.json").read_text())


def test_a_reward_without_gradient_rises(out: Path) -> None:
    """Stroke mass, a count of pixels: the last five of 30 updates above the first five by 5 standard errors
    of the difference of their means, and the ratio of probabilities in a first epoch is 1 to the last bit."""
    (run,) = found("ddpo", out)["seeds"].values()
    reward = run["reward"]
    assert len(reward) == 30 and run["first ratios are 1"]
    means = [sum(part) / 5 for part in (reward[:5], reward[-5:])]
    squares = [
        sum((r - m) ** 2 for r in part) / 4 for part, m in zip((reward[:5], reward[-5:]), means, strict=True)
    ]
    assert means[1] - means[0] > 5 * (sum(squares) / 5) ** 0.5, reward


def test_one_call_is_at_most_twice_as_far_as_the_teacher(out: Path) -> None:
    """Frechet distance to held-out digits: the student's single call against the teacher's twenty."""
    distance = found("one_call", out)["distance"]
    assert distance["student, 1 call"] <= 2 * distance["teacher, 20 calls"], distance
    assert distance["student, 1 call"] < distance["teacher, 1 call"] / 2, distance
