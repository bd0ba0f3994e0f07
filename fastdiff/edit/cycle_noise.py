"""CycleNoise: the draws by which a stochastic sampler makes a given picture again.

    path   x_i = (alpha_i / alpha_j) x_j + sqrt(sigma_i^2 - (alpha_i / alpha_j)^2 sigma_j^2) z
           "chain": j = i + 1, the forward process; "marginal": j the last node, every level on its own
    w_i    = (x_{i+1} - mean_i(x_i)) / c_i,      where the sampler's step is  mean_i + c_i xi

A step without noise (to sigma = 0) leaves a remainder x_{i+1} - mean_i instead. With the draws and remainders
put back the sampler returns the picture exactly, whatever the network; under another condition or guidance,
or from a start that was moved, it edits it. The w are not white: about 1.1 in rms at 100 steps.

Source: Nie et al. 2023, arXiv:2311.01410; Wu & De la Torre 2023, arXiv:2210.05559.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ..core.direct import Direct
from ..core.hook import Hook
from ..core.plan import Plan
from ..core.plan import plan as make_plan
from ..core.process import Node, Process
from ..core.recorder import Form
from ..core.solver import Solver
from ..noise.seeds import resolve
from ..noise.streams import FORWARD
from ..ops.normal import normal
from ..runtime.checks import check_x
from ..runtime.denoiser import Denoiser
from ..runtime.invert import take
from ..runtime.sampler import Sampler


@dataclass(frozen=True, eq=False)
class CycleNoise(Hook):
    """Made by `CycleNoise.record`; replayed as a hook, or as `noise=` (which has no place for remainders).

    start       x at times[0]
    times       of the run
    draws       step -> w
    remainders  step -> what a step without noise lacks
    """

    start: Tensor
    times: np.ndarray
    draws: dict[int, Tensor]
    remainders: dict[int, Tensor]

    @staticmethod
    def record(
        denoiser: Denoiser,
        x0: Tensor,
        solver: str | Solver | Plan = "ddpm",
        *,
        path: str = "chain",
        seeds: Any = None,
        steps: int = 50,
        grid: str | None = None,
        grid_options: Mapping[str, Any] | None = None,
        times: Any = None,
        final: str = "zero",
        cond: Mapping[str, Any] | None = None,
        guidance: Hook | None = None,
        hooks: Sequence[Hook] = (),
        consts: Mapping[str, Tensor] | None = None,
        backend: str | None = None,
        **solver_options: Any,
    ) -> CycleNoise:
        """The draws that make x0 (B, *), the x at times[-1]; the path to it is drawn by the seeds.

        solver    a key with its options, a Solver, or a Plan: one that draws once a step, after the last
                  network call of the step, and never uses a draw again
        the rest  as in `fd.sample`
        """
        check_x(x0, "x0")
        if path not in ("chain", "marginal"):
            raise ValueError(f"path={path!r}; allowed: 'chain', 'marginal'")
        how = times, steps, grid, grid_options, final
        made, points, every = take("CycleNoise", denoiser, solver, solver_options, how, guidance, hooks)
        process = denoiser.process
        scales = _Scales(made, process, points, denoiser.predicts).found
        if not any(scales.values()):
            raise ValueError(f"CycleNoise: {made.describe()} draws no noise; use fd.invert")
        rng = resolve(seeds, x0.shape[0], x0.device)
        states = _path(process, points, x0, rng, path, consts or {}, backend)
        hook = _Recording(states, scales)
        plan = make_plan(made, process, points, predicts=denoiser.predicts, hooks=(*every, hook))
        Sampler(denoiser, plan, backend=backend)(states[0], seeds=0, cond=cond, consts=consts)
        return CycleNoise(states[0], points, hook.draws, hook.remainders)

    def acts(self, point: str) -> bool:
        return point == "noise" or (point == "state" and bool(self.remainders))

    def active(self, node: Any, step: int) -> bool:
        return step in self.draws or step in self.remainders

    def plan_key(self) -> Any:
        return CycleNoise, tuple(self.draws), tuple(self.remainders)

    def noise(self, ctx: Any, xi: Tensor) -> Tensor:
        return _rows(self.draws[ctx.step], ctx.part).to(xi) if ctx.step in self.draws else xi

    def state(self, ctx: Any, x: Tensor) -> Tensor:
        lacks = self.remainders.get(ctx.step)
        return x if lacks is None else (x + _rows(lacks, ctx.part)).to(x.dtype)

    def __call__(self, like: Tensor, draw: Any) -> Tensor:
        """The draw that `fd.sample(..., noise=cycle)` asks for."""
        if draw.step not in self.draws or draw.column:
            raise ValueError(f"CycleNoise has no draw of step {draw.step}, column {draw.column}")
        return self.draws[draw.step].to(like.device)


class _Recording(Hook):
    """Leaves the solver's draws out, so that its step gives the mean; compares with the path; goes on from
    there."""

    def __init__(self, path: Sequence[Tensor], scales: Mapping[int, float]):
        self.path, self.scales = path, scales
        self.draws: dict[int, Tensor] = {}
        self.remainders: dict[int, Tensor] = {}

    def noise(self, ctx: Any, xi: Tensor) -> Tensor:
        return torch.zeros_like(xi)

    def state(self, ctx: Any, x: Tensor) -> Tensor:
        c, target = self.scales[ctx.step], self.path[ctx.step + 1]
        wide = torch.promote_types(x.dtype, torch.float32)
        lacks = target.to(wide) - x.to(wide)
        if c:
            self.draws[ctx.step] = lacks / c
        else:
            self.remainders[ctx.step] = lacks
        return target


class _Scales(Direct):
    """c of every step: the formula run over draws alone."""

    def __init__(self, solver: Solver, process: Process, times: np.ndarray, predicts: str):
        self.found: dict[int, float] = {}
        self.what = solver.describe()
        super().__init__(self._net, self._form(), predicts, wanted=solver.predicts, noise=self._draw)
        solver.record(self, [process.node(float(t)) for t in times])

    def _form(self, *draws: tuple[int, int]) -> Form:
        return Form({d: 1.0 for d in draws}, float)  # type: ignore[dict-item]

    def _draw(self, step: int, column: int) -> Form:
        if column:
            self._refuse("draws more than once")
        return self._form((step, column))

    def _net(self, x: Form, node: Node) -> Form:
        if any(x.c.values()):
            self._refuse("asks the network after a draw")
        return self._form()

    def _refuse(self, why: str) -> NoReturn:
        raise ValueError(f"CycleNoise: {self.what} {why} in step {self.step}; use ddpm or ddim(eta), say")

    def const(self, name: str) -> Form:
        return self._form()

    def call(self, name: str, node: Node, *forms: Any, params: Any = ()) -> NoReturn:
        self._refuse(f"is not linear ({name})")

    def finish(self, past: Any, node: Node) -> Any:
        drawn: dict[Any, float] = dict(self.x.c)
        self.found[self.step] = drawn.pop((self.step, 0), 0.0)
        if any(drawn.values()):
            self._refuse("uses an earlier draw again")
        self.x = self._form()  # from the path on
        return past


def _path(
    process: Process,
    times: np.ndarray,
    x: Tensor,
    rng: Tensor,
    kind: str,
    consts: Mapping[str, Any],
    backend: str | None,
) -> list[Tensor]:
    """The states at all times, x at the last."""
    nodes = [process.node(float(t)) for t in times]
    wide = torch.promote_types(x.dtype, torch.float32)
    offset = [0.0] * len(nodes)
    if process.const is not None:
        offset = [float(process.offset(n.t)) * consts[process.const].to(wide) for n in nodes]
    last = x.to(wide) - offset[-1]
    inside = [last]
    for i in range(len(nodes) - 2, -1, -1):
        s, t, base = (nodes[i], nodes[i + 1], inside[0]) if kind == "chain" else (nodes[i], nodes[-1], last)
        a = float(s.alpha) / float(t.alpha)
        z = normal(x.shape, rng, i, FORWARD, dtype=wide, backend=backend)
        inside.insert(0, a * base + float(s.sigma**2 - (a * t.sigma) ** 2) ** 0.5 * z)
    return [*((v + o).to(x.dtype) for v, o in zip(inside[:-1], offset, strict=False)), x]


def _rows(v: Tensor, part: tuple[int, int, int] | None) -> Tensor:
    """Those of the samples that run here."""
    return v if part is None else v[part[0] : part[1]]
