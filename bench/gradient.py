"""Gradients through a sampler: time and peak memory of the modes beside autograd through the same formula.

Each case runs in a process of its own: CPU seconds of one forward and backward pass on one thread, and the
peak of resident memory above what it was before. Error: relative, over x_T and all parameters, against
autograd in float64; of an adjoint it is that of the method, of the others rounding. torchdiffeq's adjoint
takes as many Euler steps in sigma / alpha at the same times, and its error is that against its own steps.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.core.direct import Direct

from . import _peers
from ._case import Scale

EULER = "torchdiffeq euler"
SHAPE, STEPS = (4, 4, 64, 64), 50
CASES: dict[str, tuple[str, Any]] = {  # solver, mode; "naive" is autograd through the formula
    "naive": ("dpmpp-2m", "naive"),
    "full": ("dpmpp-2m", "full"),
    "checkpoint": ("dpmpp-2m", "checkpoint"),
    "checkpoint every=7": ("dpmpp-2m", fd.gradients.Checkpoint(every=7)),
    "checkpoint memory=4": ("dpmpp-2m", fd.gradients.Checkpoint(memory=4)),
    "adjoint 1": ("dpmpp-2m", fd.gradients.Adjoint(order=1)),
    "adjoint 2": ("dpmpp-2m", fd.gradients.Adjoint(order=2)),
    "adjoint 2 memory=None": ("dpmpp-2m", fd.gradients.Adjoint(order=2, memory=None)),
    "adjoint 3": ("dpmpp-2m", fd.gradients.Adjoint(order=3)),
    "naive bdia": ("bdia", "naive"),
    "reversible bdia": ("bdia", "reversible"),
    "naive torchdiffeq": (EULER, "naive"),
    "torchdiffeq adjoint": (EULER, "adjoint"),
}  # fmt: skip
QUICK = ("naive", "checkpoint", "adjoint 2", "naive bdia", "reversible bdia")


class Net(nn.Module):
    """Four convolutions over a time embedding: small, but as a network of pictures is."""

    def __init__(self, channels: int = 4, width: int = 32):
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


class Slope(nn.Module):
    """d (x / alpha) / d (sigma / alpha): the noise."""

    def __init__(self, net: nn.Module, process: Any):
        super().__init__()
        self.net, self.process = net, process

    def forward(self, rho: Tensor, y: Tensor) -> Tensor:
        t = float(self.process.time_of(-math.log(float(rho.detach()))))
        alpha = float(self.process.alpha(t))
        return self.net(alpha * y, torch.full((len(y),), t, dtype=y.dtype))


def euler(net: Any, process: Any, x: Tensor, times: Any, adjoint: bool) -> Tensor:
    diffeq = _peers.torchdiffeq()
    run = diffeq.odeint_adjoint if adjoint else diffeq.odeint
    first, last = (float(process.alpha(float(t))) for t in (times[0], times[-1]))
    rho = torch.tensor([math.exp(-float(process.lam(float(t)))) for t in times], dtype=x.dtype)
    return last * run(Slope(net, process), x / first, rho, method="euler")[-1]


def slopes(case: str, shape: tuple[int, ...], steps: int, dtype: torch.dtype) -> Tensor:
    solver, mode = CASES[case]
    torch.manual_seed(0)
    net, process = Net(shape[1]).to(dtype), fd.processes.VP()
    x = torch.randn(shape).to(dtype).requires_grad_()
    times = fd.grid("logsnr", process, steps=steps, final="sigma_min")
    if solver == EULER:
        y = euler(net, process, x, times, mode == "adjoint")
    elif mode == "naive":
        y = naive(net, process, x, times, solver)
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
    slopes(case, (1, shape[1], 8, 8), 3, torch.float32)  # libraries are loaded, plans not yet made
    before, start = peak(), time.process_time()
    found = slopes(case, shape, steps, torch.float32)
    row = {"case": case, "shape": list(shape), "dtype": "float32", "threads": 1, "steps": steps}
    row |= {"ours_us": 1e6 * (time.process_time() - start), "peak_mb": peak() - before}
    if Path(file).exists():
        exact = torch.load(file)
        row["error"] = float((found - exact).norm() / exact.norm())
    return row


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(*given: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.gradient", json.dumps(given)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(scale: Scale) -> Iterator[dict[str, Any]]:
    """peer: autograd through the same formula."""
    shape, steps = ((2, 4, 16, 16), 10) if scale.quick else (SHAPE, STEPS)
    base: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in QUICK if scale.quick else CASES:
            solver, mode = CASES[case]
            if solver == EULER and _peers.torchdiffeq() is None:
                yield {"case": case, "shape": list(shape), "peer": "torchdiffeq", "skipped": "not installed"}
                continue
            file = f"{folder}/{solver}.pt"
            if not Path(file).exists():
                origin = next(k for k, v in CASES.items() if v == (solver, "naive"))
                alone(f"exact {origin}", shape, steps, file)
            row = alone(case, shape, steps, file)
            if mode == "naive":
                base[solver] = row
            elif solver in base:
                row |= {"peer": "autograd", "peer_us": base[solver]["ours_us"]}
                row |= {"ratio": row["peer_us"] / row["ours_us"]}
                row |= {"of_peer_memory": row["peak_mb"] / base[solver]["peak_mb"]}
            yield row


if __name__ == "__main__":
    case, shape, steps, file = json.loads(sys.argv[1])
    print(json.dumps(one(case, tuple(shape), steps, file)))
