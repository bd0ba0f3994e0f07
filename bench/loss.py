"""A training loss from noise to d loss / d prediction: perturb and regression_loss against the usual eager
code.

    python bench/loss.py [--large] [--compile]

One thread, interleaved, medians (and least) of many rounds; the network's output is given. `floor`: tensors
that must be read or written once each, over what a copy moves in the same run, and a made normal at what
`fill` takes. The ratios hold on other machines, absolute figures do not. --large: 16.8 M elements. --compile:
torch.compile of the eager code too, which needs a C++ compiler and its time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from kernels import interleaved
from torch import Tensor

from fastdiff import _C
from fastdiff.noise import resolve
from fastdiff.ops import dots, gaussian_kl, perturb, regression_loss

SHAPES = {"tiny": (1, 4, 8, 8), "A": (16, 4, 64, 64), "large": (8, 16, 128, 1024)}
TENSORS = 6  # x0 -> x_t, xi; xi, prediction -> slope
least: Callable[[list[float]], float] = min


def eager(x0: Tensor, a: Tensor, s: Tensor, w: Tensor, net: Tensor) -> Tensor:
    """As it is usually written: gathered coefficients, randn_like, a weighted mean square."""
    noise = torch.randn_like(x0)
    wide = [c.view(-1, *[1] * (x0.dim() - 1)) for c in (a, s, w)]
    x_t = wide[0] * x0 + wide[1] * noise
    return (wide[2] * (net - noise) ** 2).mean() + 0 * x_t.flatten()[0]


def noise_to_gradient(name: str, compiled: bool, rounds: int) -> dict[str, float]:
    shape = SHAPES[name]
    B, n = shape[0], torch.Size(shape).numel()
    x0, net = torch.randn(shape), torch.randn(shape, requires_grad=True)
    a, s, w = torch.rand(3, B)
    rng, share = resolve(0, B), w / B

    def ours() -> Tensor:
        _, xi = perturb(x0, a, s, rng, noise=True)
        return torch.autograd.grad(regression_loss(net, q=1.0, noise=xi, w=share).sum(), net)[0]

    def made_again() -> Tensor:
        perturb(x0, a, s, rng)
        return torch.autograd.grad(regression_loss(net, q=1.0, rng=rng, w=share).sum(), net)[0]

    z, to = torch.empty(1, min(n, 262_144)), torch.empty_like(x0)
    work = {
        "ours": ours,
        "noise made twice": made_again,
        "eager": lambda: torch.autograd.grad(eager(x0, a, s, w, net), net)[0],
        "copy": lambda: to.copy_(x0),
        "normals": lambda: _C.fill_(z, rng[:1], 0, 0, "normal"),
    }
    if compiled:
        fast = torch.compile(eager)
        work["compiled"] = lambda: torch.autograd.grad(fast(x0, a, s, w, net), net)[0]
    t = interleaved(work, rounds, least)
    floor = TENSORS / 2 * t["copy"] + t["normals"] * n / z.numel()
    found = {k: t[k] * 1e6 for k in work if k not in ("copy", "normals")} | {"floor": floor * 1e6}
    found["ratio"] = t["eager"] / t["ours"]
    if compiled:
        found["ratio to compiled"] = t["compiled"] / t["ours"]
    return found


def kernels_against_torch(rounds: int) -> dict[str, dict[str, float]]:
    """At A: what each op takes, and torch's own way to the same number."""
    x, y, v = (torch.randn(SHAPES["A"]) for _ in range(3))
    B, rng = x.shape[0], resolve(0, x.shape[0])
    x0 = torch.randint(0, 256, SHAPES["A"]) / 127.5 - 1
    bins = torch.ones(B, dtype=torch.bool)

    def nats(bin: Tensor | None) -> Tensor:
        return gaussian_kl(x, x0, y, by_xt=0.1, by_x0=1.0, by_pred=-0.5, low=-6.0, high=-4.0, var=v, bin=bin)

    def eager_kl() -> Tensor:
        log_var, d = -5.0 + v, 0.1 * y + x0 - 0.5 * x
        return 0.5 * (2 + log_var + (-3 - log_var).exp() + d * d * (-log_var).exp()).flatten(1).sum(1)

    def eager_bins() -> Tensor:
        i, d = (0.5 * (5.0 - v)).exp(), 0.1 * y + x0 - 0.5 * x
        upper, lower = torch.special.log_ndtr((d + 1 / 255) * i), torch.special.log_ndtr((d - 1 / 255) * i)
        inner = upper + torch.log1p(-(lower - upper).exp())
        return torch.where(x0 < -0.999, upper, torch.where(x0 > 0.999, -lower, inner)).flatten(1).sum(1)

    def eager_dots() -> Tensor:
        rows = [(x, x), (x, y), (y, y)]
        return torch.stack([(a * b).flatten(1).sum(1) for a, b in rows], 1)

    pairs = {
        "regression_loss": (
            lambda: regression_loss(x, q=1.0, noise=y),
            lambda: (x - y).square().flatten(1).mean(1),
        ),
        "dots, 3 pairs": (lambda: dots([x, y], [(0, 0), (0, 1), (1, 1)]), eager_dots),
        "dots with noise": (
            lambda: dots([x], [(0, 2)], rng=rng, draws=[0], streams=[4]),
            lambda: (x * torch.randn_like(x)).flatten(1).sum(1),
        ),
        "gaussian_kl": (lambda: nats(None), eager_kl),
        "gaussian_kl, bins": (lambda: nats(bins), eager_bins),
    }
    found = {}
    for name, (ours, theirs) in pairs.items():
        t = interleaved({"ours": ours, "torch": theirs}, rounds, least)
        found[name] = {k: s * 1e6 for k, s in t.items()} | {"ratio": t["torch"] / t["ours"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, rounds in (("tiny", 1000), ("A", 200), *((("large", 5),) if args.large else ())):
        row = noise_to_gradient(name, args.compile, rounds)
        print(f"{name:8}" + "".join(f"  {k} {v:.4g}" for k, v in row.items()))
    for name, row in kernels_against_torch(50).items():
        print(f"{name:20}" + "".join(f"  {k} {v:.4g}" for k, v in row.items()))


if __name__ == "__main__":
    main()
