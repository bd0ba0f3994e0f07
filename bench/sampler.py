"""Samplers against diffusers' schedulers: time per step, the network's output ready made, one thread.

Both sides see the same shapes and dtypes and the same constant network output; ours runs the whole sampler
and divides by its steps, the peer's loop calls `.step()`. Rounds are interleaved, the medians compared.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

import fastdiff as fd

CASES = {  # ours -> (solver, options), the peer's class and its options
    "dpmpp-2m": (("dpmpp-2m", {}), "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "unipc-2": (("unipc", {"order": 2}), "UniPCMultistepScheduler", {"solver_order": 2}),
    "dpmpp-2m-sde": (
        ("dpmpp-2m-sde", {}),
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
    ),
    "ddim": (("ddim", {}), "DDIMScheduler", {"clip_sample": False}),
    "euler": (("euler", {}), "EulerDiscreteScheduler", {}),
    "heun": (("heun", {}), "HeunDiscreteScheduler", {}),
}


def ours(solver: str, options: dict, x: torch.Tensor, m: torch.Tensor, steps: int) -> Callable[[], float]:
    process = fd.processes.VP()
    times = fd.grid("logsnr", process, steps=steps, final="sigma_min")
    plan = fd.plan(solver, process, times, predicts="noise", **options)
    sampler = fd.Sampler(fd.Denoiser(lambda x, t: m, process, predicts="noise"), plan)

    def once() -> float:
        start = time.perf_counter()
        sampler(x, seeds=0)
        return (time.perf_counter() - start) / plan.nfe

    return once


def peer(
    name: str, options: dict, x: torch.Tensor, m: torch.Tensor, steps: int
) -> Callable[[], float] | None:
    try:
        import diffusers.schedulers as schedulers
    except ImportError:
        return None
    scheduler = getattr(schedulers, name)(**options)

    def once() -> float:
        scheduler.set_timesteps(steps)
        y, spent = x, 0.0
        for t in scheduler.timesteps:
            scheduler.scale_model_input(y, t)  # the peer's state machine wants it; not timed
            start = time.perf_counter()
            y = scheduler.step(m, t, y).prev_sample
            spent += time.perf_counter() - start
        return spent / len(scheduler.timesteps)

    return once


def copying(x: torch.Tensor, tensors: float, steps: int) -> Callable[[], float]:
    """Moving as many bytes as the step must, by torch.copy_ over as large a working set."""
    pairs = [(torch.empty_like(x), torch.empty_like(x)) for _ in range(max(1, round(tensors / 2)))]

    def once() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            for a, b in pairs:
                a.copy_(b)
        return (time.perf_counter() - start) / steps * tensors / (2 * len(pairs))

    return once


def measure(fns: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    seen: dict[str, list[float]] = {k: [] for k in fns}
    for f in fns.values():
        f()
    for _ in range(rounds):
        for k, f in fns.items():
            seen[k].append(f())
    return {k: statistics.median(v) for k, v in seen.items()}


def run(
    shape: tuple[int, ...] = (16, 4, 64, 64),
    steps: int = 20,
    rounds: int = 15,
    cases: Sequence[str] = tuple(CASES),
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
) -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        for dtype in dtypes:
            torch.manual_seed(0)
            x, m = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
            for name in cases:
                (solver, options), theirs, their_options = CASES[name]
                plan = fd.plan(
                    solver,
                    fd.processes.VP(),
                    fd.grid("logsnr", fd.processes.VP(), steps=steps, final="sigma_min"),
                    **options,
                )
                tensors = plan.traffic(1)
                fns = {"ours": ours(solver, options, x, m, steps), "copy": copying(x, tensors, steps)}
                other = peer(theirs, their_options, x, m, steps)
                if other is not None:
                    fns["peer"] = other
                t = measure(fns, rounds)
                row = {
                    "case": name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "shape": list(shape),
                    "ours_us": t["ours"] * 1e6,
                    "copy_us": t["copy"] * 1e6,
                    "of_copy_bandwidth": t["copy"] / t["ours"],
                }
                if "peer" in t:
                    row |= {
                        "peer": f"diffusers {theirs}",
                        "peer_us": t["peer"] * 1e6,
                        "ratio": t["peer"] / t["ours"],
                    }
                rows.append(row)
    finally:
        torch.set_num_threads(threads)
    return rows


def large() -> list[dict]:
    """64 M elements: far beyond every cache, where fresh allocations dominate the peer's step."""
    return run((64, 16, 256, 256), steps=20, rounds=1, cases=("dpmpp-2m",), dtypes=(torch.float32,))


def host(steps: int = 20, rounds: int = 200) -> list[dict]:
    """Time per step on a tiny tensor: what the loop itself costs."""
    x = torch.randn(1, 4, 8, 8)
    m = torch.randn_like(x)
    rows = []
    for name, ((solver, options), _, _) in CASES.items():
        t = measure({"ours": ours(solver, options, x, m, steps)}, rounds)
        rows.append(
            {"case": f"host {name}", "shape": list(x.shape), "dtype": "float32", "ours_us": t["ours"] * 1e6}
        )
    return rows


if __name__ == "__main__":
    for row in [*run(), *host(), *(large() if "--large" in sys.argv else [])]:
        print(
            "  ".join(
                f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "shape"
            )
        )
