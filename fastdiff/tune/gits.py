"""GITS: the grid on which Euler's jumps stay closest to a teacher's trajectories.

A teacher (Heun over many nodes) is run once from a few starts; at each of its nodes the slope d of x / alpha
in rho = sigma / alpha is kept. A jump from node i to j costs

    "l2"    mean |y_j' - y_j|,      y_j' = y_i + (rho_j - rho_i) d_i,   y = x / alpha
    "dev"   dev(y_j') - dev(y_j):   by how much it leaves the chord from the first node to the last more than
            the teacher does; 0 for the teacher at the last node

and the cheapest way in `steps` jumps is found exactly; jump k counts discount^k.

Source: Chen et al. 2024, arXiv:2405.11326.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import unknown
from ..runtime.denoiser import Denoiser
from ..runtime.sample import grid as make_grid
from ..runtime.sample import sample
from ..runtime.state import Trajectory
from ._path import cheapest

METRICS = ("dev", "l2")


def gits(
    denoiser: Denoiser,
    shape_or_x: Sequence[int] | Tensor,
    *,
    steps: int,
    teacher_steps: int = 60,
    teacher: str = "heun",
    grid: str = "polyexponential",
    grid_options: Mapping[str, Any] | None = None,
    metric: str = "dev",
    discount: float = 1.15,
    final: str = "zero",
    seeds: Any = 0,
    cond: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Times for `fd.sample(..., times=...)`: float64, steps + 1 of them, strictly decreasing.

    shape_or_x     starts of the teacher, as in `fd.sample`; 256 of them serve well
    teacher_steps  of the teacher, on `grid` (a key of `fd.grids`, its end at t_min)
    discount       above 1 spends steps late, where pictures get their detail
    final          "zero": the last of the steps goes to the process's zero; "sigma_min": none does

    Costs teacher_steps * (calls of the teacher + 1) network calls. Raises ValueError for steps not in
    1 .. teacher_steps, an unknown metric, or a discount that is not positive.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    if final not in ("zero", "sigma_min"):
        raise unknown("final", final, ("zero", "sigma_min"))
    jumps = steps - (final == "zero")
    if not 0 <= jumps <= teacher_steps or steps < 1:
        raise ValueError(f"gits: steps={steps}; 1 .. {teacher_steps} (teacher_steps) are allowed")
    if not discount > 0:
        raise ValueError(f"gits: discount={discount}; a positive number is allowed")
    process = denoiser.process
    nodes = make_grid(grid, process, steps=teacher_steps, final="sigma_min", **dict(grid_options or {}))
    if jumps == 0:
        return np.array([nodes[0], process.t_zero])
    alpha = np.array([float(process.alpha(t)) for t in nodes])
    if alpha[0] == 0:
        raise ValueError(
            f"gits: alpha is 0 at t={nodes[0]:g}, where x / alpha has no end; start the grid later"
        )
    rho = np.array([float(process.sigma(t)) for t in nodes]) / alpha
    run = sample(denoiser, shape_or_x, solver=teacher, times=nodes, seeds=seeds, cond=cond, trajectory=True)
    assert isinstance(run, Trajectory)
    if run.x.shape[0] == 0:
        raise ValueError("gits: shape_or_x has no samples; at least 1 is allowed")
    y = torch.stack([x.flatten(1).double() / a for x, a in zip(run.states, alpha, strict=True)])
    with torch.no_grad():
        data = (
            denoiser(x, t, cond).flatten(1).double() for x, t in zip(run.states[:-1], nodes, strict=False)
        )
        d = torch.stack([(a - x0) / r for a, x0, r in zip(y, data, rho, strict=False)])
    cost = np.full((len(nodes), len(nodes)), np.inf)
    cost[:-1] = _cost(y, d, rho, metric)
    times = nodes[cheapest(cost, jumps, discount)]
    return np.append(times, process.t_zero) if final == "zero" else times


def _cost(y: Tensor, d: Tensor, rho: np.ndarray, metric: str) -> np.ndarray:
    """Of jumps from each node but the last to all."""
    chord = y[-1] - y[0]
    chord = chord / chord.norm(dim=-1, keepdim=True)

    def leaves(p: Tensor) -> Tensor:
        off = p - y[-1]
        return (off - (off * chord).sum(-1, keepdim=True) * chord).norm(dim=-1)

    own = leaves(y).mean(-1)
    own[-1] = 0
    rows = []
    for i in range(len(d)):
        jump = torch.as_tensor(rho - rho[i], dtype=y.dtype, device=y.device)
        end = y[i] + jump[:, None, None] * d[i]
        rows.append(leaves(end).mean(-1) - own if metric == "dev" else (end - y).norm(dim=-1).mean(-1))
    return torch.stack(rows).cpu().numpy()
