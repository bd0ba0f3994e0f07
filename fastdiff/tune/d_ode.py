"""D-ODE: every prediction of a step carried on beyond the step before, as far as a teacher says.

    O = D + lambda_i (D - D_before)        D_before: the last prediction of the step before

One number for each step, all calls of a step share it; the first step has none. It stands in the place of D,
of whatever kind the solver asks for, so the plan costs no call more.

Source: Kim et al. 2023, arXiv:2309.16421.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.errors import unknown
from ..core.plan import Plan
from ..core.process import Node
from ..core.solver import Past, Solver
from ..runtime.denoiser import Denoiser
from ._greedy import Mended, Watched, greedy

STARTS = ("fixed", "restart")


def d_ode(
    denoiser: Denoiser,
    plan: Plan,
    shape_or_x: Sequence[int] | Tensor,
    *,
    start: str = "fixed",
    teacher: str | Solver = "heun",
    fine: int = 8,
    seeds: Any = 0,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
    resume: str | os.PathLike[str] | None = None,
) -> Plan:
    """The plan with one number for each of its steps, fitted in turn.

    plan        of a deterministic solver, its guidance and hooks with it
    shape_or_x  starts of the teacher, as in `fd.sample`; one in four is held out, on which the result must be
                nearer to the teacher's ends than the plan, else it is the plan
    start       "fixed": the teacher runs once from x_T; "restart": again in every step, from the state that
                the fitted steps have led to
    teacher, fine    a solver, and how many of its steps stand for one of these
    cond, resume    as in `fd.tune.bespoke`

    Costs, besides the teacher, two runs of the plan for each step, or a few more where a step has more calls
    than one. Raises ValueError or TypeError before any call.
    """
    if start not in STARTS:
        raise unknown("start", start, STARTS)
    return greedy(
        "d_ode", denoiser, plan, shape_or_x, lambda inner, rows: DODE(inner, rows), 1, teacher=teacher,
        fine=fine, restart=start == "restart", seeds=seeds, cond=cond, progress=progress, resume=resume,
    )  # fmt: skip


@dataclass(frozen=True)
class DODE(Mended):
    name = "d-ode"

    def mend(
        self, p: Any, s: Node, t: Node, inner: Past, before: list[Any], q: int
    ) -> tuple[Past, list[Any]]:
        weight, found = self.rows[p.step][0], list(before)

        def change(D: Any, kind: str) -> Any:
            found[:] = [(kind, D)]
            last = [d for k, d in before if k == kind]
            return D + weight * (D - last[0]) if last and weight else D

        inner = self.made.move(Watched(p, change), s, t, inner, q)
        return inner, found
