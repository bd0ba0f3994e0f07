"""Microbenchmarks: ours, the peers and the floor, in one process.

    python -m bench [SUITE ...] [--quick] [--device cuda] [--compare OLD.json]      or: ./dev bench ...

Writes out/bench.json and out/bench.png. A peer that is not installed is listed as skipped.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import fastdiff as fd

from . import _report
from ._case import Case, Scale, passes

HERE = Path(__file__).resolve().parent
PEERS = ("diffusers", "k-diffusion", "torchsde", "torchdiffeq", "triton")


def suites() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))


def machine(device: str) -> dict[str, Any]:
    """What a reader needs to place the figures."""
    from fastdiff import _C

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    facts = {"fastdiff": fd.__version__, "commit": git.stdout.strip() or None, "torch": torch.__version__}
    facts |= {name: found for name in PEERS if (found := version(name))}
    facts |= {"python": platform.python_version(), "cpus": os.cpu_count(), "instruction set": _C.isa()}
    facts |= {"load": round(os.getloadavg()[0], 2)}
    return facts | ({"gpu": torch.cuda.get_device_name(device)} if device != "cpu" else {})


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """Write beside, then rename: an interruption leaves the old file or the new one, whole."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def save(folder: Path, facts: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> None:
    """What there is so far: a run that is cut short leaves the suites that it has finished."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "bench.json").exists() and not any(folder.iterdir()):
        (folder / ".gitignore").write_text("*\n")
    text = json.dumps({"machine": facts, "rows": results}, indent=1) + "\n"
    written(folder / "bench.json", lambda p: p.write_text(text))


def only(suite: Any, names: set[str]) -> Callable[[Scale], Iterator[Case]]:
    return lambda scale: (case for case in suite.cases(scale) if case.what in names)


def compare(old: Any, results: dict[str, list[dict[str, Any]]], scale: Scale) -> int:
    """What is slower, and still is when measured three times more."""
    slower = _report.compared(old, results)
    for _ in range(3):
        for name in sorted({key[0] for key in slower}):
            suite = importlib.import_module(f".{name}", __package__)
            if hasattr(suite, "rows"):
                continue
            doubted = {key[1] for key in slower if key[0] == name}
            rows = passes(only(suite, doubted), scale)
            still = _report.compared(old, {name: rows})
            slower = {k: min(by, still.get(k, 0.0)) if k[0] == name else by for k, by in slower.items()}
        slower = {k: by for k, by in slower.items() if by}
    for key, by in slower.items():
        print(f"{by:.2f} times slower: {' '.join(_report.shown(v) for v in key if v)}")
    if not slower:
        print(f"unchanged: none of {len(_report.relative(results))} cases is slower")
    return bool(slower)


def main(argv: list[str] | None = None) -> int:
    known = suites()
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=formatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(known)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="few cases, little time for each")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--budget", type=float, help="seconds for a case (default 0.35; quick 0.25)")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.json",
        help="name what became slower against the same run's copy, measured again to be sure; exit 1 if any",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="where results go")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.suites) - set(known)):
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(known)}")
    old = json.loads(args.compare.read_text())["rows"] if args.compare else None

    scale = Scale(args.device, args.quick, args.budget or (0.25 if args.quick else 0.35))
    facts = machine(args.device)
    print(", ".join(f"{k} {_report.shown(v)}" for k, v in facts.items()), flush=True)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in args.suites or known:
        start = time.perf_counter()
        suite = importlib.import_module(f".{name}", __package__)
        if hasattr(suite, "rows"):  # it measures by itself
            results[name] = list(suite.rows(scale))
        else:
            results[name] = passes(suite.cases, scale)
        save(args.out, facts, results)
        _report.table(f"{name} ({time.perf_counter() - start:.0f} s)", results[name])
        for case, slope in _report.growth(results[name]).items():
            print(f"  {case}: time grows with size to the power {slope:.2f}")
    print("\nwrote", args.out / "bench.json")
    if any("ours_us" in row for rows in results.values() for row in rows):
        print("wrote", written(args.out / "bench.png", lambda p: _report.plot(p, results)))
    goals = [row for rows in results.values() for row in rows if "met" in row]
    print(f"goals met: {sum(row['met'] for row in goals)} of {len(goals)}")
    for suite, row in ((s, r) for s, rows in results.items() for r in rows if not r.get("met", True)):
        print(f"  not met: {suite}, {_report.named(row)}: {row['missed']}")
    return 0 if old is None else compare(old, results, scale)


if __name__ == "__main__":
    raise SystemExit(main())
