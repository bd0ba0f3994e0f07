"""IIA: after each step, differences of the network's outputs are added, so much of each as a teacher says.

    x_t += sum_k gamma_{i,k} (m_k - m_{k+1})        m_0, m_1, ...: the outputs so far, newest first

Of a method with one call a step these are the differences over the last steps, of one with more (`heun`) that
inside the step and those before it. The outputs are of the kind that the solver asks for, after guidance.
Each gamma_i is the least-squares answer to a teacher started in the state that the steps before it led to.

Source: Zhang et al. 2023, arXiv:2304.11328; the features as here are ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..core.plan import Plan
from ..core.process import Node
from ..core.solver import Past, Solver
from ..runtime.denoiser import Denoiser
from ._greedy import Mended, Watched, greedy


def iia(
    denoiser: Denoiser,
    plan: Plan,
    shape_or_x: Sequence[int] | Tensor,
    *,
    features: int = 1,
    teacher: str | Solver = "heun",
    fine: int = 8,
    seeds: Any = 0,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
    resume: str | os.PathLike[str] | None = None,
) -> Plan:
    """The plan with numbers for each of its steps, fitted in turn.

    plan        of a deterministic solver, its guidance and hooks with it
    shape_or_x  starts of the teacher, as in `fd.sample`; one in four is held out, on which the result must be
                nearer to the teacher's ends than the plan, else it is the plan
    features    differences that a step may take; each carries a tensor more. Every step is fitted for itself,
                so that a second need not help in the end
    teacher, fine    a solver, and how many of its steps stand for one of these
    cond, resume    as in `fd.tune.bespoke`

    Costs, besides the teacher, features + 1 runs of the plan for each step. Raises ValueError or TypeError
    before any call.
    """
    if isinstance(features, bool) or not isinstance(features, int) or features < 1:
        raise ValueError(f"iia: features must be a positive int, got {features!r}")
    return greedy(
        "iia", denoiser, plan, shape_or_x, lambda inner, rows: IIA(inner, rows), features, teacher=teacher,
        fine=fine, restart=True, seeds=seeds, cond=cond, progress=progress, resume=resume,
    )  # fmt: skip


@dataclass(frozen=True)
class IIA(Mended):
    name = "iia"

    def mend(
        self, p: Any, s: Node, t: Node, inner: Past, before: list[Any], q: int
    ) -> tuple[Past, list[Any]]:
        weights, found = self.rows[p.step], list(before)

        def change(m: Any, kind: str) -> Any:
            found.insert(0, (kind, m))
            return m

        inner = self.made.move(Watched(p, change), s, t, inner, q)
        for weight, ((a, m), (b, m_before)) in zip(weights, pairwise(found), strict=False):
            if weight and a == b:
                p.x = p.x + weight * (m - m_before)
        return inner, found[: max(map(len, self.rows))]
