"""Gradients through a sampler: time and peak memory of the modes beside autograd through the same formula.

Each case runs in a process of its own: CPU seconds of one forward and backward pass on one thread, and the
peak of resident memory above what it was before. Error: relative, over x_T and all parameters, against
autograd in float64; of an adjoint it is that of the method, of the others rounding.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.core.direct import Direct

from . import _peers
from ._case import Goal, Scale, judged

THEIRS = "torchdiffeq odeint_adjoint, ddim"
SHAPE, STEPS = (1, 4, 32, 32), 50
WIDE = (1, 4, 64, 64)  # where memory that does not grow is measured: beside it the plan's own is little
LARGE = "ddim, 0.9 M parameters, 100 steps"
CASES: dict[str, tuple[str, Any, int]] = {  # solver, mode, steps; "naive" is autograd through the formula
    "naive": ("dpmpp-2m", "naive", STEPS),
    "checkpoint": ("dpmpp-2m", "checkpoint", STEPS),
    "adjoint 2": ("dpmpp-2m", fd.gradients.Adjoint(order=2, memory=None), STEPS),
    "adjoint 3": ("dpmpp-2m", fd.gradients.Adjoint(order=3, memory=None), STEPS),
    "naive ddim": ("ddim", "naive", STEPS),
    THEIRS: ("ddim", "odeint_adjoint", STEPS),
    f"naive {LARGE}": ("ddim", "naive", 2 * STEPS),
    f"checkpoint {LARGE}": ("ddim", "checkpoint", 2 * STEPS),
    "naive bdia": ("bdia", "naive", STEPS),
    "reversible bdia": ("bdia", "reversible", STEPS),
    "reversible bdia, 200 steps": ("bdia", "reversible", 4 * STEPS),
}  # fmt: skip
QUICK = ("naive", "checkpoint", "adjoint 2", "naive bdia", "reversible bdia")
BETTER = (Goal("of_their_error", least=10.0), Goal("of_their_time", most=1.0))
GOALS: dict[str, tuple[Goal, ...]] = {
    "checkpoint": (Goal("of_their_error", least=1e3),),
    "adjoint 2": BETTER,
    "adjoint 3": BETTER,
    f"checkpoint {LARGE}": (Goal(least=1 / 1.5), Goal("of_peer_memory", most=1 / 12)),
    "reversible bdia, 200 steps": (Goal("of_memory_at_50", most=1.1),),
}


class Net(nn.Module):
    """Four convolutions over a time embedding: small, but as a network of pictures is."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        sizes = (channels, width, width, width, channels)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.time = nn.Linear(1, width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        shift, h = self.time(t[:, None])[:, :, None, None], x
        for layer in self.layers[:-1]:
            h = torch.nn.functional.silu(layer(h) + shift)
        return x + 0.1 * self.layers[-1](h)


def naive(net: Any, process: Any, x: Tensor, times: Any, solver: str) -> Tensor:
    made = fd.solvers.make(solver)
    p = Direct(
        lambda x, n: net(x, torch.full((len(x),), n.t, dtype=x.dtype)), x, "noise", wanted=made.predicts
    )
    made.record(p, [process.node(float(t)) for t in times])
    return p.x


def continuous(net: Net, process: Any, x: Tensor, times: Any) -> Tensor:
    """Euler over rho = sigma / alpha, on which x / alpha is ddim's sum; the gradient is their own."""
    nodes = [process.node(float(t)) for t in times]
    alpha, where = ({n.sigma / n.alpha: v for n, v in zip(nodes, of, strict=True)} for of in
                    ([n.alpha for n in nodes], [n.t for n in nodes]))  # fmt: skip

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, rho: Tensor, y: Tensor) -> Tensor:
            asked = float(rho.detach())  # a point of the grid, rounded
            at = min(alpha, key=lambda r: abs(r - asked))
            return self.net(alpha[at] * y, torch.full((len(y),), where[at], dtype=y.dtype))

    grid = torch.tensor(list(alpha), dtype=x.dtype)
    ends = _peers.module("torchdiffeq").odeint_adjoint(Field(), x / nodes[0].alpha, grid, method="euler")
    return ends[-1] * nodes[-1].alpha


def slopes(case: str, shape: tuple[int, ...], steps: int, dtype: torch.dtype) -> Tensor:
    solver, mode, _ = CASES[case]
    torch.manual_seed(0)
    net, process = Net(shape[1], 222 if case.endswith(LARGE) else 64).to(dtype), fd.processes.VP()
    x = torch.randn(shape).to(dtype).requires_grad_()
    times = fd.grid("logsnr", process, steps=steps, final="sigma_min")
    if mode == "naive":
        y = naive(net, process, x, times, solver)
    elif mode == "odeint_adjoint":
        y = continuous(net, process, x, times)
    else:
        y = fd.sample(
            fd.Denoiser(net, process, predicts="noise"), x, solver=solver, times=times, gradient=mode
        )
    (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view(shape)).mean().backward()
    assert x.grad is not None
    return torch.cat([t.grad.double().flatten() for t in (x, *net.parameters()) if t.grad is not None])


def one(case: str, shape: tuple[int, ...], steps: int, file: str) -> dict[str, Any]:
    """In a process of its own, whose peak of memory is the case's."""
    torch.set_num_threads(1)
    if case.startswith("exact "):
        torch.save(slopes(case.removeprefix("exact "), shape, steps, torch.float64), file)
        return {}
    slopes(case, (1, shape[1], 8, 8), steps, torch.float32)  # libraries are loaded and plans made
    before, start = peak(), time.process_time()
    found = slopes(case, shape, steps, torch.float32)
    row = {"case": case, "shape": list(shape), "dtype": "float32", "threads": 1, "steps": steps}
    row |= {"ours_us": 1e6 * (time.process_time() - start), "peak_mb": peak() - before}
    if Path(file).exists():
        exact = torch.load(file)
        row["error"] = float((found - exact).norm() / exact.norm())
    return row


def peak() -> float:
    """MB. Linux counts in getrusage what the parent held when it started this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(*given: Any) -> dict[str, Any]:
    """`one`, in a process that starts with the libraries loaded and nothing done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(one, *given).result()


def rows(scale: Scale) -> Iterator[dict[str, Any]]:
    """peer: autograd through the same formula; "their": torchdiffeq's adjoint, measured here too."""
    done: dict[str, dict[str, Any]] = {}
    base: dict[tuple[str, int], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in QUICK if scale.quick else CASES:
            solver, mode, steps = CASES[case]
            shape = (2, 4, 16, 16) if scale.quick else WIDE if solver == "bdia" else SHAPE
            if mode == "odeint_adjoint" and _peers.module("torchdiffeq") is None:
                yield {"case": case, "shape": list(shape), "peer": "torchdiffeq", "skipped": "not installed"}
                continue
            steps, file = 10 if scale.quick else steps, f"{folder}/{solver}-{steps}.pt"
            if steps <= STEPS and not Path(file).exists():
                origin = next(k for k, v in CASES.items() if v[:2] == (solver, "naive"))
                alone(f"exact {origin}", shape, steps, file)
            row = done[case] = alone(case, shape, steps, file)
            if mode == "naive":
                base[solver, steps] = row
            elif beside := base.get((solver, steps)):
                row |= {"peer": "autograd", "peer_us": beside["ours_us"]}
                row |= {"ratio": row["peer_us"] / row["ours_us"]}
                row |= {"of_peer_memory": row["peak_mb"] / beside["peak_mb"]}
    if THEIRS in done:
        for row in done.values():
            if "error" in row:
                row |= {"of_their_error": done[THEIRS]["error"] / row["error"]}
                row |= {"of_their_time": row["ours_us"] / done[THEIRS]["ours_us"]}
    if (many := done.get("reversible bdia, 200 steps")) is not None:
        many |= {"of_memory_at_50": many["peak_mb"] / done["reversible bdia"]["peak_mb"]}
    yield from (judged(row, GOALS.get(case, ())) for case, row in done.items())
