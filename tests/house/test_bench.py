"""The benchmarks' own machinery: a run leaves its files, a slower case is named, a peer may be missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="no source tree here")


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "bench", "host", "--quick", "--budget", "0.01", *args]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True)


def test_a_run_leaves_its_files_and_names_what_became_slower(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    first = bench("--out", str(tmp_path))
    assert first.returncode == 0, first.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {"torch", "python", "cpus"} <= set(found["machine"])
    rows = found["rows"]["host"]
    assert all(row["ours_us"] > 0 for row in rows) and "heun, a step in the loop" in {r["case"] for r in rows}
    for row in rows:
        by = 1e-3 if row["case"].startswith("heun") else 1e3
        row["relative"] = {yard: by * at for yard, at in row["relative"].items()}
    (tmp_path / "old.json").write_text(json.dumps(found))
    second = bench("--out", str(tmp_path), "--compare", str(tmp_path / "old.json"))
    assert second.returncode == 1
    slower = [line for line in second.stdout.splitlines() if "times slower" in line]
    assert len(slower) == 1 and "heun" in slower[0]


def test_figures_are_of_the_named_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A work that says what it spent is believed; figures are per unit; a missing peer is listed."""
    pytest.importorskip("rich")
    monkeypatch.syspath_prepend(str(ROOT))
    from bench._case import Case, Scale, Spent, measured

    case = Case("a", lambda: Spent(2.0), {"b": lambda: Spent(6.0), "c": None}, units=4)
    row, missing = measured(case, Scale(budget=0.0))
    assert (row["ours_us"], row["peer_us"], row["ratio"]) == (0.5e6, 1.5e6, 3.0)
    assert missing["peer"] == "c" and missing["skipped"] == "not installed"


def test_goals_are_judged_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A goal about one peer is no other's; a peer that fails is named and does not stop ours."""
    pytest.importorskip("rich")
    monkeypatch.syspath_prepend(str(ROOT))
    from bench._case import Case, Goal, Scale, Spent, measured

    def broken() -> None:
        raise RuntimeError("not today")

    peers = {"b": lambda: Spent(6.0), "c": lambda: Spent(4.0), "d": broken}
    goals = (Goal(least=2.5, peer="b"), Goal(least=2.5, peer="c"), Goal("ours_us", most=3e6))
    b, c, d = measured(Case("a", lambda: Spent(2.0), peers, goals=goals), Scale(budget=0.0))
    assert b["met"] and b["goal"] == ">= 2.5, ours us <= 3e+06"
    assert not c["met"] and c["missed"] == ">= 2.5"
    assert "not today" in d["skipped"]


def test_slower_is_slower_against_memory_and_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from bench._report import compared

    def run(copy: float, sums: float) -> dict[str, list[dict[str, object]]]:
        row = {"case": "a", "shape": [1], "ours_us": 1.0, "relative": {"copy": copy, "sums": sums}}
        return {"step": [row]}

    assert list(compared(run(1.0, 2.0), run(1.2, 2.4)).values()) == [pytest.approx(1.2)]
    assert not compared(run(1.0, 2.0), run(1.4, 2.0)) and not compared(run(1.0, 2.0), run(1.0, 2.8))


def test_an_unknown_suite_is_refused() -> None:
    call = [sys.executable, "-m", "bench", "nothing"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no suite nothing; there are" in done.stderr
