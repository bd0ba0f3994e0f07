"""What the examples about gradients share: the demo's network, a small classifier, a picture of rows."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from digits import PROCESS, Recipe, trained, written
from digits_data import Digits, load
from torch import Tensor, nn
from torch.nn import functional as F

import fastdiff as fd

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend first: there may be no screen

QUICK = Recipe(steps=400, batch=128, width=128, depth=2, warmup=20, ema=0.99)


def setup(doc: str | None, argv: list[str] | None) -> tuple[argparse.Namespace, Digits, fd.Denoiser]:
    """Options, the digits, and the network as the demo trained it (or trains it now, under --out)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller network, fewer iterations")
    parser.add_argument("--threads", type=int, default=1)
    out = parser.add_argument("--out", type=Path, default=Path("out"), help="where results go")
    out.help = f"{out.help} (default: %(default)s)"
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / ".gitignore").write_text("*\n")
    data = load()
    net, _ = trained(data, QUICK if args.quick else Recipe(), args.out)
    return args, data, fd.Denoiser(net, PROCESS, predicts="velocity", time="lambda")


def classifier(data: Digits, steps: int = 300) -> nn.Module:
    """Logits of the ten digits, by a small network trained on real digits, some of them in noise."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 10))
    adam = torch.optim.Adam(net.parameters(), 5e-3, weight_decay=1e-4)
    for step in range(steps):
        noise = fd.noise.normal(tuple(data.x.shape), step)
        loss = F.cross_entropy(net(data.x + 0.3 * noise), data.y)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return net.requires_grad_(False)


def strip(rows: dict[str, Tensor]) -> np.ndarray:
    """Rows of images, a pixel between, dark ink on white."""

    def row(images: Tensor) -> np.ndarray:
        padded = np.pad(images[:, 0].numpy().clip(-1, 1), ((0, 0), (0, 1), (0, 1)), constant_values=-1)
        return -np.concatenate(list(padded), 1)

    return np.concatenate([row(images) for images in rows.values()])


def sheet(path: Path, rows: dict[str, Tensor], title: str = "") -> None:
    """A row of images beside each name."""
    fig, ax = plt.subplots(figsize=(7, 0.75 * len(rows) + 0.4))
    ax.imshow(strip(rows), cmap="gray", vmin=-1, vmax=1)
    ax.set(xticks=[], yticks=[9 * i + 4 for i in range(len(rows))], yticklabels=list(rows))
    ax.set_title(title, fontsize=9)
    ax.tick_params(length=0, labelsize=9)
    ax.spines[:].set_visible(False)
    fig.tight_layout(pad=0.4)
    print("wrote", written(path, lambda p: fig.savefig(p, dpi=130, format="png")))
    plt.close(fig)
