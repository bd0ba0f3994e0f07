"""k-diffusion's samplers against fastdiff's under the same call: time per step, the network's output ready.

    python bench/kdiffusion.py

Whole calls, divided by their steps: ours with what it does at the door. One thread, rounds interleaved,
medians. "Brownian" is noise_sampler=None of the SDE samplers: a path on either side.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from brownian import kdiffusion

from fastdiff.integrations import kdiffusion as K

QUICK = {"rounds": 1, "steps": 5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmpp_2m_sde, Brownian": ("sample_dpmpp_2m_sde", {}),
    "dpmpp_2m_sde, one seed for each sample": ("sample_dpmpp_2m_sde", {"each": True}),
    "dpmpp_2m_sde, noise given": ("sample_dpmpp_2m_sde", {"given": True}),
    "dpmpp_3m_sde, Brownian": ("sample_dpmpp_3m_sde", {}),
    "dpmpp_sde, Brownian": ("sample_dpmpp_sde", {}),
    "euler_ancestral, noise given": ("sample_euler_ancestral", {"given": True}),
    "euler": ("sample_euler", {}),
    "lms": ("sample_lms", {}),
    "dpmpp_2m": ("sample_dpmpp_2m", {}),
}


def run(shape: tuple[int, ...] = (16, 4, 64, 64), steps: int = 20, rounds: int = 7) -> list[dict[str, Any]]:
    theirs = kdiffusion()
    if theirs is not None:
        theirs.utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, m, xi = (torch.randn(shape) for _ in range(3))
        sigmas = K.get_sigmas_karras(steps, 0.0291675, 14.614642)

        def once(f: Callable[..., Any], options: dict[str, Any]) -> float:
            start = time.perf_counter()
            f(lambda x, s: m, x * 14.6, sigmas, disable=True, **options)
            return (time.perf_counter() - start) / steps

        rows = []
        for case, (name, options) in CASES.items():
            noise: dict[str, Any] = {"noise_sampler": lambda s, t: xi} if options.get("given") else {}
            work: dict[str, Callable[[], float]] = {"ours": lambda n=name, o=noise: once(getattr(K, n), o)}
            if theirs is not None:
                work["theirs"] = lambda n=name, o=noise: once(getattr(theirs, n), o)
            if theirs is not None and options.get("each"):

                def each(n: str = name) -> float:
                    ends, seeds = (sigmas[-2], sigmas[0]), list(range(shape[0]))
                    path = theirs.BrownianTreeNoiseSampler(x, *ends, seed=seeds)
                    return once(getattr(theirs, n), {"noise_sampler": path})

                work["theirs"] = each
            seen: dict[str, list[float]] = {side: [] for side in work}
            for f in work.values():  # plans and tables are made
                f()
            for _ in range(rounds):
                for side, f in work.items():
                    seen[side].append(f())
            t = {side: statistics.median(v) for side, v in seen.items()}
            row = {"case": case, "shape": list(shape), "steps": steps, "ours_us": t["ours"] * 1e6}
            rows.append(
                row | ({"peer_us": t["theirs"] * 1e6, "ratio": t["theirs"] / t["ours"]} if theirs else {})
            )
    finally:
        torch.set_num_threads(threads)
    return rows


if __name__ == "__main__":
    for row in run():
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
