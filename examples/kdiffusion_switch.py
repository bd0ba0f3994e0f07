"""One picture file from k-diffusion's calls, run by fastdiff: four samplers, and 10, 20, 40 steps of one
seed.

    python examples/kdiffusion_switch.py [--out out/kdiffusion.png] [--size 32] [--seed 0]

The network is the exact denoiser of a set of drawn shapes: the mean of the shapes, weighted by how likely
each is under the noise. No download, no training. The stochastic samplers keep their picture as the steps
double, because their noise is one Brownian path for each sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from fastdiff.integrations import kdiffusion as K

SAMPLERS = ("sample_dpmpp_2m", "sample_euler_ancestral", "sample_dpmpp_2m_sde", "sample_dpmpp_sde")
STEPS = (10, 20, 40)


def shapes(size: int, count: int = 512) -> Tensor:
    """Discs, rings and bars at random places, (count, 1, size, size) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    numbers = torch.rand(count, 4, generator=generator)
    made = []
    for i, (a, b, r, turn) in enumerate(numbers.tolist()):
        u, v = x - (a - 0.5), y - (b - 0.5)
        distance = (u * u + v * v).sqrt()
        radius = 0.25 + 0.3 * r
        angle = torch.tensor(3.1416 * turn)
        bar = (u * angle.cos() + v * angle.sin()).abs() - 0.12
        edge = (distance - radius, (distance - radius).abs() - 0.1, torch.maximum(bar, distance - 0.8))[i % 3]
        made.append(torch.tanh(-edge * size / 2))
    return torch.stack(made)[:, None]


class Shapes:
    """model(x, sigma): the posterior mean of the shapes."""

    def __init__(self, data: Tensor):
        self.data = data.flatten(1)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        distance = torch.cdist(x.flatten(1), self.data) ** 2
        weights = torch.softmax(-distance / (2 * sigma[:, None] ** 2), 1)
        return (weights @ self.data).reshape(x.shape)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/kdiffusion.png"))
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = Shapes(shapes(args.size))
    x = torch.randn(4, 1, args.size, args.size, generator=torch.Generator().manual_seed(args.seed)) * 20
    rows = []
    for name in SAMPLERS:
        sample = getattr(K, name)
        made = [
            sample(model, x, K.get_sigmas_karras(n, 0.05, 20.0), disable=True, seeds=args.seed) for n in STEPS
        ]
        rows.append(torch.cat([m[:, 0] for m in made]))
        change = (made[1] - made[2]).abs().mean()
        print(f"{name:24s} between {STEPS[1]} and {STEPS[2]} steps a pixel moves by {change:.4f}")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(len(rows), len(rows[0]), figsize=(len(rows[0]), len(rows) + 0.6))
    for i, (row, pictures, name) in enumerate(zip(axes, rows, SAMPLERS, strict=True)):
        for k, (ax, picture) in enumerate(zip(row, pictures, strict=True)):
            ax.imshow(picture, cmap="gray", vmin=-1, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            if i == 0 and k % 4 == 0:
                ax.set_title(f"{STEPS[k // 4]} steps", fontsize=8)
        row[0].set_ylabel(name.removeprefix("sample_"), fontsize=6)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(args.out, dpi=120)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
