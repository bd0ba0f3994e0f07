"""DPM-Solver-fast: singlestep steps of order 3 over as many grid steps as there are network calls.

    calls 3 k        orders 3, ..., 3, 2, 1        calls 3 k + 1        3, ..., 3, 1
    calls 3 k + 2    orders 3, ..., 3, 2           order=2              2, ..., 2 (and 1 if odd)

A step of order q takes q grid steps. The nodes inside are its stages and what a trajectory shows there is a
stage; they may stand anywhere. On a grid whose groups are uniform in lambda it is DPM-Solver-2 and -3
(`dpm-2`, `dpm-3`) with prediction "noise". The steps of low order at the end leave global order 2; towards
sigma = 0 the last step is alpha_t x0.

Source: Lu et al. 2022, arXiv:2206.00927, section 3.4 and appendix B.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.process import Node
from ..core.solver import Past, Solver
from ._exponential import multistep, used


@dataclass(frozen=True)
class DPMFast(Solver):
    key = "dpm-fast"
    predicts = "noise"
    orders = (2, 3)
    source = "Lu et al. 2022, arXiv:2206.00927"

    order: Literal[2, 3] = 3
    weight: Literal["midpoint", "taylor"] = "midpoint"
    prediction: Literal["noise", "data"] = "noise"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        m = p.model(p.x, s, self.prediction)
        x, a, known = past[-1] if past else (p.x, s, [])
        known, left = [(s, m), *known], self.left(p.step, p.steps)
        two = "midpoint" if self.weight == "midpoint" and left == 1 and len(known) == 2 else "heun"
        p.x = multistep(x, a, t, self.prediction, used(known, self.weight), two)
        return [] if left == 1 else [(x, a, known)]

    def left(self, step: int, steps: int) -> int:
        """Grid steps until the end of the group that this one is in, itself included."""
        q = self.order
        whole = steps - (steps % q or (q if q == 3 else 0))
        if step < whole:
            return q - step % q
        ends = [2, 3] if steps - whole == 3 else [steps - whole]
        return next(e for e in ends if whole + e > step) + whole - step
