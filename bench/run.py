"""The microbenchmarks: every other file here is run, printed, kept and drawn.

    ./dev bench [NAME ...] [--quick]          out/bench.json, out/bench.png

A benchmark file has `run() -> list of rows`, a row being a dict with "case" and figures, or `measure()` ->
dict of case to figures. Functions named in its `ALSO` give more rows; `--quick` runs `run(**QUICK)` alone.
Figures are of this machine while it did whatever else it did: compare ratios, not microseconds.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fastdiff as fd
from fastdiff import _C

HERE = Path(__file__).resolve().parent
DRAWN = ("ratio", "of_copy_bandwidth", "ms", "ours_us")  # the first that a benchmark has is drawn
Rows = list[dict[str, Any]]


def benchmarks() -> dict[str, Path]:
    return {p.stem: p for p in sorted(HERE.glob("*.py")) if p.stem != "run" and not p.stem.startswith("_")}


def rows_of(path: Path, quick: bool) -> Rows:
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    bench: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    if not hasattr(bench, "run"):
        return [{"case": case, **figures} for case, figures in bench.measure().items()]
    if quick:
        return bench.run(**getattr(bench, "QUICK", {}))
    return [row for name in ("run", *getattr(bench, "ALSO", ())) for row in getattr(bench, name)()]


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return "" if value is None else str(value)


def table(title: str, rows: Rows) -> None:
    head = list(dict.fromkeys(key for row in rows for key in row))
    body = ([shown(row.get(key)) for key in head] for row in rows)
    lines = [[key.replace("_", " ") for key in head], *body]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())
    print(end="", flush=True)


def plot(path: Path, results: dict[str, Rows]) -> None:
    """A panel of bars for each benchmark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = []
    for name, rows in results.items():
        key = next((k for k in DRAWN if any(k in row for row in rows)), None)
        if key is not None:
            panels.append((f"{name}: {key.replace('_', ' ')}", key, [row for row in rows if key in row]))
    sizes = [len(rows) + 1 for _, _, rows in panels]
    height = 0.22 * sum(sizes) + 0.7 * len(panels)
    fig, axes = plt.subplots(len(panels), 1, figsize=(8, height), squeeze=False, height_ratios=sizes)
    for ax, (title, key, rows) in zip(axes[:, 0], panels, strict=True):
        what = ("case", "dtype", "shape", "steps")
        labels = [" ".join(shown(row[k]) for k in what if k in row) for row in rows]
        bars = ax.barh(range(len(rows)), [row[key] for row in rows], color="#4878a8")
        ax.bar_label(bars, [shown(row[key]) for row in rows], padding=2, fontsize=7)
        ax.set_yticks(range(len(rows)), labels, fontsize=7)
        ax.invert_yaxis()
        ax.set_title(title, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    fig.tight_layout()
    fig.savefig(path, dpi=120, format="png")
    plt.close(fig)


def machine() -> dict[str, Any]:
    """What a reader needs to place the figures."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"fastdiff": fd.__version__, "torch": torch.__version__, "python": platform.python_version(),
            "cpus": os.cpu_count(), "instruction set": _C.isa(), "load": os.getloadavg()[0], "gpu": gpu}


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """Write beside, then rename: an interruption leaves the old file or the new one, whole."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def main(argv: list[str] | None = None) -> None:
    known = benchmarks()
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where results go")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")

    facts, results = machine(), {}
    print(", ".join(f"{k} {shown(v)}" for k, v in facts.items()), flush=True)
    for name in args.names or known:
        start = time.perf_counter()
        results[name] = rows_of(known[name], args.quick)
        table(f"{name} ({time.perf_counter() - start:.0f} s)", results[name])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / ".gitignore").write_text("*\n")
    text = json.dumps({"machine": facts, "rows": results}, indent=1) + "\n"
    print("\nwrote", written(args.out / "bench.json", lambda p: p.write_text(text)))
    print("wrote", written(args.out / "bench.png", lambda p: plot(p, results)))


if __name__ == "__main__":
    main()
