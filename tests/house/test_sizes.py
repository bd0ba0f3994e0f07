"""A file that one cannot read in a sitting has two things in it. Limits are half as much again as what is good."""
from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fastdiff"

LIMITS = {"solvers": 90, "grids": 90, "processes": 300, "guidance": 180}
ELSEWHERE = 600


@pytest.mark.skipif(not PACKAGE.is_dir(), reason="no source tree here")
def test_sizes() -> None:
    files = [p for d in ("fastdiff", "csrc") for p in (ROOT / d).rglob("*") if p.suffix in (".py", ".cpp", ".h", ".inl", ".cu", ".cuh")]
    lines = {p.relative_to(ROOT): p.read_text().count("\n") for p in files}
    limit = {p: LIMITS.get(p.parts[1], ELSEWHERE) if p.parts[0] == "fastdiff" else ELSEWHERE for p in lines}
    long = [f"{p}: {n} lines, limit {limit[p]}" for p, n in sorted(lines.items()) if n > limit[p]]
    assert not long, "\n".join(long)


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="no source tree here")
def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 130
    assert (ROOT / "docs" / "digits.png").stat().st_size < 200_000
