"""Bespoke: the Runge-Kutta rule, its scale and its times that follow a teacher best in a few calls.

    loss "end"     E |x_N - x_N^teacher|_rms: a run of all steps, its gradient through every call
    loss "bound"   E sum_i M_i d_i,   d_i = |y(tau_{i+1}) - step_i(y(tau_i))|_rms,  M_i = prod_{j > i} L_j

Of the bound each step starts on the teacher's own path, so that a gradient holds the memory of one step; L_j
bounds what step j makes of an error if the slope has the Lipschitz constant 1. Between the teacher's nodes
the path is the cubic with their slopes, which gives the derivative in tau_i too.

It starts from Euler's method or the midpoint rule on the grid, and what is kept is the best on samples held
out: those rules themselves where nothing is better.

Source: Shaul et al. 2023, arXiv:2310.19075; the loss of the whole run is ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.direct import Direct
from ..core.errors import unknown
from ..core.grid import check_times
from ..core.plan import Plan
from ..core.plan import plan as make_plan
from ..core.process import Node
from ..core.solver import Solver
from ..runtime.denoiser import Denoiser
from ..runtime.sample import grid as make_grid
from ..runtime.trained import clock
from ..solvers.bespoke import PLAIN, Bespoke, advance
from ._descent import Notes, chosen, descend, picked
from ._teacher import Spacing, check_fit, halves, taught

LOSSES = ("end", "bound")


def bespoke(
    denoiser: Denoiser,
    shape_or_x: Sequence[int] | Tensor,
    *,
    steps: int,
    order: int = 2,
    grid: str | None = None,
    grid_options: Mapping[str, Any] | None = None,
    times: Any = None,
    final: str = "sigma_min",
    loss: str = "end",
    teacher: str | Solver = "heun",
    fine: int = 8,
    iterations: int = 500,
    batch: int = 64,
    rate: float = 5e-3,
    seeds: Any = 0,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
    resume: str | os.PathLike[str] | None = None,
) -> Plan:
    """A plan of `steps` steps for `fd.Sampler(denoiser, plan)`: order network calls each.

    shape_or_x  starts of the teacher, as in `fd.sample`; one in four is held out to choose by
    grid, grid_options, times, final    of the rule it starts from, as in `fd.sample`
    teacher, fine    a solver, and how many of its steps stand for one of these
    batch       starts in one iteration
    rate        of Adam
    cond        keyword arguments of the network; a tensor with a row for each start is per sample
    resume      a file that the search is kept in: where it exists, the search goes on from there, and ends
                where it would have ended in one go

    Costs fine * steps * (calls of the teacher) network calls for each start, then order * steps of them with
    their gradient for each sample of a batch. Raises ValueError or TypeError before any.
    """
    check_fit("bespoke", denoiser, steps=steps, fine=fine, iterations=iterations, batch=batch)
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    if order not in (1, 2):
        raise ValueError(f"bespoke: order must be 1 or 2, got {order!r}")
    process = denoiser.process
    if times is None:
        times = make_grid(grid or process.default_grid, process, steps=steps, final=final,
                          **dict(grid_options or {}))  # fmt: skip
    times = check_times(times, process)
    if len(times) != steps + 1:
        raise ValueError(f"bespoke: got {len(times)} times for {steps} steps")
    start = process.node(float(times[0]))
    if float(start.scale) == 0:
        raise ValueError(f"bespoke: alpha is 0 at t={times[0]:g}, where x / alpha has no end; start later")
    spec = f"bespoke {denoiser!r} order={order} loss={loss} times={[float(t).hex() for t in times]}"
    run = taught(denoiser, shape_or_x, times, fine, teacher, seeds, cond)
    count = run.x.shape[0]
    learnt, held = halves(count)
    trained = _Numbers(Spacing(process, times), order, steps)
    path = _Path.of(denoiser, run, cond) if loss == "bound" else None

    def off(index: Tensor) -> Tensor:
        given = picked(cond, index, count)
        p = _direct(denoiser, run.states[0][index.to(run.x.device)], given)
        nodes, table = trained.nodes(), trained.table()
        for s, t, row in zip(nodes[:-1], nodes[1:], table, strict=True):
            p.x = advance(p, s, t, row.unbind())
        return _rms(p.x - run.x[index.to(run.x.device)]).mean()

    def of(k: int) -> Tensor:
        index = learnt[chosen(k, len(learnt), batch)]
        if path is None:
            return off(index)
        return _bound(denoiser, path, trained, index, picked(cond, index, count))

    def score() -> float:
        return float(off(held))

    descend(
        trained.values, of, score, iterations=iterations, rate=rate, progress=progress,
        notes=Notes(resume, spec),
    )  # fmt: skip
    with torch.no_grad():
        table = tuple(tuple(float(v) for v in row) for row in trained.table())
    found = trained.spacing.plain()
    return make_plan(Bespoke(order=order, table=table), process, found, predicts=denoiser.predicts)  # type: ignore[arg-type]


class _Numbers:
    """The trained numbers: 4 n - 1 or 8 n - 1 that count; positive ones by their logarithms."""

    def __init__(self, spacing: Spacing, order: int, steps: int):
        self.spacing, self.order = spacing, order
        self.free = torch.zeros(steps, len(PLAIN[order]), dtype=torch.float64)
        self.values = [spacing.gaps, self.free] if steps > 1 else [self.free]

    def nodes(self) -> list[Node]:
        return [self.spacing.process.node(t) for t in self.spacing.times()]

    def table(self) -> Tensor:
        scale, rate, speed, *inner = self.free.unbind(1)
        columns = [scale.exp(), rate, speed.exp()]
        if inner:
            mid, half, rate_m, speed_m = inner
            columns += [torch.sigmoid(mid), half.exp(), rate_m, speed_m.exp()]
        return torch.stack(columns, 1)


def _direct(denoiser: Denoiser, x: Tensor, cond: dict[str, Any]) -> Direct:
    def net(x: Tensor, node: Node) -> Tensor:
        return denoiser.raw(x, clock(denoiser, node.t, x), cond).to(x.dtype)

    return Direct(net, x, denoiser.predicts, wanted="slope")


def _rms(x: Tensor) -> Tensor:
    """Of each sample; its derivative at 0 is 0."""
    square = x.flatten(1).double().square().mean(1)
    return torch.where(square > 0, square, 1).sqrt() * (square > 0)


@dataclass
class _Path:
    """The teacher's y = x / c as a function of tau."""

    tau: np.ndarray
    y: Tensor
    d: Tensor

    @staticmethod
    @torch.no_grad()
    def of(denoiser: Denoiser, run: Any, cond: Mapping[str, Any] | None) -> _Path:
        nodes = [denoiser.process.node(float(t)) for t in run.times]
        tau = np.array([float(n.tau) for n in nodes])
        y = torch.stack([x / float(n.scale) for x, n in zip(run.states, nodes, strict=True)])
        d = []
        for x, n in zip(run.states, nodes, strict=True):
            if n.clean:
                d.append((y[-1] - y[-2]) / (tau[-1] - tau[-2]))
            else:
                p = _direct(denoiser, x, dict(cond or {}))
                d.append(p.model(x, n))
        return _Path(tau, y, torch.stack(d))

    def at(self, tau: Any, index: Tensor) -> Tensor:
        index = index.to(self.y.device)
        now = float(torch.as_tensor(tau).detach())
        k = int(np.clip(np.searchsorted(-self.tau, -now, "right") - 1, 0, len(self.tau) - 2))
        h = self.tau[k + 1] - self.tau[k]
        u = (tau - self.tau[k]) / h
        a, b = self.y[k][index], self.y[k + 1][index]
        rise = h * (self.d[k][index] * ((1 - u) ** 2 * u) - self.d[k + 1][index] * (u**2 * (1 - u)))
        return a * ((1 + 2 * u) * (1 - u) ** 2) + b * (u**2 * (3 - 2 * u)) + rise


def _bound(denoiser: Denoiser, path: _Path, trained: _Numbers, index: Tensor, cond: dict[str, Any]) -> Tensor:
    nodes, table = trained.nodes(), trained.table()
    total: Any = 0.0
    grown: Any = 1.0
    for s, t, row in reversed(list(zip(nodes[:-1], nodes[1:], table, strict=True))):
        p = _direct(denoiser, path.at(s.tau, index) * s.scale, cond)
        away = _rms(path.at(t.tau, index) - advance(p, s, t, row.unbind()) / t.scale)
        total = total + grown * away.mean()
        grown = grown * _lipschitz(row, s.tau - t.tau)
    return total


def _lipschitz(row: Tensor, gap: Any) -> Tensor:
    scale, rate, speed, *inner = row.unbind()
    if not inner:
        return ((1 + rate).abs() + speed * gap) / scale
    _, half, rate_m, speed_m = inner
    z = (1 + rate / 2).abs() + speed * gap / 2
    return (1 + (rate_m.abs() + speed_m * gap) * z) / scale
