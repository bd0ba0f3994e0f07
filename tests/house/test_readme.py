"""The README is true: its code runs, its table is the one the package prints, its files exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastdiff as fd

ROOT = Path(__file__).resolve().parents[2]
PAGES = [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if p.exists()]
README = ROOT / "README.md"


@pytest.mark.skipif(not PAGES, reason="no source tree here")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_runs(page: Path, tmp_path: Path) -> None:
    """All python blocks of a page, one after the other, as a reader would paste them."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    if not blocks:
        pytest.skip("no code on this page")
    if page.stem == "diffusers":
        pytest.importorskip("diffusers")
    script = tmp_path / "page.py"
    checks = "\nassert abs(x.mean() - 2) < 0.02 and abs(x.std() - 0.5) < 0.02\n" if page == README else ""
    script.write_text("\n".join(blocks) + checks)
    out = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]


@pytest.mark.skipif(not README.exists(), reason="no source tree here")
def test_every_solver_is_named() -> None:
    """In the README's table and, with its figures, in the proof sheet (which CI writes anew and compares)."""
    section = README.read_text().split("## Solvers")[1].split("## Add one")[0]
    sheet = (ROOT / "docs" / "solvers.md").read_text()
    named = set(re.findall(r"`([a-z0-9-]+)`", section))
    assert set(fd.solvers.names()) <= named
    assert set(fd.solvers.names()) == set(re.findall(r"^\| `([a-z0-9-]+)` \|", sheet, re.M))


@pytest.mark.skipif(not README.exists(), reason="no source tree here")
def test_every_loss_weighting_and_law_has_its_row() -> None:
    """On the sheet of losses and the page about training, as their tool writes them today."""
    page, sheet = ((ROOT / "docs" / name).read_text() for name in ("training.md", "losses.md"))
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.M)
    assert rows == [key for family in (fd.losses.weightings, fd.losses.times) for key in family.names()]
    assert re.findall(r"^\| `\w+` `([a-z0-9-]+)` \|", sheet, re.M) == fd.losses.names()
    others = {"Consistency", "DMD", "MMD", "Trajectory", "DDPO", "DiffusionDPO", "ode", "elbo", "ItoDensity"}
    assert others <= set(re.findall(r"^\| `(\w+)` \|", sheet, re.M))
    assert "``" not in sheet, "a loss without a formula"
    fresh = [sys.executable, str(ROOT / "tools" / "loss_sheet.py"), "--check"]
    out = subprocess.run(fresh, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]


@pytest.mark.skipif(not PAGES, reason="no source tree here")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    lost = [
        target
        for target in re.findall(r"\]\(([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not lost, f"{page.name} points to {', '.join(lost)}"


@pytest.mark.skipif(not README.exists(), reason="no source tree here")
def test_folders_that_the_readme_names_exist() -> None:
    named = re.findall(
        r"(?:^|[ /])((?:fastdiff|csrc|docs|examples|bench|tests)/(?:[a-z_]+/)?)", README.read_text(), re.M
    )
    assert named and all((ROOT / n).is_dir() for n in named), [n for n in named if not (ROOT / n).is_dir()]
