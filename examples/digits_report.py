"""What the digits demo shows: the table and the picture."""
from __future__ import annotations

from pathlib import Path
from statistics import mean

import matplotlib
import numpy as np
from digits_data import Digits
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend first: there may be no screen

COLUMNS = 5  # images in a row of a tile


def table(numbers: dict) -> None:
    """Print the numbers, by rich where it is installed."""
    distance, digits = numbers["distance"], numbers["digits"]
    solvers, floor = distance["solvers"], distance["training digits"]
    calls = list(next(iter(solvers.values())))
    repeats = len(next(iter(solvers.values()))[calls[0]])
    title = f"Frechet distance to held-out digits, mean of {repeats} seeds (in brackets: training digits = 1)"
    head = ["solver", *(f"{n} calls" for n in calls)]
    body = [[solver, *(f"{mean(v):.3f} ({mean(v) / floor:.1f})" for v in found.values())]
            for solver, found in solvers.items()]
    print(title)
    try:
        from rich.console import Console
        from rich.table import Table

        shown = Table("solver")
        for name in head[1:]:
            shown.add_column(name, justify="right")
        for row in body:
            shown.add_row(*row)
        Console().print(shown)
    except ImportError:
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        for row in (head, *body):
            print("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)))
    print(f"training digits {floor:.3f} (1), pure noise {distance['noise']:.2f}; {digits['training']} digits "
          f"against {digits['held out']}, {numbers['components']} principal components")
    print("held-out digits read right by a classifier trained on")
    for what, value in numbers["accuracy"].items():
        print(f"    {what}: {100 * value:.1f} %")


def tile(images: Tensor) -> np.ndarray:
    """(n, 1, 8, 8) -> rows of five, dark ink on white, a pixel between."""
    padded = np.pad(images[:, 0].numpy().clip(-1, 1), ((0, 0), (0, 1), (0, 1)), constant_values=-1)
    return -padded.reshape(-1, COLUMNS, 9, 9).transpose(0, 2, 1, 3).reshape(-1, COLUMNS * 9)


def picture(path: Path, shown: dict[tuple[str, int], Tensor], data: Digits) -> None:
    """Rows: solvers; columns: network calls; the last column: real digits."""
    solvers, calls = (list(dict.fromkeys(key[i] for key in shown)) for i in (0, 1))
    rows, columns = len(solvers), len(calls) + 1
    fig, axes = plt.subplots(rows, columns, figsize=(1.9 * columns + 0.9, 0.95 * rows + 0.4), squeeze=False)
    for i, (solver, line) in enumerate(zip(solvers, axes, strict=True)):
        real = data.held_x[[int((data.held_y == digit).nonzero()[i]) for digit in range(10)]]
        for ax, images in zip(line, [*(shown[solver, n] for n in calls), real], strict=True):
            ax.imshow(tile(images), cmap="gray", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(solver, fontsize=9)
    for ax, title in zip(axes[0], [*(f"{n} calls" for n in calls), "real, held out"], strict=True):
        ax.set_title(title, fontsize=10)
    fig.tight_layout(pad=0.4)
    fig.savefig(path, dpi=130, format="png")
    plt.close(fig)
