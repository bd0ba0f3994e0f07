"""A morph between two digits, by gradients to x_T: the task of AdjointDEIS' face morphs, in small.

    python examples/morph.py            (--quick: a smaller network; trains one if there is none)

1. Each of two real digits is written as a sample: x_T is found by the inverse flow and then, by
   gradient="adjoint" (continuous adjoint, order 2, memory of a few states), moved until the sample is the
   digit to less than half a grey level.
2. Between them x_T goes along the great circle. The one in the middle is moved on until a classifier, by its
   gradient through the sampler, finds both digits in it alike: least -(log p_a + log p_b) / 2.

Writes out/morph.png (rows: pairs; ends real, the middle searched) and out/morph.json.
Source: Blasingame & Liu 2024, arXiv:2405.15020.
"""

from __future__ import annotations

import json

import torch
from digits import NONE, written
from digits_lab import classifier, setup, sheet
from guided_by_gradient import sampler_of
from torch import Tensor
from torch.nn import functional as F

import fastdiff as fd

PAIRS = ((1, 7), (3, 8), (4, 9), (0, 6))
GREY = 2 / 16  # the digits have 17 grey levels on [-1, 1]
STEPS = 20


def circle(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Between a and b on a great circle, sample by sample."""
    u, v = a.flatten(1), b.flatten(1)
    angle = F.cosine_similarity(u, v).clamp(-1, 1).arccos()[:, None]
    mixed = (torch.sin((1 - share) * angle) * u + torch.sin(share * angle) * v) / torch.sin(angle)
    return mixed.view_as(a)


def moved(sampler: fd.Sampler, x_T: Tensor, loss_of: object, iterations: int, rate: float) -> Tensor:
    """x_T where the loss (of each sample) was least."""
    cond = {"label": torch.full((len(x_T),), NONE)}
    leaf, best = x_T.clone().requires_grad_(), x_T.clone()
    least = torch.full((len(x_T),), torch.inf)
    adam = torch.optim.Adam([leaf], rate)
    for _ in range(iterations):
        loss = loss_of(sampler(leaf, cond=cond, gradient="adjoint"))  # type: ignore[operator]
        adam.zero_grad()
        loss.sum().backward()
        better = loss.detach() < least
        best[better], least[better] = leaf.detach()[better], loss.detach()[better]
        adam.step()
    return best


def main(argv: list[str] | None = None) -> None:
    args, data, denoiser = setup(__doc__, argv)
    judge, sampler = classifier(data), sampler_of(denoiser, STEPS)
    pairs = PAIRS[:2] if args.quick else PAIRS
    iterations = 60 if args.quick else 150
    first = {int(d): data.held_x[int((data.held_y == d).nonzero()[0])] for d in range(10)}
    real = torch.stack([first[d] for side in (0, 1) for d in [p[side] for p in pairs]])
    labels = torch.tensor([p[side] for side in (0, 1) for p in pairs])
    cond = {"label": torch.full((len(real),), NONE)}

    def drawn(x: Tensor) -> Tensor:
        with torch.no_grad():
            return sampler(x, cond={"label": torch.full((len(x),), NONE)})

    start = fd.invert(denoiser, real, "ddim", steps=50, final="sigma_min", cond=cond)
    x_T = moved(sampler, start, lambda x: (x - real).square().flatten(1).mean(1), iterations, 0.05)
    off = [(drawn(x) - real).square().flatten(1).mean(1).sqrt() for x in (start, x_T)]
    print(f"ends: rms error {off[0].max():.3f} by inversion, {off[1].max():.3f} after {iterations} steps "
          f"(half a grey level is {GREY / 2:.4f})")  # fmt: skip

    a, b = x_T.chunk(2)
    la, lb = labels.chunk(2)

    def both(x: Tensor) -> Tensor:
        log_p = F.log_softmax(judge(x), 1)
        return -(log_p.gather(1, la[:, None]) + log_p.gather(1, lb[:, None]))[:, 0] / 2

    path = [circle(a, b, k / 8) for k in range(9)]
    half = drawn(path[4])
    path[4] = moved(sampler, path[4], both, iterations // 3, 0.05)
    frames = [drawn(x) for x in path]
    found = {
        "pairs": pairs, "error of inversion": off[0].tolist(), "error": off[1].tolist(),
        "halfway": [both(half).tolist(), both(frames[4]).tolist()],
        "plain mean": both((real[: len(pairs)] + real[len(pairs) :]) / 2).tolist(),
    }  # fmt: skip
    print("halfway, -(log p_a + log p_b) / 2 (log 2 = 0.69 is the least there is): "
          f"{both(half).mean():.2f} on the circle, {both(frames[4]).mean():.2f} found")  # fmt: skip
    file = args.out / "morph.json"
    print("wrote", written(file, lambda p: p.write_text(json.dumps(found, indent=1) + "\n")))
    rows = {f"{p} to {q}": torch.stack([f[i] for f in frames]) for i, (p, q) in enumerate(pairs)}
    sheet(args.out / "morph.png", rows)


if __name__ == "__main__":
    main()
