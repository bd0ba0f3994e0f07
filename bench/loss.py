"""A training loss from noise to d loss / d prediction against the usual eager code, and the ops it is made
of.

The network's output is given on both sides. Floor: x0 in, x_t and xi out; xi and the prediction in, the slope
out; and one normal an element.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastdiff.noise import resolve
from fastdiff.ops import dots, gaussian_kl, perturb, regression_loss

from ._case import Case, Goal, Scale, Work

SHAPES = {"tiny": (1, 4, 8, 8), "A": (16, 4, 64, 64), "16.8 M": (8, 16, 128, 1024)}
LARGE = {"64 K": (16, 4, 32, 32), "1 M": (16, 16, 64, 64), "256 M": (64, 64, 256, 256)}
GOALS = {"A": 4.5, "16.8 M": 15.0}


def eager(x0: Tensor, a: Tensor, s: Tensor, w: Tensor, t: Tensor, net: Tensor) -> Tensor:
    """As it is usually written: gathers from the schedule's tables, randn_like, a weighted mean square."""
    noise = torch.randn_like(x0)
    a, s, w = (c[t].view(-1, *[1] * (x0.dim() - 1)) for c in (a, s, w))
    x_t = a * x0 + s * noise
    loss = (w * torch.nn.functional.mse_loss(net, noise, reduction="none")).mean()
    return loss + 0 * x_t.flatten()[0]


def training(name: str, scale: Scale) -> Case:
    shape = {**SHAPES, **LARGE}[name]
    B, device = shape[0], scale.device
    x0, net = torch.randn(shape, device=device), torch.randn(shape, device=device, requires_grad=True)
    tables, t = torch.rand(3, 1000, device=device), torch.randint(1000, (B,), device=device)
    rng, stored = resolve(0, B, x0.device), not scale.gpu  # a CPU reads its noise back, a GPU makes it again

    def ours() -> Tensor:
        a, s, w = tables.index_select(1, t).unbind()
        made = perturb(x0, a, s, rng, noise=stored)
        noise = {"noise": made[1]} if stored else {"rng": rng}
        return torch.autograd.grad(regression_loss(net, q=1.0, w=w, batch="mean", **noise), net)[0]

    peers: dict[str, Work | None] = {
        "torch": lambda: torch.autograd.grad(eager(x0, *tables, t, net), net)[0],
    }
    if scale.gpu:
        fast = torch.compile(eager)
        peers["torch.compile"] = lambda: torch.autograd.grad(fast(x0, *tables, t, net), net)[0]
    n = x0.numel()
    return Case(
        f"noise to gradient, {name}",
        ours,
        peers,
        bytes=4.0 * n * (6 if stored else 4),
        normals=n * (1 if stored else 2),
        shape=shape,
        dtype=x0.dtype,
        goals=(Goal(least=GOALS[name], peer="torch"),) if name in GOALS and not scale.gpu else (),
    )


def ops(scale: Scale) -> Iterator[Case]:
    """Each op and torch's own way to the same number."""
    shape = SHAPES["A"]
    x, y, v = (torch.randn(shape, device=scale.device) for _ in range(3))
    B, rng = shape[0], resolve(0, shape[0], x.device)
    x0 = torch.randint(0, 256, shape, device=scale.device) / 127.5 - 1
    every = torch.ones(B, dtype=torch.bool, device=scale.device)

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
        return torch.stack([(a * b).flatten(1).sum(1) for a, b in ((x, x), (x, y), (y, y))], 1)

    def noisy_dots() -> Tensor:
        return dots([x], [(0, 2)], rng=rng, draws=[0], streams=[4])

    pairs: dict[str, tuple[Work, Work, int, int]] = {  # ours, torch's, tensors read, normals
        "regression_loss": (
            lambda: regression_loss(x, q=1.0, noise=y),
            lambda: (x - y).square().flatten(1).mean(1),
            2,
            0,
        ),
        "dots, 3 pairs": (lambda: dots([x, y], [(0, 0), (0, 1), (1, 1)]), eager_dots, 2, 0),
        "dots with noise": (noisy_dots, lambda: (x * torch.randn_like(x)).flatten(1).sum(1), 1, 1),
        "gaussian_kl": (lambda: nats(None), eager_kl, 4, 0),
        "gaussian_kl, bins": (lambda: nats(every), eager_bins, 4, 0),
    }
    n = x.numel()
    for name, (ours, theirs, tensors, normals) in pairs.items():
        size = 4.0 * n * tensors
        yield Case(name, ours, {"torch": theirs}, bytes=size, normals=n * normals, shape=shape, dtype=x.dtype)


def cases(scale: Scale) -> Iterator[Case]:
    for name in ("tiny", "A") if scale.quick else SHAPES:
        yield training(name, scale)
    for name in LARGE if scale.gpu else ():
        yield training(name, scale)
    yield from ops(scale)
