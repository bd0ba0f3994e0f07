"""The microbenchmarks: every other file here, its `run()` timed, printed, kept and drawn.

    ./dev bench [kernels] [sampler] [--quick]          out/bench.json, out/bench.png

A benchmark file has `run(...) -> list of rows`; a row is a dict with "case" and figures. Functions named in
its `ALSO` give more rows. `--quick` runs `run(**QUICK)` alone.
Figures are medians on this machine while it did whatever else it did: compare ratios, not microseconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import fastdiff as fd

HERE = Path(__file__).resolve().parent
UNITS = {
    "ratio": "times faster than the peer",
    "of_copy_bandwidth": "share of the copy bandwidth",
    "gb_s": "GB/s",
    "ours_us": "us",
}


def benchmarks() -> dict[str, Path]:
    return {
        p.stem: p
        for p in sorted(HERE.glob("*.py"))
        if not p.stem.startswith("_") and p != Path(__file__).resolve()
    }


def module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def rows_of(bench: ModuleType, quick: bool) -> list[dict[str, Any]]:
    if quick:
        return bench.run(**getattr(bench, "QUICK", {}))
    return [*bench.run(), *(row for name in getattr(bench, "ALSO", ()) for row in getattr(bench, name)())]


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.0f}"
    return (
        "x".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)
    )


def table(name: str, rows: list[dict[str, Any]]) -> None:
    head = list(dict.fromkeys(k for row in rows for k in row))
    body = [[shown(row.get(k)) for k in head] for row in rows]
    try:
        from rich.console import Console
        from rich.table import Table

        t = Table(title=name)
        for i, k in enumerate(head):
            t.add_column(
                k.replace("_", " "),
                justify="right"
                if all(isinstance(r.get(k), (int, float, type(None))) for r in rows)
                else "left",
                no_wrap=i == 0,
            )
        for row in body:
            t.add_row(*row)
        Console().print(t)
    except ImportError:
        widths = [max(len(r[i]) for r in [head, *body]) for i in range(len(head))]
        print(name)
        for row in [head, *body]:
            print("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip())


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One panel for each benchmark: the first figure of UNITS that its rows have."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = []
    for name, rows in results.items():
        for key in UNITS:
            if some := [r for r in rows if isinstance(r.get(key), (int, float))]:
                panels.append((name, key, some))
                break
    if not panels:
        return
    sizes = [max(2, len(rows)) for _, _, rows in panels]
    fig, axes = plt.subplots(
        len(panels), 1, figsize=(8, 0.26 * sum(sizes) + 0.9 * len(panels)), squeeze=False, height_ratios=sizes
    )
    for ax, (name, key, rows) in zip(axes[:, 0], panels, strict=True):
        labels = [" ".join(shown(r[k]) for k in ("case", "dtype", "shape") if k in r) for r in rows]
        bars = ax.barh(range(len(rows)), [r[key] for r in rows], color="#4878a8")
        ax.bar_label(bars, [shown(r[key]) for r in rows], padding=2, fontsize=7)
        ax.set_yticks(range(len(rows)), labels, fontsize=7)
        ax.invert_yaxis()
        ax.set_title(f"{name}: {UNITS[key]}", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    fig.tight_layout()
    fig.savefig(path, dpi=120, format="png")
    plt.close(fig)


def machine() -> dict[str, Any]:
    """What a reader needs to place the figures."""
    facts = {
        "fastdiff": fd.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    try:
        from fastdiff import _C

        facts["instruction set"] = _C.isa()
    except (ImportError, AttributeError):
        pass
    return facts


def main(argv: list[str] | None = None) -> int:
    known = benchmarks()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds")
    parser.add_argument("--out", type=Path, default=Path("out"))
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")

    facts, results = machine(), {}
    print(", ".join(f"{k} {v}" for k, v in facts.items() if v is not None), flush=True)
    for name in args.names or known:
        start = time.perf_counter()
        results[name] = rows_of(module(name, known[name]), args.quick)
        table(f"{name} ({time.perf_counter() - start:.0f} s)", results[name])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / ".gitignore").write_text("*\n")
    for target, write in (
        (
            "bench.json",
            lambda p: p.write_text(json.dumps({"machine": facts, "rows": results}, indent=1) + "\n"),
        ),
        ("bench.png", lambda p: plot(results, p)),
    ):
        part = args.out / f".{os.getpid()}.{target}"  # renamed when whole
        write(part)
        if part.exists():
            part.replace(args.out / target)
            print("wrote", args.out / target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
