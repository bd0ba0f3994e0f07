"""Handwritten digits: train a small denoiser on real images, sample it with four solvers, measure.

    ./dev demo                 (or: python examples/digits.py --help)

Writes under out/: digits.png (rows: solvers, columns: network calls), digits.json (every number of the
table) and the trained weights. A second run with the same settings reuses the weights.
Same settings, same machine: same numbers.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from digits_data import Digits, Yardstick, load, reading
from digits_report import picture, table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import fastdiff as fd

PROCESS = fd.processes.VP()
NONE = 10  # the label that says nothing: what guidance is measured against
Shown = dict[tuple[str, int], Tensor]


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on; its hash names their file."""

    steps: int = 3000
    batch: int = 256
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.01
    ema: float = 0.999
    unlabelled: float = 0.1  # share of training images without their label, for classifier-free guidance
    width: int = 256
    depth: int = 4
    seed: int = 0

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]

    def rate_at(self, step: int) -> float:
        return self.rate * min(1, (step + 1) / self.warmup) * (1 + math.cos(math.pi * step / self.steps)) / 2


class Net(nn.Module):
    """net(x, t, label) -> velocity. A residual MLP on 64 pixels; t and label shift and scale each block."""

    def __init__(self, recipe: Recipe, embed: int = 64):
        super().__init__()
        n, blocks = recipe.width, range(recipe.depth)
        freqs = torch.logspace(-1, 1, embed // 2)  # t is log(alpha / sigma), about -5 to 5
        self.register_buffer("freqs", freqs, persistent=False)
        self.label = nn.Embedding(NONE + 1, embed)
        self.time = nn.Sequential(nn.Linear(embed, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.into, self.out = nn.Linear(64, n), nn.Linear(n, 64)
        self.films = nn.ModuleList(nn.Linear(embed, 2 * n) for _ in blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(n, elementwise_affine=False) for _ in blocks)
        layers = ((nn.Linear(n, n), nn.SiLU(), nn.Linear(n, n)) for _ in blocks)
        self.blocks = nn.ModuleList(nn.Sequential(*three) for three in layers)
        for layer in (self.out, *(block[2] for block in self.blocks)):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        angle = t[:, None] * self.freqs
        e = F.silu(self.time(torch.cat([angle.sin(), angle.cos()], 1)) + self.label(label))
        h = self.into(x.flatten(1))
        for film, norm, block in zip(self.films, self.norms, self.blocks, strict=True):
            scale, shift = film(e).chunk(2, 1)
            h = h + block(norm(h) * (1 + scale) + shift)
        return self.out(F.silu(h)).view_as(x)


def noise_levels(n: int, rng: torch.Generator) -> Tensor:
    """log(alpha / sigma) spread as by a cosine schedule, one from each n-th of it: the loss scatters less."""
    u = (torch.rand(1, generator=rng, dtype=torch.float64) + torch.arange(n)) / n
    lam = -torch.log(torch.tan(math.pi / 2 * (u % 1).clamp(1e-4, 1 - 1e-4)))
    return lam.clamp(float(PROCESS.lam(PROCESS.t_max)), float(PROCESS.lam(PROCESS.t_min)))


def train(data: Digits, recipe: Recipe) -> nn.Module:
    """The moving average of a network trained to predict the velocity, all noise levels weighted alike.

    Trained on the noise it was as good at 10 calls and more, but 40 times further off at 5: at t = 1 an
    error in the noise is one 150 times as large (1 / alpha) in the image.
    """
    torch.manual_seed(recipe.seed)
    rng = torch.Generator().manual_seed(recipe.seed)
    net, average = Net(recipe), Net(recipe).requires_grad_(False)
    average.load_state_dict(net.state_dict())
    ours, theirs = list(net.parameters()), list(average.parameters())
    optimizer = torch.optim.AdamW(ours, recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.decay)
    bar = tqdm(range(recipe.steps), desc="training", unit="step", **bar_options())
    for step in bar:
        pick = torch.randint(len(data.x), (recipe.batch,), generator=rng)
        hide = torch.rand(recipe.batch, generator=rng) < recipe.unlabelled
        x0, label = data.x[pick], torch.where(hide, NONE, data.y[pick])

        lam = noise_levels(recipe.batch, rng)
        t = PROCESS.time_of(lam.numpy())
        x_t, noise = PROCESS.perturb(x0, t, seeds=step)
        alpha, sigma = (torch.tensor(f(t)).float().view(-1, 1, 1, 1) for f in (PROCESS.alpha, PROCESS.sigma))
        loss = F.mse_loss(net(x_t, lam.float(), label), alpha * noise - sigma * x0)

        optimizer.param_groups[0]["lr"] = recipe.rate_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(theirs, ours, 1 - min(recipe.ema, (step + 1) / (step + 20)))
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return average


def trained(data: Digits, recipe: Recipe, out: Path) -> tuple[nn.Module, float]:
    """The network, and the seconds its training took: 0 when an earlier run left the weights."""
    path, seconds = out / f"digits-{recipe.name}.safetensors", 0.0
    if not path.exists():
        start = time.perf_counter()
        weights = train(data, recipe).state_dict()
        seconds = time.perf_counter() - start
        written(path, lambda p: save_file(weights, p, {"recipe": json.dumps(asdict(recipe))}))
    print(f"weights: {path}{'' if seconds else ' (from an earlier run)'}", flush=True)
    net = Net(recipe).requires_grad_(False).eval()
    net.load_state_dict(load_file(path))
    return net, seconds


def steps_for(solver: str, calls: int) -> int:
    """The most steps that `calls` network calls pay for."""
    for steps in range(calls, 0, -1):
        times = fd.grid("logsnr", PROCESS, steps=steps)
        if fd.plan(solver, PROCESS, times, predicts="velocity").nfe <= calls:
            return steps
    raise ValueError(f"{solver} needs more than {calls} network calls")


def draw(net: nn.Module, labels: Tensor, solver: str, calls: int, seed: int, scale: float = 1) -> Tensor:
    """An image for each label. Image i depends on (seed, i) and its label alone. scale: of the guidance."""
    denoiser = fd.Denoiser(net, PROCESS, predicts="velocity", time="lambda")
    no_label = {"label": torch.full_like(labels, NONE)}
    guidance = fd.guidance.CFG(scale, uncond=no_label) if scale != 1 else None
    return fd.sample(denoiser, (len(labels), 1, 8, 8), solver=solver, steps=steps_for(solver, calls),
                     seeds=seed, cond={"label": labels}, guidance=guidance)


def measure(net: nn.Module, data: Digits, args: argparse.Namespace) -> tuple[dict, Shown]:
    """Every number, and an image of each digit for each (solver, calls). Draws as many as it trained on."""
    distance = Yardstick(data)
    one_of_each = [int((data.y == digit).nonzero()[0]) for digit in range(10)]
    seeds = range(args.seed, args.seed + args.repeats)
    found: dict[str, dict[int, list[float]]] = {solver: {} for solver in args.solvers}
    shown: Shown = {}
    total = len(seeds) * len(args.solvers) * sum(args.calls)
    with tqdm(total=total, desc="sampling", unit="call", **bar_options()) as bar:
        for solver in args.solvers:
            for calls in args.calls:
                for seed in seeds:
                    x = draw(net, data.y, solver, calls, seed)
                    shown.setdefault((solver, calls), x[one_of_each])
                    found[solver].setdefault(calls, []).append(distance(x))
                    bar.update(calls)
    guided = draw(net, data.y, "dpmpp-2m", 20, args.seed, args.guidance)
    noise = fd.noise.normal(tuple(data.x.shape), args.seed)
    return {
        "distance": {"training digits": distance(data.x), "noise": distance(noise), "solvers": found},
        "accuracy": {
            "real digits": reading(data.x, data),
            f"generated digits (dpmpp-2m, 20 steps, guidance {args.guidance:g})": reading(guided, data),
        },
        "digits": {"training": len(data.x), "held out": len(data.held_x)},
        "components": distance.components,
    }, shown


def bar_options() -> dict:
    """A live bar on a terminal; in a log, a line now and then."""
    return {} if sys.stderr.isatty() else {"mininterval": 10, "ascii": True, "ncols": 90}


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """Write beside, then rename: an interruption leaves the old file or the new one, whole."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def options(argv: list[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add, four = parser.add_argument, ["ddim", "dpmpp-2m", "unipc", "dpmpp-2m-sde"]
    add("--solvers", nargs="+", default=four, metavar="KEY", help="see: python -m fastdiff solvers")
    add("--calls", nargs="+", type=int, default=[5, 10, 20, 50], metavar="N", help="network calls per image")
    add("--steps", type=int, default=Recipe.steps, help="training steps (default: %(default)s)")
    add("--repeats", type=int, default=3, help="seeds to average over (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--guidance", type=float, default=1.5, help="scale for the digits that a classifier learns from")
    add("--threads", type=int, default=1, help="a net this small gains little from more, and waits for them")
    add("--out", type=Path, default=Path("out"), help="where results go (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args, start = options(argv), time.perf_counter()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / ".gitignore").write_text("*\n")
    data = load()
    print(f"{len(data.x)} real digits to train on, {len(data.held_x)} held out", flush=True)
    net, seconds = trained(data, Recipe(steps=args.steps, seed=args.seed), args.out)
    numbers, shown = measure(net, data, args)
    numbers["seconds"] = {"training": seconds, "all": time.perf_counter() - start}
    table(numbers)
    for name, write in (("digits.json", lambda p: p.write_text(json.dumps(numbers, indent=1) + "\n")),
                        ("digits.png", lambda p: picture(p, shown, data))):
        print("wrote", written(args.out / name, write))
    print(f"{time.perf_counter() - start:.0f} s in all, {seconds:.0f} s of them training")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted: what is under out/ is whole") from None
