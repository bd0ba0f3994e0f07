"""Handwritten digits: train a small denoiser on real images, sample it with four solvers, measure what came out.

    ./dev demo                 (or: python examples/digits.py --help)

Writes under out/: digits.png (rows: solvers, columns: network calls), digits.json (every number of the table) and the
trained weights. A second run with the same settings reuses the weights. Same settings, same machine: same numbers.
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

import numpy as np
import torch
from digits_data import Digits, load
from digits_report import picture, table
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import fastdiff as fd

NONE = 10  # the label that means "no label": what guidance is measured against
COMPONENTS = 20
PROCESS = fd.processes.VP()


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on; its hash names their file."""

    steps: int = 3000
    batch: int = 256
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.01
    ema: float = 0.999
    unlabelled: float = 0.1  # share of training images whose label is hidden, for classifier-free guidance
    width: int = 256
    depth: int = 4
    seed: int = 0

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


class Net(nn.Module):
    """Residual MLP on 64 pixels. Noise level and label shift and scale each block. net(x, t, label) -> velocity."""

    def __init__(self, width: int, depth: int, embed: int = 64):
        super().__init__()
        self.register_buffer("freqs", torch.exp(torch.linspace(math.log(0.1), math.log(10.0), embed // 2)), persistent=False)
        self.label = nn.Embedding(NONE + 1, embed)
        self.time = nn.Sequential(nn.Linear(embed, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.into = nn.Linear(64, width)
        self.films = nn.ModuleList(nn.Linear(embed, 2 * width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(depth))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth))
        self.out = nn.Linear(width, 64)
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
    """Log signal-to-noise ratios as a cosine schedule visits them, one from each n-th of it: less scatter in the loss."""
    u = (torch.rand(1, generator=rng, dtype=torch.float64) + torch.arange(n)) / n
    lam = -torch.log(torch.tan(math.pi / 2 * (u % 1).clamp(1e-4, 1 - 1e-4)))
    return lam.clamp(float(PROCESS.lam(PROCESS.t_max)), float(PROCESS.lam(PROCESS.t_min)))


def train(data: Digits, recipe: Recipe) -> nn.Module:
    """Velocity prediction, unit weights. Noise prediction does not do here: near t = 1 its error counts 1/alpha = 150 fold."""
    torch.manual_seed(recipe.seed)
    rng = torch.Generator().manual_seed(recipe.seed)
    net = Net(recipe.width, recipe.depth)
    ema = Net(recipe.width, recipe.depth).requires_grad_(False)
    ema.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.decay)
    bar = tqdm(range(recipe.steps), desc="training", unit="step", **bar_options())
    for step in bar:
        rate = recipe.rate * min(1, (step + 1) / recipe.warmup) * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        pick = torch.randint(len(data.x), (recipe.batch,), generator=rng)
        x0, label = data.x[pick], data.y[pick]
        label = torch.where(torch.rand(recipe.batch, generator=rng) < recipe.unlabelled, NONE, label)
        lam = noise_levels(recipe.batch, rng)
        t = PROCESS.time_of(lam.numpy())
        x_t, noise = PROCESS.perturb(x0, t, seeds=step)
        alpha, sigma = (torch.as_tensor(f(t)).float().view(-1, 1, 1, 1) for f in (PROCESS.alpha, PROCESS.sigma))
        loss = F.mse_loss(net(x_t, lam.float(), label), alpha * noise - sigma * x0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        keep = min(recipe.ema, (step + 1) / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - keep)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return ema


def bar_options() -> dict:
    """A live bar on a terminal; in a log, a line now and then."""
    return {} if sys.stderr.isatty() else {"mininterval": 10, "ascii": True, "ncols": 90}


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """Write beside, then rename: whoever interrupts this leaves the old file or the new one."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def trained(data: Digits, recipe: Recipe, out: Path) -> tuple[nn.Module, float]:
    """The network with its weights, and the seconds it took; 0 when they were there."""
    path = out / f"digits-{recipe.name}.safetensors"
    net = Net(recipe.width, recipe.depth).requires_grad_(False).eval()
    seconds = 0.0
    if path.exists():
        with safe_open(path, "pt") as f:
            net.load_state_dict({k: f.get_tensor(k) for k in f.keys()})  # noqa: SIM118
        print(f"weights: {path} (from an earlier run)", flush=True)
    else:
        start = time.perf_counter()
        net.load_state_dict(train(data, recipe).state_dict())
        seconds = time.perf_counter() - start
        written(path, lambda p: save_file(net.state_dict(), p, {"recipe": json.dumps(asdict(recipe))}))
        print(f"weights: {path}", flush=True)
    return net, seconds


def steps_for(solver: str, calls: int) -> int:
    """The most steps that `calls` network calls pay for."""
    for steps in range(calls, 0, -1):
        if fd.plan(solver, PROCESS, fd.grid("logsnr", PROCESS, steps=steps), predicts="velocity").nfe <= calls:
            return steps
    raise ValueError(f"{solver} needs more than {calls} network calls")


def draw(net: nn.Module, labels: Tensor, solver: str, calls: int, seed: int, guidance: float | None = None) -> Tensor:
    """One image per label. Image i depends on (seed, i) and its label alone."""
    denoiser = fd.Denoiser(net, PROCESS, predicts="velocity", time="lambda")
    cfg = None if guidance is None else fd.guidance.CFG(guidance, uncond={"label": torch.full_like(labels, NONE)})
    return fd.sample(denoiser, (len(labels), 1, 8, 8), solver=solver, steps=steps_for(solver, calls), seeds=seed,
                     cond={"label": labels}, guidance=cfg)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of points."""
    A, B = np.cov(a.T), np.cov(b.T)
    w, V = np.linalg.eigh(A)
    root = V * np.sqrt(w.clip(0)) @ V.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ B @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A) + np.trace(B) - 2 * cross)


def accuracy(x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor) -> float:
    """Of a support vector classifier trained on (x, y), over the held-out real digits."""
    model = make_pipeline(StandardScaler(), SVC(C=10.0))
    return float(model.fit(x.flatten(1).numpy(), y.numpy()).score(held_x.flatten(1).numpy(), held_y.numpy()))


def measure(net: nn.Module, data: Digits, args: argparse.Namespace) -> tuple[dict, dict[tuple[str, int], Tensor]]:
    """All numbers, and one image of each digit for each solver and number of calls."""
    mean, axes = data.components(COMPONENTS)

    def distance(x: Tensor) -> float:
        return frechet((x.flatten(1).double().numpy() - mean) @ axes, held)

    held = (data.held_x.flatten(1).double().numpy() - mean) @ axes
    noise = fd.noise.normal(tuple(data.x.shape), args.seed)
    numbers: dict = {"training": distance(data.x), "noise": distance(noise), "solvers": {}, "accuracy": {}}
    firsts = torch.tensor([int((data.y == d).nonzero()[0]) for d in range(10)])  # the first image asked for of each digit
    shown: dict[tuple[str, int], Tensor] = {}
    seeds = range(args.seed, args.seed + args.repeats)
    with tqdm(total=args.repeats * len(args.solvers) * sum(args.calls), desc="sampling", unit="call", **bar_options()) as bar:
        for solver in args.solvers:
            for calls in args.calls:
                found = []
                for seed in seeds:
                    x = draw(net, data.y, solver, calls, seed)
                    if seed == seeds[0]:
                        shown[solver, calls] = x[firsts]
                    found.append(distance(x))
                    bar.update(calls)
                numbers["solvers"].setdefault(solver, {})[calls] = {"mean": float(np.mean(found)), "seeds": found}
    guided = draw(net, data.y, "dpmpp-2m", 20, args.seed, args.guidance)
    numbers["accuracy"]["real digits"] = accuracy(data.x, data.y, data.held_x, data.held_y)
    numbers["accuracy"][f"generated digits (dpmpp-2m, 20 steps, guidance {args.guidance:g})"] = accuracy(guided, data.y, data.held_x, data.held_y)
    return numbers, shown


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="where results go (default: out)")
    parser.add_argument("--solvers", nargs="+", default=["ddim", "dpmpp-2m", "unipc", "dpmpp-2m-sde"], help="see: python -m fastdiff solvers")
    parser.add_argument("--calls", nargs="+", type=int, default=[5, 10, 20, 50], help="network calls per sample")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps")
    parser.add_argument("--repeats", type=int, default=3, help="seeds to average over")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=1.5, help="scale for the classifier's training digits")
    parser.add_argument("--threads", type=int, default=1, help="more gain little on a net this small, and wait long beside a busy neighbour")
    args = parser.parse_args(argv)

    start = time.perf_counter()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / ".gitignore").write_text("*\n")
    data = load()
    print(f"{len(data.x)} digits to train on, {len(data.held_x)} held out", flush=True)
    net, seconds = trained(data, Recipe(steps=args.steps, seed=args.seed), args.out)
    numbers, shown = measure(net, data, args)
    numbers |= {"seconds": {"training": seconds, "all": time.perf_counter() - start}, "training digits": len(data.x),
                "held-out digits": len(data.held_x), "components": COMPONENTS, "repeats": args.repeats}
    table(numbers)
    print("wrote", written(args.out / "digits.json", lambda p: p.write_text(json.dumps(numbers, indent=1) + "\n")))
    print("wrote", written(args.out / "digits.png", lambda p: picture(p, shown, args.solvers, args.calls, data)))
    print(f"{time.perf_counter() - start:.0f} s in all")
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        print("\ninterrupted; what is under out/ is whole", file=sys.stderr)
        code = 130
    raise SystemExit(code)
