"""The floors of the house: imports point down, never up or sideways; formulas know no tensors."""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fastdiff"

FLOORS = [["core"], ["ops"], ["noise"], ["operators"], ["processes", "grids", "solvers"], ["runtime"]]
FORMULAS = {"processes", "grids", "solvers"}
TOP = {"", "integrations"}  # "" is the door itself: __init__.py and __main__.py
BOTTOM = {"_C", "_cuda", "_version"}  # may be had from anywhere
FAMILY = len(FLOORS)  # every other folder: one method per file, no family imports its neighbour


def floor(part: str) -> int:
    for i, parts in enumerate(FLOORS):
        if part in parts:
            return i
    return FAMILY + 1 if part in TOP else FAMILY


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a file imports, relative names made absolute."""
    here = ["fastdiff", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            yield from ((node.lineno, ".".join([*stem, a.name])) for a in node.names)


def edges() -> Iterator[tuple[str, str, str]]:
    """(where, the part a file stands in, the part it imports)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        for line, name in imports(path):
            words = name.split(".")
            if words[0] == "fastdiff":
                target = words[1] if len(words) > 1 else ""
                target = target if (PACKAGE / target).is_dir() or target in BOTTOM else ""  # a name of the door
                yield f"{path.relative_to(ROOT)}:{line}", parts[0] if len(parts) > 1 else "", target


def wrong(source: str, target: str) -> bool:
    if source == target or target in BOTTOM:
        return False
    if source in FORMULAS:
        return target != "core"
    return floor(target) >= floor(source)


@pytest.mark.skipif(not PACKAGE.is_dir(), reason="no source tree here")
def test_imports_point_down() -> None:
    found = list(edges())
    assert len(found) > 50, "the walk itself must find the imports"
    up = [f"{where}: {source or 'the door'} imports {target or 'the door'}" for where, source, target in found if wrong(source, target)]
    assert not up, "\n".join(up)


@pytest.mark.skipif(not PACKAGE.is_dir(), reason="no source tree here")
def test_formulas_and_core_know_no_torch() -> None:
    guilty = [f"{path.relative_to(ROOT)}:{line} imports {name}"
              for part in ("core", *FORMULAS) for path in sorted((PACKAGE / part).rglob("*.py"))
              for line, name in imports(path) if name.split(".")[0] in ("torch", "triton")]
    assert not guilty, "\n".join(guilty)


def test_the_rule_itself() -> None:
    assert wrong("core", "ops") and wrong("solvers", "ops") and wrong("solvers", "grids") and wrong("guidance", "losses")
    assert wrong("runtime", "guidance") and wrong("runtime", "") and wrong("ops", "noise")
    assert not wrong("runtime", "ops") and not wrong("guidance", "runtime") and not wrong("", "testing") and not wrong("ops", "_C")


def test_the_bottom_includes_nothing_from_above() -> None:
    """csrc/core: itself and the standard library; cpu and cuda do not know each other; nobody knows torch."""
    csrc = ROOT / "csrc"
    if not csrc.is_dir():
        pytest.skip("no source tree here")
    guilty = []
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in (".h", ".cpp", ".inl", ".cu", ".cuh")):
        part = path.relative_to(csrc).parts[0]
        for kind, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', path.read_text(), re.M):
            if name.startswith(("torch/", "ATen/", "c10/")):
                guilty.append(f"{path.relative_to(ROOT)} includes {name}")
            elif kind == '"':
                target = (path.parent / name).resolve()
                target = target if target.exists() else (csrc / name).resolve()
                to = target.relative_to(csrc).parts[0]
                if (part == "core" and to != "core") or {part, to} == {"cpu", "cuda"}:
                    guilty.append(f"{path.relative_to(ROOT)} includes {name}")
    assert not guilty, "\n".join(guilty)
