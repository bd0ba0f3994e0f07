"""What the digits demo shows: the table and the picture."""
from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from digits_data import Digits
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend first: there may be no screen

COLUMNS = 5  # images in a row of a tile


def rows(numbers: dict) -> tuple[list[str], list[list[str]]]:
    calls = sorted({c for found in numbers["solvers"].values() for c in found})
    base = numbers["training"]
    body = [[solver, *(f"{found[c]['mean']:.3f} ({found[c]['mean'] / base:.1f}x)" for c in calls)] for solver, found in numbers["solvers"].items()]
    return ["solver", *(f"{c} calls" for c in calls)], body


def table(numbers: dict) -> None:
    """Print the table, by rich where it is installed."""
    head, body = rows(numbers)
    title = f"Frechet distance to held-out digits, mean of {numbers['repeats']} seeds"
    floor = (f"{numbers['training digits']} digits against {numbers['held-out digits']} held out, in {numbers['components']} principal components\n"
             f"the training digits themselves: {numbers['training']:.3f} (1x)     pure noise: {numbers['noise']:.2f}")
    try:
        from rich.console import Console
        from rich.table import Table

        console = Console()
        t = Table(title=title, caption=floor, caption_justify="left")
        for i, name in enumerate(head):
            t.add_column(name, justify="right" if i else "left")
        for row in body:
            t.add_row(*row)
        console.print(t)
    except ImportError:
        widths = [max(len(r[i]) for r in [head, *body]) for i in range(len(head))]
        print(title)
        for row in [head, *body]:
            print("  ".join(v.rjust(w) if i else v.ljust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True))))
        print(floor)
    print("accuracy on held-out digits of a classifier trained on")
    for what, value in numbers["accuracy"].items():
        print(f"  {what}: {100 * value:.1f} %")


def tile(images: Tensor) -> np.ndarray:
    """(n, 1, 8, 8) -> one image of rows of five, a pixel of white between."""
    padded = np.pad(images[:, 0].numpy().clip(-1, 1), ((0, 0), (0, 1), (0, 1)), constant_values=-1)
    grid = padded.reshape(-1, COLUMNS, 9, 9).transpose(0, 2, 1, 3).reshape(-1, COLUMNS * 9)
    return -grid  # dark ink on white


def picture(path: Path, shown: dict[tuple[str, int], Tensor], solvers: list[str], calls: list[int], data: Digits) -> None:
    """Rows: solvers; columns: network calls; the last column: real digits."""
    fig, axes = plt.subplots(len(solvers), len(calls) + 1, figsize=(1.9 * (len(calls) + 1) + 0.9, 0.95 * len(solvers) + 0.4), squeeze=False)
    for i, solver in enumerate(solvers):
        for j, n in enumerate(calls):
            axes[i][j].imshow(tile(shown[solver, n]), cmap="gray", vmin=-1, vmax=1)
            if i == 0:
                axes[i][j].set_title(f"{n} calls", fontsize=10)
        axes[i][0].set_ylabel(solver, fontsize=10)
        order = [int((data.held_y == d).nonzero()[i]) for d in range(10)]
        axes[i][-1].imshow(tile(data.held_x[order]), cmap="gray", vmin=-1, vmax=1)
    axes[0][-1].set_title("real, held out", fontsize=10)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_visible(False)
    fig.tight_layout(pad=0.4)
    fig.savefig(path, dpi=130, format="png")
    plt.close(fig)
