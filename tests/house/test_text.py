"""What may not stand in a committed file: places on a machine, hosts, things left undone, big words."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fastdiff", "csrc", "tests", "bench", "tools", "docs", "examples")
PATTERNS = {
    "a place on one machine": r"(?<![\w.$}~/*-])/(?:work|root|home|opt|mnt|tmp|Users)/\w",
    "a host": r"https?://|\b(?:pypi\.org|github\.com|huggingface\.co)\b",
    "something left undone": r"\b(?:TODO|FIXME|XXX)\b|NotImplementedError",
    "a big word": r"(?i)\b(?:blazing|seamless|effortless|cutting-edge|world-class|supercharge|revolutionary)",
}
EXEMPT = {ROOT / "LICENSE", Path(__file__).resolve()}


def texts() -> list[Path]:
    """Every text file that git has or would take; in an unpacked source archive, every file of ours."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        names = out.split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [str(p) for folder in FOLDERS for p in (ROOT / folder).rglob("*")]
    files = (ROOT / n for n in names if n and not n.endswith((".png", ".so", ".pyc")))
    return [p for p in files if p.is_file()]


pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="no source tree here")


def test_no_such_words() -> None:
    found = []
    for path in texts():
        if path not in EXEMPT:
            for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                what = [name for name, pattern in PATTERNS.items() if re.search(pattern, line)]
                found += [f"{path.relative_to(ROOT)}:{i}: {w}: {line.strip()[:90]}" for w in what]
    assert not found, "\n".join(found)


def test_text_is_text() -> None:
    """UTF-8, a newline at the end, no tab in Python, no space before a line's end."""
    bad = []
    for path in texts():
        body, where = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        if body and not body.endswith("\n"):
            bad.append(f"{where}: no newline at the end")
        if path.suffix == ".py" and "\t" in body:
            bad.append(f"{where}: a tab")
        lines = enumerate(body.splitlines(), 1)
        bad += [f"{where}:{i}: space before the line's end" for i, line in lines if line != line.rstrip()]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("name", ["dev", ".ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    path = ROOT / name
    if not path.exists():
        pytest.skip("no source tree here")
    assert path.stat().st_mode & 0o100, f"{name} is not executable"
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
