"""Digits in one call: the demo's network distilled into a consistency function.

    python examples/one_call.py        some minutes; --quick: one, smaller networks

The student starts as the teacher and learns that neighbouring points of one of the teacher's paths belong to
one image (Heun's steps lead from the one to the other). Printed: squared Frechet distance to the held-out
digits of the teacher at many calls and at one, and of the student at one and two; the demo's yardstick.
Writes out/one_call.png, teacher and student from the same noise, and out/one_call.json.

Source: Song et al. 2023, arXiv:2303.01469; Song & Dhariwal 2023, arXiv:2310.14189.
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
from digits import PROCESS, Recipe, bar_options, draw, trained, written
from digits_data import Digits, Yardstick, load
from digits_report import tile
from torch import Tensor, nn
from tqdm import tqdm

import fastdiff as fd

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend first: there may be no screen

TEACHER_CALLS = 20
STUDENT = {"predicts": "velocity", "time": "lambda"}
HOW = {"solver": "heun", "grid": "uniform-t", "rho": "l2", "weighting": "snr+1", "law": "uniform"}
SECOND = 0.6  # the time of the student's second call


def distilled(net: nn.Module, data: Digits, steps: int, args: argparse.Namespace) -> nn.Module:
    """The moving average of the student."""
    teacher = fd.Denoiser(net, PROCESS, predicts="velocity", time="lambda")
    loss_fn = fd.distill.Consistency(PROCESS, args.intervals, teacher=teacher, substeps=args.substeps, **HOW)
    student = fd.distill.ConsistencyModel(copy.deepcopy(net).requires_grad_(), PROCESS, **STUDENT)
    average = copy.deepcopy(student).requires_grad_(False)
    ours, theirs = list(student.parameters()), list(average.parameters())
    optimizer = torch.optim.Adam(ours, args.rate, betas=(0.9, 0.99))
    rng = torch.Generator().manual_seed(args.seed)
    bar = tqdm(range(steps), desc="distilling", unit="step", **bar_options())
    for step in bar:
        pick = torch.randint(len(data.x), (args.batch,), generator=rng)
        loss = loss_fn(student, data.x[pick], cond={"label": data.y[pick]}, seeds=step)
        optimizer.param_groups[0]["lr"] = args.rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(theirs, ours, 1 - min(0.98, (step + 1) / (step + 20)))
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    return average


@torch.no_grad()
def made(student: nn.Module, labels: Tensor, seed: int, calls: int = 1) -> Tensor:
    """One call, or two: up to the noise of SECOND again in between."""
    times = [PROCESS.t_max, SECOND, PROCESS.t_zero] if calls == 2 else [PROCESS.t_max, PROCESS.t_zero]
    denoiser = fd.Denoiser(student, PROCESS, predicts="data")
    shape = (len(labels), 1, 8, 8)
    return fd.sample(denoiser, shape, solver="lcm", times=times, seeds=seed, cond={"label": labels})


def picture(path: Path, shown: dict[str, Tensor]) -> None:
    fig, axes = plt.subplots(1, len(shown), figsize=(2.3 * len(shown), 1.5))
    for ax, (name, images) in zip(axes, shown.items(), strict=True):
        ax.imshow(tile(images), cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9)
        ax.spines[:].set_visible(False)
    fig.tight_layout(pad=0.5)
    fig.savefig(path, dpi=130, format="png")
    plt.close(fig)


def main(argv: list[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a teacher of 300 training steps, 400 of distillation")
    add("--steps", type=int, default=1000, help="of distillation (default: %(default)s)")
    add("--batch", type=int, default=256)
    add("--intervals", type=int, default=4, help="from the noise to the data (default: %(default)s)")
    add("--substeps", type=int, default=3, help="the teacher's in each of them (default: %(default)s)")
    add("--rate", type=float, default=1e-3, help="of Adam, at first (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--out", type=Path, default=Path("out"), help="where results go (default: %(default)s)")
    args, start = parser.parse_args(argv), time.perf_counter()
    recipe = Recipe(seed=args.seed)
    if args.quick:
        args.steps, args.batch, args.rate = 400, 128, 2e-3
        recipe = Recipe(steps=300, batch=128, warmup=30, ema=0.98, width=128, depth=2, seed=args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / ".gitignore").write_text("*\n")
    data = load()
    net, _ = trained(data, recipe, args.out)
    student = distilled(net, data, args.steps, args)
    images = {
        f"teacher, {TEACHER_CALLS} calls": draw(net, data.y, "dpmpp-2m", TEACHER_CALLS, args.seed),
        "teacher, 1 call": draw(net, data.y, "ddim", 1, args.seed),
        "student, 1 call": made(student, data.y, args.seed),
        "student, 2 calls": made(student, data.y, args.seed, 2),
    }
    distance = Yardstick(data)
    found = {name: distance(x) for name, x in images.items()}
    for name, value in found.items():
        print(f"{name:20} {value:8.3f}")
    one_of_each = [int((data.y == digit).nonzero()[0]) for digit in range(10)]
    shown = {name: x[one_of_each] for name, x in images.items()}
    numbers = {"distance": found, "seconds": time.perf_counter() - start}
    for name, write in (("one_call.json", lambda p: p.write_text(json.dumps(numbers, indent=1) + "\n")),
                        ("one_call.png", lambda p: picture(p, shown))):  # fmt: skip
        print("wrote", written(args.out / name, write))


if __name__ == "__main__":
    main()
