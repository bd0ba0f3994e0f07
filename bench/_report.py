"""Rows as a table, a picture and a comparison with an older run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ._case import Row

WORSE, ALONE = 1.1, 1.3  # times as slow is slower; of what was measured once, against its peer
HEAD = (
    "case",
    "dtype",
    "shape",
    "threads",
    "ours_us",
    "peer",
    "peer_us",
    "ratio",
    "goal",
    "met",
    "of_floor",
    "peak_mb",
    "error",
)
Results = Mapping[str, list[Row]]


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return "" if value is None else str(value)


def table(title: str, rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    head = [k for k in HEAD if any(k in row for row in rows)]
    made = Table(title=title, title_justify="left", header_style="bold")
    for key in head:
        words = key.replace("ours_us", "ours, us").replace("peer_us", "us").replace("_", " ")
        made.add_column(words, justify="right" if key.endswith(("us", "ratio", "floor")) else "left")
    seen = None
    for row in rows:
        again = seen == (seen := tuple(shown(row.get(k)) for k in ("case", "dtype", "shape", "along")))
        cells = [shown(row.get(k)) for k in head]
        if "skipped" in row:
            cells[head.index("ratio") if "ratio" in head else -1] = row["skipped"]
        made.add_row(
            *(
                "" if again and k not in ("peer", "peer_us", "ratio", "goal", "met") else c
                for k, c in zip(head, cells, strict=True)
            )
        )
    Console(width=None if Console().is_terminal else 150).print(made)


def named(row: Row) -> str:
    return " ".join(filter(None, (row["case"], row.get("dtype"), shown(row["shape"]), row.get("peer"))))


def curve(row: Row) -> str:
    return " ".join(filter(None, (row["case"], row.get("dtype"))))


def lines(rows: Iterable[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Of rows that lie along an axis: for each case, named curves (ours, peers, floor) of points (size,
    us)."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in (r for r in rows if "along" in r):
        curves = found.setdefault(curve(row), {})
        for name, key in (("ours", "ours_us"), ("floor", "floor_us"), (row.get("peer"), "peer_us")):
            point = (row["along"], row.get(key))
            if name and point[1] is not None and point not in curves.setdefault(name, []):
                curves[name].append(point)
    return {name: curves for name, curves in found.items() if len(curves["ours"]) > 1}


def growth(rows: Iterable[Row]) -> dict[str, float]:
    """Slope of log time over log size between the last two points of ours."""

    def slope(points: list[tuple[float, float]]) -> float:
        (a, s), (b, t) = points[-2:]
        return math.log(t / s) / math.log(b / a)

    return {name: slope(curves["ours"]) for name, curves in lines(rows).items()}


def plot(path: Path, results: Results) -> None:
    """Time against size with the floor, where a suite has sizes; else how many times faster than the
    peers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    curves = {f"{s}: {n}": c for s, rows in results.items() for n, c in lines(rows).items()}
    bars: dict[str, tuple[str, list[Row]]] = {}
    for suite, rows in results.items():
        drawn = lines(rows).keys()
        still = [r for r in rows if "ours_us" in r and not ("along" in r and curve(r) in drawn)]
        key = "ratio" if any("ratio" in r for r in still) else "ours_us"
        if still := [r for r in still if key in r]:
            bars[suite] = (key, still)
    wide = 3
    tall = -(-len(curves) // wide)
    heights = [2.4] * tall + [0.2 * len(rows) + 0.5 for _, rows in bars.values()]
    fig = plt.figure(figsize=(11, sum(heights) + 0.5), layout="constrained")
    grid = fig.add_gridspec(len(heights), wide, height_ratios=heights)
    for k, (title, found) in enumerate(curves.items()):
        ax = fig.add_subplot(grid[k // wide, k % wide])
        for j, (name, points) in enumerate(found.items()):
            style = {
                "ours": {"color": "C0", "lw": 2, "marker": "o", "ms": 3},
                "floor": {"color": "k", "ls": ":"},
            }
            ax.loglog(
                *zip(*sorted(points), strict=True), label=name, **style.get(name, {"lw": 1, "color": f"C{j}"})
            )
        ax.set_title(title, fontsize=8)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_minor_formatter("")
        ax.yaxis.set_minor_formatter("")
        ax.legend(fontsize=6, frameon=False)
        ax.set_ylabel("us", fontsize=7)
    for k, (suite, (key, rows)) in enumerate(bars.items()):
        ax = fig.add_subplot(grid[tall + k, :])
        labels = [" ".join(filter(None, (r["case"], r.get("dtype"), r.get("peer")))) for r in rows]
        bar = ax.barh(range(len(rows)), [r[key] for r in rows], color="#4878a8")
        ax.bar_label(bar, [shown(r[key]) for r in rows], padding=2, fontsize=7)
        ax.set_yticks(range(len(rows)), labels, fontsize=7)
        ax.invert_yaxis()
        ax.set_title(f"{suite}: " + ("peer's time over ours" if key == "ratio" else "us"), fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=120, format="png")
    plt.close(fig)


def key(suite: str, row: Row) -> tuple[Any, ...]:
    return (
        suite,
        row["case"],
        tuple(row["shape"]),
        row.get("dtype"),
        row.get("threads"),
        row.get("along"),
        row.get("steps"),
    )


def relative(results: Results) -> dict[tuple[Any, ...], list[float]]:
    """Of each case its time in those of the yards; where it was held against none, in its peer's."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for suite, row in ((s, r) for s, rows in results.items() for r in rows if "ours_us" in r):
        if "relative" in row:
            found[key(suite, row)] = list(row["relative"].values())
        elif "ratio" in row:
            found[key(suite, row)] = [1 / row["ratio"]]
    return found


def compared(old: Results, new: Results) -> dict[tuple[Any, ...], float]:
    """Cases that became slower, and how many times; the most so first. Slower: by WORSE against every yard.
    Others on the machine slow memory or arithmetic down, and a case by its own mixture of both: against one
    of the two yards it does not look slower then."""
    before, after = relative(old), relative(new)
    both = {k: min(a / b for a, b in zip(after[k], before[k], strict=True)) for k in after if k in before}
    slower = {k: by for k, by in both.items() if by > (WORSE if len(after[k]) > 1 else ALONE)}
    return dict(sorted(slower.items(), key=lambda found: -found[1]))
