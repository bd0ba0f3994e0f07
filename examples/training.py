"""Two losses, one network: the digits demo's, trained by the plain noise loss and by min-SNR, both curves
drawn.

    python examples/training.py            some minutes; --quick: one, and too short to tell them apart

Both see the same digits, times and noise. Measured on the way, for the moving average: the part of the
likelihood's bound on held-out digits that a network answers for (bits a dimension, the same draws each time),
and the distance of drawn digits to held-out ones. At the end: bits a dimension of the held-out digits' levels
by the probability flow. Writes out/training.png and out/training.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import matplotlib
import torch
from digits import NONE, PROCESS, Net, Recipe, bar_options, written
from digits_data import Digits, Yardstick, load
from torch import Tensor, nn
from tqdm import tqdm

import fastdiff as fd
from fastdiff.likelihood import bits_per_dim, ode, truncated_normal_dequantize

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend first: there may be no screen

RANGE = {"t_min": PROCESS.t_min, "t_max": PROCESS.t_max, "time": "lambda"}
DROP = {"drop": {"label": NONE}, "p_drop": Recipe.unlabelled}
LOSSES = {
    "plain noise": fd.losses.Denoising(PROCESS, "noise", "constant", "stratified", **RANGE, **DROP),
    "min-SNR": fd.losses.Denoising(PROCESS, "noise", "min-snr", "stratified", **RANGE, **DROP),
}
LEVELS = 17  # of a pixel; training sees the middles of their cells, so that all of [-1, 1] is covered
TAU = 3.0  # alpha / (LEVELS sigma) where densities are taken: the noise hardly leaves its level's cell
BOUND = fd.losses.Denoising(PROCESS, "noise", "elbo", "uniform-lambda", **RANGE)
Curve = dict[str, list[float]]


def levels(x: Tensor) -> Tensor:
    return ((x + 1) * (LEVELS - 1) / 2).round().long()


def middles(x: Tensor) -> Tensor:
    """Levels that stood at -1 .. 1 with both ends, as the middles of LEVELS cells of [-1, 1]."""
    return x * (LEVELS - 1) / LEVELS


def exact_bits(net: nn.Module, data: Digits, probes: int | str, many: int) -> tuple[float, float]:
    """Bits a dimension of `many` held-out digits with their standard error: -log of the levels' probability
    by the density of the probability flow at points noised inside their cells, a bound in the mean over
    them."""
    t0 = float(PROCESS.time_of(math.log(TAU * LEVELS)))
    held, cond = data.held_x[:many], {"label": data.held_y[:many]}
    points, log_q = truncated_normal_dequantize(levels(held), PROCESS, t0, seeds=0, levels=LEVELS)
    denoiser = fd.Denoiser(net, PROCESS, predicts="noise", time="lambda")
    density = ode(denoiser, points, cond=cond, t_min=t0, probes=probes, seeds=0)
    bits = bits_per_dim(density.log_p - log_q, held[0].numel())
    return bits.mean().item(), bits.std().item() / math.sqrt(len(bits))


class Measure:
    """(bits a dimension of the bound's integral, squared Frechet distance) of a network."""

    def __init__(self, data: Digits, draws: int, calls: int):
        self.data, self.draws, self.calls, self.distance = data, draws, calls, Yardstick(data)

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> tuple[float, float]:
        held, cond = middles(self.data.held_x), {"label": self.data.held_y}
        nats = [float(BOUND(net, held, cond=cond, seeds=k)) for k in range(self.draws)]
        bits = (PROCESS.t_max - PROCESS.t_min) * sum(nats) / len(nats) / math.log(2)
        denoiser = fd.Denoiser(net, PROCESS, predicts="noise", time="lambda")
        shape, labels = tuple(self.data.x.shape), {"label": self.data.y}
        x = fd.sample(denoiser, shape, solver="dpmpp-2m", steps=self.calls, seeds=0, cond=labels)
        return bits, self.distance(x * LEVELS / (LEVELS - 1))


def train(name: str, data: Digits, recipe: Recipe, measure: Measure, looks: int) -> tuple[nn.Module, Curve]:
    """The moving average, and what `measure` says, `looks` times on the way."""
    torch.manual_seed(recipe.seed)
    rng = torch.Generator().manual_seed(recipe.seed)
    net, average = Net(recipe), Net(recipe).requires_grad_(False)
    average.load_state_dict(net.state_dict())
    ours, theirs = list(net.parameters()), list(average.parameters())
    optimizer = torch.optim.AdamW(ours, recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.decay)
    curve: Curve = {"step": [], "bits": [], "distance": []}
    every = max(1, recipe.steps // looks)
    for step in tqdm(range(1, recipe.steps + 1), desc=name, unit="step", **bar_options()):
        pick = torch.randint(len(data.x), (recipe.batch,), generator=rng)
        loss = LOSSES[name](net, middles(data.x[pick]), cond={"label": data.y[pick]}, seeds=step)

        optimizer.param_groups[0]["lr"] = recipe.rate_at(step - 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(theirs, ours, 1 - min(recipe.ema, step / (step + 19)))
        if step % every == 0:
            for key, value in zip(curve, (step, *measure(average)), strict=True):
                curve[key].append(value)
    return average, curve


def picture(path: Path, curves: dict[str, Curve]) -> None:
    fig, axes = plt.subplots(1, 2, figsize=(8, 3))
    titles = {"bits": "bound on held-out digits, bits a dimension", "distance": "distance of drawn digits"}
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        for name, curve in curves.items():
            ax.plot(curve["step"], curve[key], label=name)
        ax.set(xlabel="training step", title=title, yscale="log" if key == "distance" else "linear")
        ax.title.set_fontsize(9)
        ax.legend(frameon=False)
    fig.tight_layout()
    fig.savefig(path, dpi=130, format="png")
    plt.close(fig)


def main(argv: list[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--quick", action="store_true", help="60 steps of smaller batches")
    parser.add_argument("--steps", type=int, default=3000, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="where results go (default: %(default)s)"
    )
    args, start = parser.parse_args(argv), time.perf_counter()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / ".gitignore").write_text("*\n")
    data = load()
    recipe = Recipe(steps=args.steps, seed=args.seed)
    if args.quick:
        recipe = Recipe(steps=60, batch=64, warmup=10, seed=args.seed)
    measure = Measure(data, draws=2 if args.quick else 20, calls=20)
    looks, probes, many = (3, 1, 50) if args.quick else (15, 8, 450)
    runs = {name: train(name, data, recipe, measure, looks) for name in LOSSES}
    curves = {name: curve for name, (_, curve) in runs.items()}
    exact = {name: exact_bits(net, data, probes, many) for name, (net, _) in runs.items()}
    for name, curve in curves.items():
        (bits, error), distance = exact[name], curve["distance"][-1]
        print(f"{name:12}  {bits:.3f} +- {error:.3f} bits a dimension, distance {distance:.3f}")
    found = {"curves": curves, "bits": exact, "seconds": time.perf_counter() - start}
    print(
        "wrote",
        written(args.out / "training.json", lambda p: p.write_text(json.dumps(found, indent=1) + "\n")),
    )
    print("wrote", written(args.out / "training.png", lambda p: picture(p, curves)))


if __name__ == "__main__":
    main()
