"""A file that cannot be read in a sitting holds two things. The limits are half as much again as is good."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = (".py", ".cpp", ".h", ".inl", ".cu", ".cuh")
SHARED = 180  # what several solvers share
LIMITS = {"fastdiff/solvers": 135, "fastdiff/grids": 90, "fastdiff/processes": 300, "fastdiff/guidance": 180}
ELSEWHERE = 600


@pytest.mark.skipif(not (ROOT / "fastdiff").is_dir(), reason="no source tree here")
def test_sizes() -> None:
    long = []
    files = (p for folder in ("fastdiff", "csrc") for p in (ROOT / folder).rglob("*") if p.suffix in CODE)
    for path in files:
        where = path.relative_to(ROOT)
        lines, limit = path.read_text().count("\n"), LIMITS.get(where.parent.as_posix(), ELSEWHERE)
        if where.parent.as_posix() == "fastdiff/solvers" and path.name.startswith("_"):
            limit = SHARED
        if lines > limit:
            long.append(f"{where}: {lines} lines, limit {limit}")
    assert not long, "\n".join(long)


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="no source tree here")
def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 130
    assert (ROOT / "docs" / "digits.png").stat().st_size < 200_000
