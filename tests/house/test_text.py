"""What may not stand in a committed file: places on somebody's machine, hosts, things left undone, big words."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# written in pieces, so that this file passes its own test
PATTERNS = {
    "a place on one machine": r"(?<![\w.$}~/*-])/(?:work|root|home|opt|mnt|Users)/\w" + r"|(?<![\w.$}/])/t" + r"mp/",
    "a host": r"https?:" + r"//|\bpy" + r"pi\.org|\bgith" + r"ub\.com|\bhugging" + r"face\.co\b",
    "something left undone": r"\bTO" + r"DO\b|\bFIX" + r"ME\b|\bX" + r"XX\b|NotImplemented" + r"Error",
    "a big word": r"(?i)\bblaz" + r"ing|\bseam" + r"less|\beffort" + r"less|cutting" + r"-edge|world" + r"-class|super" + r"charge|\bunle" + r"ash|revolution" + r"ary",
    "who or what wrote it": r"(?i)\bclau" + r"de\b|\banthr" + r"opic\b|\bchat" + r"gpt\b|\bcopi" + r"lot\b|generated " + r"with|co-author" + r"ed-by",
}
ELSEWHERE = {"LICENSE"}


def texts() -> list[Path]:
    """Every text file that git has or would take; in an unpacked source archive, every file of ours."""
    try:
        out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        names = out.stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [str(p) for d in ("fastdiff", "csrc", "tests", "bench", "tools", "docs", "examples") for p in (ROOT / d).rglob("*")]
    files = [p for p in (ROOT / n for n in names if n) if p.is_file() and p.suffix not in (".png", ".so", ".pyc")]
    return sorted(files) or pytest.skip("no source tree here")  # type: ignore[return-value]


def test_no_such_words() -> None:
    found = []
    for path in texts():
        if path.name in ELSEWHERE:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{path.relative_to(ROOT)}:{number}: {what}: {line.strip()[:100]}" for what, p in PATTERNS.items() if re.search(p, line)]
    assert not found, "\n".join(found)


def test_text_is_text() -> None:
    """UTF-8, a newline at the end, no tabs in Python, no space before a line's end."""
    bad = []
    for path in texts():
        body = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        if body and not body.endswith("\n"):
            bad.append(f"{where}: no newline at the end")
        bad += [f"{where}:{i}: space before the line's end" for i, line in enumerate(body.splitlines(), 1) if line != line.rstrip()]
        if path.suffix == ".py" and "\t" in body:
            bad.append(f"{where}: a tab")
    assert not bad, "\n".join(bad)


def test_scripts_can_be_run() -> None:
    for name in ("dev", ".ci/run"):
        path = ROOT / name
        if path.exists():
            assert path.stat().st_mode & 0o100, f"{name} is not executable"
            assert Path(path).read_text().startswith("#!/usr/bin/env bash\n")
