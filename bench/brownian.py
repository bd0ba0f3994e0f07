"""Brownian increments of a sampling run against torchsde and k-diffusion, and against plain normals.

    python bench/brownian.py

Each side makes its path anew and asks for its increments in order, as a sampler does; one thread, rounds
interleaved, medians. `ratio` is the peer's time over ours; `normals` is ours over fastdiff.noise.normal of
the same size, per increment: by counting, the tree draws ten for even times and eleven for scattered ones. A
peer with one seed gives a sample another path in another batch; ours, like a seed for each sample, does not.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastdiff as fd

QUICK = {"rounds": 1}
Times = Sequence[float]


def kdiffusion() -> Any:
    """k_diffusion/sampling.py without the rest of the package, whose imports are heavy; None without it."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("torchsde") is None:
        return None
    stubs = {n: types.ModuleType(n) for n in ("torchdiffeq", "k_diffusion", "k_diffusion.utils")}
    stubs["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    stubs["k_diffusion"].utils = stubs["k_diffusion.utils"]  # type: ignore[attr-defined]
    before = {n: sys.modules.get(n) for n in stubs}
    sys.modules.update(stubs)
    try:
        path = Path(next(iter(spec.submodule_search_locations))) / "sampling.py"
        own = importlib.util.spec_from_file_location("k_diffusion.sampling", path)
        assert own is not None and own.loader is not None
        module = importlib.util.module_from_spec(own)
        own.loader.exec_module(module)
        return module
    finally:
        for n, m in before.items():
            sys.modules.pop(n)
            if m is not None:
                sys.modules[n] = m


def peers(shape: tuple[int, ...], times: Times) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    pairs = list(zip(times[:-1], times[1:], strict=True))
    if importlib.util.find_spec("torchsde") is not None:
        import torchsde

        def interval() -> object:
            path = torchsde.BrownianInterval(times[0], times[-1], size=shape, entropy=0)
            return [path(s, t) for s, t in pairs]

        def intervals() -> object:
            paths = [
                torchsde.BrownianInterval(times[0], times[-1], size=shape[1:], entropy=b)
                for b in range(shape[0])
            ]
            return [torch.stack([path(s, t) for path in paths]) for s, t in pairs]

        found["torchsde BrownianInterval, one seed"] = interval
        found["torchsde BrownianInterval, a seed for each sample"] = intervals
    if (theirs := kdiffusion()) is not None:
        x = torch.zeros(shape)
        points = [torch.tensor(t, dtype=torch.float64) for t in times]

        def tree(seed: Any) -> object:
            sampler = theirs.BrownianTreeNoiseSampler(x, points[0], points[-1], seed=seed)
            return [sampler(s, t) for s, t in zip(points[:-1], points[1:], strict=True)]

        name = "k-diffusion BrownianTreeNoiseSampler"
        found[f"{name}, one seed"] = lambda: tree(0)
        found[f"{name}, a seed for each sample"] = lambda: tree(list(range(shape[0])))
    return found


def measure_all(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    seen: dict[str, list[float]] = {name: [] for name in work}
    for f in work.values():
        f()
    for _ in range(rounds):
        for name, f in work.items():
            start = time.perf_counter()
            f()
            seen[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in seen.items()}


def run(
    shape: tuple[int, ...] = (16, 4, 64, 64), increments: int = 20, depth: int = 16, rounds: int = 11
) -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        scattered = np.random.default_rng(0).random(increments - 1)
        for case, times in {
            "even times": np.linspace(0, 1, increments + 1).tolist(),
            "scattered times": [0.0, *sorted(scattered.tolist()), 1.0],
        }.items():

            def ours(times: Times = times) -> object:
                return fd.noise.BrownianPath(shape, 0, 0.0, 1.0, depth=depth).increments(times)

            def normals() -> object:
                return [fd.noise.normal(shape, 0, draw=k) for k in range(increments)]

            t = measure_all({"ours": ours, "normals": normals, **peers(shape, times)}, rounds)
            row = {"shape": list(shape), "ours_us": t["ours"] / increments * 1e6}
            rows.append({"case": case, **row, "normals": t["ours"] / t["normals"]})
            rows += [
                {"case": case, **row, "peer": name, "peer_us": s / increments * 1e6, "ratio": s / t["ours"]}
                for name, s in t.items()
                if name not in ("ours", "normals")
            ]
    finally:
        torch.set_num_threads(threads)
    return rows


if __name__ == "__main__":
    for row in run():
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
