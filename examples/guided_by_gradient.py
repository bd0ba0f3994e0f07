"""Guided generation by the gradient of a classifier through the whole sampler.

    python examples/guided_by_gradient.py            (--quick: a smaller network; trains one if there is none)

The network is asked for digits of no label; only x_T is free. Adam moves x_T up the classifier's
log-probability of the digit that each sample is to be, through all calls of the network:

    x_T <- argmax  log p(target | sample(x_T)) - |x_T - start|^2 / (2 spread^2)

The classifier sees finished samples alone, so it needs no training on noise. gradient="checkpoint": the exact
gradient, of one network call's memory. A second classifier, which the search never asks, says how it went.
Writes out/guided_by_gradient.png and .json.
"""

from __future__ import annotations

import json

import torch
from digits import NONE, written
from digits_lab import classifier, setup, sheet
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

import fastdiff as fd

STEPS, SPREAD, RATE = 10, 3.0, 0.1
SEED = 7


def sampler_of(denoiser: fd.Denoiser, steps: int = STEPS) -> fd.Sampler:
    times = fd.grid("logsnr", denoiser.process, steps=steps)
    return fd.Sampler(denoiser, fd.plan("dpmpp-2m", denoiser.process, times, predicts="velocity"))


def guided(
    sampler: fd.Sampler, judge: torch.nn.Module, start: Tensor, target: Tensor, iterations: int
) -> tuple[Tensor, list[Tensor]]:
    """The x_T found, and the log-probabilities of the targets on the way."""
    cond = {"label": torch.full_like(target, NONE)}
    x_T, seen = start.clone().requires_grad_(), []
    adam = torch.optim.Adam([x_T], RATE)
    for _ in range(iterations):
        x = sampler(x_T, cond=cond, gradient="checkpoint")
        log_p = F.log_softmax(judge(x), 1).gather(1, target[:, None])[:, 0]
        away = (x_T - start).square().flatten(1).sum(1) / (2 * SPREAD**2)
        adam.zero_grad()
        (away - log_p).sum().backward()
        adam.step()
        seen.append(log_p.detach())
    return x_T.detach(), seen


def main(argv: list[str] | None = None) -> None:
    args, data, denoiser = setup(__doc__, argv)
    judge = classifier(data)
    other = LogisticRegression(max_iter=2000).fit(data.x.flatten(1).numpy(), data.y.numpy())
    sampler, target = sampler_of(denoiser), torch.arange(10).repeat(1 if args.quick else 2)
    start = fd.noise.normal((len(target), 1, 8, 8), SEED)
    x_T, seen = guided(sampler, judge, start, target, 15 if args.quick else 40)

    def drawn(x: Tensor) -> Tensor:
        with torch.no_grad():
            return sampler(x, cond={"label": torch.full_like(target, NONE)})

    before, after = drawn(start), drawn(x_T)

    def sure(x: Tensor) -> tuple[Tensor, Tensor]:
        theirs = torch.tensor(other.predict_proba(x.flatten(1).numpy()))
        return tuple(p.gather(1, target[:, None])[:, 0] for p in (judge(x).softmax(1), theirs))

    found = {"asked": [p.tolist() for p in (sure(before)[0], sure(after)[0])],
             "not asked": [p.tolist() for p in (sure(before)[1], sure(after)[1])],
             "log p": [float(v.mean()) for v in seen]}  # fmt: skip
    for who in ("asked", "not asked"):
        b, a = (torch.tensor(v) for v in found[who])
        print(f"probability of the wanted digit, by the classifier {who}: {b.mean():.3f} -> {a.mean():.3f}, "
              f"least {b.min():.3f} -> {a.min():.3f}")  # fmt: skip
    file = args.out / "guided_by_gradient.json"
    print("wrote", written(file, lambda p: p.write_text(json.dumps(found, indent=1) + "\n")))
    ten = slice(0, 10)
    rows = {"from x_T as drawn": before[ten], "from x_T as found": after[ten]}
    sheet(args.out / "guided_by_gradient.png", rows, "wanted: 0 1 2 3 4 5 6 7 8 9")


if __name__ == "__main__":
    main()
