"""The floors of the house: imports point down, never up or sideways; formulas know no tensors."""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, CSRC = ROOT / "fastdiff", ROOT / "csrc"
FORMULAS = ("processes", "grids", "solvers")
FLOORS = [("core",), ("ops",), ("noise",), ("operators",), FORMULAS, ("runtime",)]
FAMILY = len(FLOORS)  # every other folder: one method per file, and no family imports its neighbour
TOP = ("", "integrations")  # "" is the door itself: __init__.py and __main__.py
BOTTOM = ("_C", "_cuda", "_version")  # to be had from anywhere

pytestmark = pytest.mark.skipif(not PACKAGE.is_dir(), reason="no source tree here")


def floor(part: str) -> int:
    here = [i for i, parts in enumerate(FLOORS) if part in parts]
    return here[0] if here else FAMILY + 1 if part in TOP else FAMILY


def wrong(source: str, target: str) -> bool:
    if source == target or target in BOTTOM or (source, target) == ("", "integrations"):  # fd.from_diffusers
        return False
    return target != "core" if source in FORMULAS else floor(target) >= floor(source)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, relative names made absolute."""
    here = ["fastdiff", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            yield from ((node.lineno, ".".join([*stem, a.name])) for a in node.names)


def edges() -> Iterator[tuple[str, str, str]]:
    """(file and line, the part that it stands in, the part that it imports)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).parts
        for line, name in imports(path):
            root, _, rest = name.partition(".")
            if root == "fastdiff":
                target = rest.partition(".")[0]
                target = target if target in BOTTOM or (PACKAGE / target).is_dir() else ""  # else the door's
                yield f"{'/'.join(where)}:{line}", where[0] if len(where) > 1 else "", target


def test_imports_point_down() -> None:
    found = list(edges())
    assert len(found) > 50, "the walk must find the imports"
    up = [f"{at}: {a or 'the door'} imports {b or 'the door'}" for at, a, b in found if wrong(a, b)]
    assert not up, "\n".join(up)


def test_the_rule_itself() -> None:
    bad = [("core", "ops"), ("solvers", "ops"), ("solvers", "grids"), ("guidance", "losses"),
           ("ops", "noise"), ("runtime", "guidance"), ("runtime", "")]
    good = [("runtime", "ops"), ("guidance", "runtime"), ("", "testing"), ("ops", "_C"), ("noise", "ops")]
    assert all(wrong(*edge) for edge in bad) and not any(wrong(*edge) for edge in good)


def test_core_and_formulas_know_no_torch() -> None:
    guilty = [f"{path.relative_to(ROOT)}:{line} imports {name}"
              for part in ("core", *FORMULAS) for path in sorted((PACKAGE / part).rglob("*.py"))
              for line, name in imports(path) if name.partition(".")[0] in ("torch", "triton")]
    assert not guilty, "\n".join(guilty)


def test_the_bottom_includes_nothing_from_above() -> None:
    """csrc/core includes itself alone; cpu and cuda do not know each other; nobody includes torch."""
    guilty = []
    for path in sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cpp", ".inl", ".cu", ".cuh")):
        for kind, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', path.read_text(), re.M):
            to = ""
            if kind == '"':
                file = next(f for f in (path.parent / name, CSRC / name) if f.exists()).resolve()
                to = file.relative_to(CSRC).parts[0]
            part = path.relative_to(CSRC).parts[0]
            up = (part == "core" and to not in ("", "core")) or {part, to} == {"cpu", "cuda"}
            if up or name.startswith(("torch/", "ATen/", "c10/")):
                guilty.append(f"{path.relative_to(ROOT)} includes {name}")
    assert not guilty, "\n".join(guilty)
