"""Digits with more ink: the demo's sampler trained by a reward that has no gradient.

    python examples/ddpo.py            some minutes; --quick: one seed, a smaller network

The reward of an image is its stroke mass, the number of its pixels that are more ink than paper. Each update
draws a digit for each label, takes every reward about the mean of its own digit, and goes twice over the
steps that were taken; in the first epoch the network is still the one that sampled, and every ratio of
probabilities is 1 to the last bit. Writes out/ddpo.png (the same seeds before and after, and the reward's
curve) and out/ddpo.json.

Source: Black et al. 2023, arXiv:2305.13301.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import matplotlib
import torch
from digits import PROCESS, Recipe, bar_options, trained, written
from digits_data import load
from digits_report import tile
from torch import Tensor, nn
from tqdm import tqdm

import fastdiff as fd

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend first: there may be no screen

UPDATES = 30
EPOCHS = 2  # over each rollout
SHOWN = torch.arange(10)


def stroke_mass(x: Tensor) -> Tensor:
    return (x > 0).flatten(1).sum(1)


def policy(net: nn.Module, steps: int) -> fd.Sampler:
    denoiser = fd.Denoiser(net, PROCESS, predicts="velocity", time="lambda")
    times = fd.grid("logsnr", PROCESS, steps=steps)
    return fd.Sampler(denoiser, fd.plan("ddim", PROCESS, times, predicts="velocity", eta=1.0))


def improved(net: nn.Module, args: argparse.Namespace, seed: int) -> tuple[nn.Module, list[float], bool]:
    """The trained network, the mean reward at each update, and whether all first ratios were 1 exactly."""
    net = copy.deepcopy(net).requires_grad_()
    sampler, ppo = policy(net, args.steps), fd.rl.DDPO(clip=0.2)
    optimizer = torch.optim.Adam(net.parameters(), args.rate)
    labels = torch.arange(args.batch) % 10
    means, exact = [], True
    for k in tqdm(range(UPDATES), desc=f"seed {seed}", unit="update", **bar_options()):
        # ids of its own for each sample of each update: no noise is used twice
        ids = range(k * args.batch, (k + 1) * args.batch)
        rollout = fd.rl.collect(
            sampler,
            (args.batch, 1, 8, 8),
            stroke_mass,
            seeds=fd.Seeds(1000 + seed, ids=ids),
            cond={"label": labels},
        )
        advantages = fd.rl.advantages(rollout.rewards, groups=labels)
        with torch.no_grad():
            exact &= bool((ppo.ratios(sampler, rollout) == 1).all())
        for _ in range(EPOCHS):
            optimizer.zero_grad(set_to_none=True)
            ppo(sampler, rollout, advantages).backward()
            optimizer.step()
        means.append(rollout.rewards.mean().item())
    return net, means, exact


def errors_up(means: list[float]) -> float:
    """How far the last five updates are above the first five, in standard errors of the difference."""
    first, last = torch.tensor(means[:5]), torch.tensor(means[-5:])
    return float((last.mean() - first.mean()) / math.sqrt((first.var() + last.var()) / 5))


def drawn(net: nn.Module, steps: int) -> Tensor:
    with torch.no_grad():
        return policy(net, steps)(fd.noise.normal((len(SHOWN), 1, 8, 8), 0), seeds=0, cond={"label": SHOWN})


def picture(path: Path, before: Tensor, after: Tensor, curves: dict[int, list[float]]) -> None:
    fig, axes = plt.subplots(1, 3, figsize=(9, 2.6), width_ratios=[1, 1, 1.3])
    for ax, images, name in zip(axes, (before, after), ("before", f"after {UPDATES} updates"), strict=False):
        ax.imshow(tile(images), cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[], title=name)
        ax.spines[:].set_visible(False)
    for seed, means in curves.items():
        axes[2].plot(range(1, UPDATES + 1), means, label=f"seed {seed}")
    axes[2].set(xlabel="update", title="pixels of ink, mean of the rollout")
    axes[2].legend(frameon=False)
    fig.tight_layout()
    fig.savefig(path, dpi=130, format="png")
    plt.close(fig)


def main(argv: list[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="one seed, a network of 300 training steps, 5 sampling steps")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--steps", type=int, default=10, help="of the sampler (default: %(default)s)")
    add("--batch", type=int, default=200, help="images in a rollout (default: %(default)s)")
    add("--rate", type=float, default=1e-4, help="of Adam (default: %(default)s)")
    add("--threads", type=int, default=1)
    add("--out", type=Path, default=Path("out"), help="where results go (default: %(default)s)")
    args, start = parser.parse_args(argv), time.perf_counter()
    recipe = Recipe()
    if args.quick:
        args.seeds, args.steps = args.seeds[:1], 5
        recipe = Recipe(steps=300, batch=128, warmup=30, ema=0.98, width=128, depth=2)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / ".gitignore").write_text("*\n")
    net, _ = trained(load(), recipe, args.out)
    runs = {seed: improved(net, args, seed) for seed in args.seeds}
    found = {"seconds": time.perf_counter() - start, "seeds": {}}
    for seed, (_, means, exact) in runs.items():
        one = {"reward": means, "standard errors": errors_up(means), "first ratios are 1": exact}
        found["seeds"][seed] = one
        print(f"seed {seed}: {sum(means[:5]) / 5:.2f} to {sum(means[-5:]) / 5:.2f} pixels of ink, up by "
              f"{errors_up(means):.1f} standard errors; first ratios exactly 1: {exact}")  # fmt: skip
    better, curves = runs[args.seeds[0]][0], {seed: means for seed, (_, means, _) in runs.items()}
    before, after = drawn(net, args.steps), drawn(better, args.steps)
    for name, write in (("ddpo.json", lambda p: p.write_text(json.dumps(found, indent=1) + "\n")),
                        ("ddpo.png", lambda p: picture(p, before, after, curves))):  # fmt: skip
        print("wrote", written(args.out / name, write))


if __name__ == "__main__":
    main()
