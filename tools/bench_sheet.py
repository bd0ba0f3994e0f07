"""Results of `python -m bench` as Markdown.

python tools/bench_sheet.py RESULTS.json             prints the table
python tools/bench_sheet.py RESULTS.json --write     puts it into docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- made by tools/bench_sheet.py -->", "<!-- end -->"
HEAD = ("suite", "case", "dtype", "shape", "ours, us", "beside", "us", "ratio", "goal", "met", "of floor")


def cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, list):
        return "x".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.0f}"
    return "" if value is None else str(value)


def lines(results: dict[str, Any], name: str) -> Iterator[str]:
    """Every row that has a goal or a peer."""
    yield f"From `{name}`: " + ", ".join(f"{k} {v}" for k, v in results["machine"].items() if v) + "."
    yield ""
    rows = [(s, r) for s, rows in results["rows"].items() for r in rows if "goal" in r or "peer" in r]
    judged = [r for _, r in rows if "met" in r]
    yield f"Goals met: {sum(r['met'] for r in judged)} of {len(judged)}."
    yield ""
    yield "| " + " | ".join(HEAD) + " |"
    yield "|" + " --- |" * len(HEAD)
    for suite, r in rows:
        keys = ("case", "dtype", "shape", "ours_us", "peer", "peer_us", "ratio", "goal", "met", "of_floor")
        cells = [suite, *(cell(r.get(k)) for k in keys)]
        if "skipped" in r:
            cells[HEAD.index("ratio")] = r["skipped"]
        yield "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    args = parser.parse_args()
    text = "\n".join(lines(json.loads(args.results.read_text()), args.results.name))
    if not args.write:
        print(text)
        return 0
    before, rest = PAGE.read_text().split(BEGIN, 1)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
