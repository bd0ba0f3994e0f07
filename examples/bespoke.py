"""A solver made for one network: its numbers fitted by gradient, against the best that were made by hand.

    python examples/bespoke.py            some minutes; --quick: a smaller network and search

Every number of a plan of 6 network calls, its coefficients and its times, is moved by the gradient of where
its runs end (fd.tune.fit; order 1 of its order conditions is kept), on starts of one seed. fd.tune.bespoke
fits a Runge-Kutta rule of its own. Measured on starts of another seed, which no search has seen: the root
mean square distance from where a run of 300 steps of order 3 ends.
Writes out/bespoke.png (digits and the error over network calls), out/bespoke.json and the plan,
out/bespoke-plan.json: fd.Sampler(denoiser, fd.Plan.load(path)) runs it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from digits import written
from digits_lab import plt, setup, strip
from torch import Tensor

import fastdiff as fd

CALLS, FINE = 6, 300
HAND = ("ddim", "dpmpp-2m", "dpmpp-3m", "unipc")  # one call a step each
MORE = {"unipc": {"order": 3}}
GRIDS = ("logsnr", "quadratic-t")
SEEDS = (1, 2)  # to fit on, and held out


def plan_of(denoiser: fd.Denoiser, key: str, grid: str, steps: int) -> fd.Plan:
    times = fd.grid(grid, denoiser.process, steps=steps, final="sigma_min")
    return fd.plan(key, denoiser.process, times, predicts="velocity", **MORE.get(key, {}))


def labels(x: Tensor) -> dict[str, Tensor]:
    return {"label": torch.arange(len(x)) % 10}


def ends(denoiser: fd.Denoiser, plan: fd.Plan, x_T: Tensor) -> Tensor:
    with torch.no_grad():
        return fd.Sampler(denoiser, plan)(x_T, cond=labels(x_T))


def errors(denoiser: fd.Denoiser, plans: dict[str, fd.Plan], x_T: Tensor, true: Tensor) -> dict[str, float]:
    """Of each plan's ends; rms over pixels, the mean over samples."""

    def off(plan: fd.Plan) -> float:
        return float((ends(denoiser, plan, x_T) - true).square().flatten(1).mean(1).sqrt().mean())

    return {name: off(plan) for name, plan in plans.items()}


def picture(
    path: Path,
    images: dict[str, Tensor],
    curves: dict[str, list[float]],
    tuned: dict[str, float],
    calls: range,
) -> None:
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3), width_ratios=(1.4, 1))
    left.imshow(strip(images), cmap="gray", vmin=-1, vmax=1)
    left.set(xticks=[], yticks=[9 * i + 4 for i in range(len(images))], yticklabels=list(images))
    left.tick_params(length=0, labelsize=8)
    left.spines[:].set_visible(False)
    for name, curve in curves.items():
        right.plot(calls, curve, label=name, lw=1)
    for name, error in tuned.items():
        right.plot(CALLS, error, "o", ms=5, label=name)
    right.set(yscale="log", xlabel="network calls", title="distance from the exact ends, held-out starts")
    right.title.set_fontsize(9)
    right.legend(frameon=False, fontsize=7)
    fig.tight_layout()
    print("wrote", written(path, lambda p: fig.savefig(p, dpi=130, format="png")))
    plt.close(fig)


def main(argv: list[str] | None = None) -> None:
    args, _, denoiser = setup(__doc__, argv)
    process, count = denoiser.process, 256 if args.quick else 512
    mine, held = (process.prior_std(process.t_max) * fd.noise.normal((count, 1, 8, 8), s) for s in SEEDS)
    hand = {f"{k}, {g}": plan_of(denoiser, k, g, CALLS) for k in HAND for g in GRIDS}
    fine = plan_of(denoiser, "dpmpp-3m", "logsnr", FINE)
    truth, true = (ends(denoiser, fine, x) for x in (mine, held))
    known = errors(denoiser, hand, mine, truth)
    best = min(known, key=known.__getitem__)
    print(f"best of {len(hand)} plans of {CALLS} calls by hand, on the starts to fit on: {best}")

    search = {"iterations": 150 if args.quick else 500, "cond": labels(mine), "fine": 6, "progress": True}
    # conditions of order 1 leave the most to fit: of each call, what it adds at every later step
    third = hand["unipc, quadratic-t"]
    tuned = {"fitted": fd.tune.fit(denoiser, third, mine, order=1, batch=48, rate=1e-2, **search)}
    if not args.quick:
        rule = {"steps": CALLS, "order": 1, "grid": "quadratic-t"}
        tuned["bespoke rule"] = fd.tune.bespoke(denoiser, mine, **rule, **search)
    tuned["fitted"].save(args.out / "bespoke-plan.json")

    calls = range(4, 17, 4) if args.quick else range(4, 21)
    curves = {
        f"{k}, {g}": [
            *errors(denoiser, {str(n): plan_of(denoiser, k, g, n) for n in calls}, held, true).values()
        ]
        for k, g in (("dpmpp-2m", "logsnr"), ("dpmpp-2m", "quadratic-t"), ("unipc", "quadratic-t"))
    }
    twelve = {f"dpmpp-2m, {g}, 12 calls": plan_of(denoiser, "dpmpp-2m", g, 12) for g in GRIDS}
    found = errors(denoiser, {**hand, **twelve, **tuned}, held, true)
    for name, error in sorted(found.items(), key=lambda kv: kv[1]):
        print(f"{error:.4f}  {name}")
    file = args.out / "bespoke.json"
    numbers = {"errors": found, "calls": {k: p.nfe for k, p in tuned.items()}, "best by hand": best}
    print("wrote", written(file, lambda p: p.write_text(json.dumps(numbers, indent=1) + "\n")))

    shown = {**twelve, f"{best}, {CALLS} calls": hand[best], f"fitted, {CALLS} calls": tuned["fitted"]}
    ten = {f"{FINE} calls": true[:10], **{k: ends(denoiser, p, held[:10]) for k, p in shown.items()}}
    picture(args.out / "bespoke.png", ten, curves, {k: found[k] for k in tuned}, calls)


if __name__ == "__main__":
    main()
