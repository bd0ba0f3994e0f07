"""Consistency: f says the same of two neighbouring points of one path, and x itself at its end.

    x_t = alpha_t x0 + sigma_t eps,   t = t_i > s = t_{i+1}
    loss = E  w_i rho( f(x_t, t), sg f_target(x_s, s) )

    training       x_s = alpha_s x0 + sigma_s eps, the same eps
    distillation   x_s = the teacher's steps from x_t to s: any solver, any number of them. A stochastic one
                   draws from the sample's own counters (SCott's teacher)

Both points of training are one pass over x0. The teacher's plan is compiled once and run with the
coefficients of each sample's own interval.

Sources: Song et al. 2023, arXiv:2303.01469; Song & Dhariwal 2023, arXiv:2310.14189 (pseudo-Huber, law of the
intervals, their doubling); Liu et al. 2024, SCott (stochastic teachers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.grid import check_times, grids
from ..core.hook import Hook
from ..core.plan import plan
from ..core.process import Process
from ..core.solver import Solver, solvers
from ..noise.seeds import Seeds
from ..noise.streams import TIMES, TRAINING
from ..ops.linear_step import linear_step
from ..ops.normal import uniform
from ..ops.regression_loss import RHO, regression_loss
from ..runtime.denoiser import Denoiser
from ..runtime.sampler import Sampler
from ..runtime.train import Net, begin, check_process, wide

WEIGHTS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {  # of sigma / alpha at both ends
    "uniform": lambda s, _, d: torch.ones_like(s),
    "snr": lambda s, _, d: s**-2,
    "snr+1": lambda s, _, d: s**-2 + 1,
    "karras": lambda s, _, d: s**-2 + d**-2,
    "truncated-snr": lambda s, _, d: (s**-2).clamp(min=1),
    "step": lambda s, end, d: 1 / (s - end),
}
KEPT = 32  # numbers of steps for which times and laws are kept


class Consistency:
    """E w rho(f(x_t, t) - sg target(x_s, s)); f a consistency function such as fd.distill.ConsistencyModel.

    process         a Process
    steps           intervals of the grid; each call may give its own (see fd.distill.curriculum)
    teacher         a Denoiser: distillation. None: training
    solver, guidance, substeps, solver_options
                    how the teacher goes from t to s: a key or a Solver, a guidance hook, and how many of its
                    steps make an interval
    grid            key of the times, from t_max to t_min; or `times`, decreasing, then `steps` is not given
    rho             "pseudo_huber" (default), "l2", "l1", "huber", or a callable(f, target) -> (B,), such as a
                    perceptual distance
    c               of pseudo_huber and huber; default 0.00054 sqrt(elements of a sample)
    weighting       "step" 1 / (s_i - s_{i+1}) | "uniform" | "snr" | "snr+1" | "karras" | "truncated-snr", in
                    s = sigma / alpha; or a callable(t, s) -> (B,) of both times
    law             of the intervals: "uniform", or "lognormal" in s with `mean` and `std`

    `loss(f, x0, target=None, cond=None, seeds=None, steps=None)` is the scalar; `per_sample` the same (B,).
    target: another network, such as a moving average of f; default f itself. No gradient reaches it. Nothing
    but f, called as f(x, t, **cond), and the teacher is called. Raises ValueError and TypeError before
    anything runs.
    """

    def __init__(
        self,
        process: Process,
        steps: int | None = None,
        *,
        teacher: Denoiser | None = None,
        solver: str | Solver = "heun",
        solver_options: Mapping[str, Any] | None = None,
        guidance: Hook | None = None,
        substeps: int = 1,
        grid: str = "karras",
        grid_options: Mapping[str, Any] | None = None,
        times: Any = None,
        rho: str | Callable[[Tensor, Tensor], Tensor] = "pseudo_huber",
        c: float | None = None,
        weighting: str | Callable[[Tensor, Tensor], Tensor] = "step",
        law: str = "lognormal",
        mean: float = -1.1,
        std: float = 2.0,
        sigma_data: float = 0.5,
    ):
        self.process, self.teacher = check_process("Consistency", process), teacher
        if type(substeps) is not int or substeps < 1:
            raise ValueError(f"Consistency: substeps must be a whole number >= 1, got {substeps!r}")
        self.substeps, self.grid = substeps, grids.make(grid, **dict(grid_options or {}))
        self._own = None if times is None else check_times(times, process, "Consistency: times")
        if self._own is not None:
            n = len(self._own) - 1
            if steps is not None or n % substeps:
                raise ValueError(
                    f"Consistency: times has {n} intervals; leave steps out, and let substeps={substeps} "
                    "divide them"
                )
            steps = n // substeps
        if steps is None:
            raise TypeError("Consistency: give steps, the intervals of the grid, or times")
        self.steps = _whole(steps)
        if not (callable(rho) or rho in RHO):
            raise unknown("rho", rho, RHO)
        if not (callable(weighting) or weighting in WEIGHTS):
            raise unknown("weighting", weighting, WEIGHTS)
        if law not in ("uniform", "lognormal"):
            raise unknown("law", law, ("uniform", "lognormal"))
        if not (std > 0 and sigma_data > 0):
            raise ValueError(f"Consistency: std and sigma_data must be > 0, got {std!r}, {sigma_data!r}")
        self.rho, self.c, self.weighting, self.law = rho, c, weighting, law
        self.mean, self.std, self.sigma_data = float(mean), float(std), float(sigma_data)
        self._kept: dict[Any, tuple[Tensor, Tensor]] = {}
        self._teacher: Sampler | None = None
        top = float(process.t_max if self._own is None else self._own[0])
        if teacher is None:
            if guidance is not None or solver_options:
                raise ValueError("Consistency: guidance and solver_options belong to a teacher")
            return
        if not isinstance(teacher, Denoiser):
            raise TypeError(f"Consistency: teacher must be a fd.Denoiser, got {type(teacher).__name__}")
        if teacher.process != process:
            raise ValueError(f"Consistency: the teacher's process is {teacher.process!r}, not {process!r}")
        if process.alpha(top) == 0:
            raise ValueError(f"Consistency: no teacher starts from pure noise (t={top:g}); give later times")
        if isinstance(solver, str):
            solver = solvers.make(solver, **dict(solver_options or {}))
        fine = self._times(self.steps)
        i = substeps * ((len(fine) - 1) // substeps // 2)  # an interval like any other
        made = plan(solver, process, fine[i : i + substeps + 1], predicts=teacher.predicts, guidance=guidance)
        self._teacher = Sampler(teacher, made.generic())

    def __call__(self, net: Net, x0: Tensor, **options: Any) -> Tensor:
        """The mean over the batch, a scalar; arguments of `per_sample`."""
        return self.per_sample(net, x0, **options).mean()

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        target: Net | None = None,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        steps: int | None = None,
    ) -> Tensor:
        """(B,) weighted losses."""
        given, rng = begin("Consistency", net, x0, cond, seeds)
        if target is not None and not callable(target):
            raise TypeError(f"Consistency: target must be callable, got {type(target).__name__}")
        if steps is not None and self._own is not None and steps != self.steps:
            raise ValueError(f"Consistency: the times given have {self.steps} intervals, got steps={steps!r}")
        fine, law = self._grid(self.steps if steps is None else _whole(steps), rng.device)
        u = uniform((rng.shape[0],), rng, 0, TIMES, dtype=torch.float64)
        first = torch.searchsorted(law, u, right=True).clamp(max=len(law) - 1) * self.substeps
        visited = [fine[first + k] for k in range(self.substeps + 1)]
        t, s = visited[0], visited[-1]
        x_t, x_s = self._pair(x0, t, s, rng)
        if self._teacher is not None:
            keys = seeds if type(seeds) is int else Seeds(rng[:, 0], rng[:, 1])
            with torch.no_grad():
                tables = self._teacher.plan.coefficients(visited)
                x_s = self._teacher(x_t, seeds=keys, cond=given, coefficients=tables)
        told = wide(x0)
        with torch.no_grad():
            aim = (target or net)(x_s, s.to(told), **given)
        said = net(x_t, t.to(told), **given)
        for name, y in (("net", said), ("target", aim)):
            if not isinstance(y, Tensor) or y.shape != x0.shape:
                came = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
                raise ValueError(f"Consistency: {name} must return a tensor {tuple(x0.shape)}, got {came}")
        return self._distance(said, aim, self._weight(t, s).to(told))

    def _pair(self, x0: Tensor, t: Tensor, s: Tensor, rng: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and x_s with one and the same noise; with a teacher x_t alone."""
        nodes = [self.process.node(v) for v in ((t,) if self._teacher is not None else (t, s))]
        A = torch.stack([torch.stack([n.alpha, n.sigma], -1) for n in nodes], 1).to(wide(x0))
        made = linear_step([x0], A, rng=rng, draws=[0], streams=[TRAINING])
        return made[0], made[-1]

    def _distance(self, said: Tensor, aim: Tensor, weight: Tensor) -> Tensor:
        if not isinstance(self.rho, str):
            found = self.rho(said, aim)
            if not isinstance(found, Tensor) or found.shape != weight.shape:
                came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"Consistency: rho must return a tensor {tuple(weight.shape)}, got {came}")
            return weight * found
        whole = self.rho == "pseudo_huber"
        c = self.c
        if c is None and self.rho in ("pseudo_huber", "huber"):
            c = 0.00054 * math.sqrt(said[0].numel())
        how = "sum" if whole else "mean"
        return regression_loss(said, aim, p=1.0, w=weight, rho=self.rho, c=c, reduction=how)

    def _weight(self, t: Tensor, s: Tensor) -> Tensor:
        if isinstance(self.weighting, str):
            level, end = (torch.exp(-self.process.lam(v)) for v in (t, s))
            return WEIGHTS[self.weighting](level, end, self.sigma_data)
        weight = self.weighting(t, s)
        if not isinstance(weight, Tensor) or weight.shape != t.shape:
            came = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(f"Consistency: weighting(t, s) must give a tensor {tuple(t.shape)}, got {came}")
        return weight

    def _times(self, steps: int) -> np.ndarray:
        if self._own is not None:
            return self._own
        return self.grid.times(self.process, steps * self.substeps, "sigma_min")

    def _grid(self, steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(times, cumulative law of the intervals), float64 on the device."""
        made = self._kept.get((steps, device))
        if made is None:
            fine = self._times(steps)
            ends = fine[:: self.substeps]
            p = np.ones(steps)
            if self.law == "lognormal":
                level = (-self.process.lam(ends) - self.mean) / (math.sqrt(2) * self.std)
                p = -np.diff([math.erf(v) for v in level])
            law = np.cumsum(p) / p.sum()
            if len(self._kept) >= KEPT:
                self._kept.clear()
            made = tuple(torch.tensor(v, dtype=torch.float64, device=device) for v in (fine, law))
            self._kept[steps, device] = made  # type: ignore[assignment]
        return made  # type: ignore[return-value]


def curriculum(done: float, first: int = 10, last: int = 1280, law: str = "doubling") -> int:
    """Intervals of the grid when a part `done` of the training, 0 .. 1, is over.

    "doubling"  first 2^floor(done (log2(last / first) + 1)), at most last      Song & Dhariwal 2023, eq. 10
    "root"      ceil(sqrt(done ((last + 1)^2 - first^2) + first^2)) - 1, at least 1          Song et al. 2023
    """
    if not 0 <= done <= 1:
        raise ValueError(f"curriculum: done must lie in [0, 1], got {done!r}")
    if not 1 <= first <= last:
        raise ValueError(f"curriculum: first and last must be 1 <= first <= last, got {first!r}, {last!r}")
    if law == "doubling":
        stages = math.floor(math.log2(last / first)) + 1
        return int(min(first * 2 ** math.floor(done * stages), last))
    if law == "root":
        return max(1, math.ceil(math.sqrt(done * ((last + 1) ** 2 - first**2) + first**2)) - 1)
    raise unknown("law", law, ("doubling", "root"))


def _whole(steps: Any) -> int:
    if type(steps) is not int or steps < 1:
        raise ValueError(f"Consistency: steps must be a whole number >= 1, got {steps!r}")
    return steps
