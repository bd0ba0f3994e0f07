"""Gradient estimation: Euler's method in straight coordinates along an extrapolated slope.

    x_t / c_t = x_s / c_s + (tau_t - tau_s) (gamma d_0 + (1 - gamma) d_1)

c, tau, d as in `euler`; d_1 is the slope one step before, and the first step is Euler's; gamma = 1: all are.
Order 1; 2 for gamma = 3/2 where steps are equal in tau (Adams-Bashforth), also on grids close to that.
cfg_pp=True is CFG++ (see `euler`) with slopes of the unconditional half, as ComfyUI has it:

    x_t = alpha_t x0 + sigma_t eps + c_t (tau_t - tau_s) (gamma - 1) (d_0 - d_1)

Source: Permenter & Yuan 2023, arXiv:2306.04848, section 5; CFG++: Chung et al. 2024, arXiv:2406.08070.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Past, check_range
from ._coordinates import Straight
from ._slope import along


@dataclass(frozen=True)
class GE(Straight):
    key = "ge"
    order = memory = 1
    source = "Permenter & Yuan 2023, arXiv:2306.04848"

    gamma: float = 2.0
    cfg_pp: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "gamma", 0, 10)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if self.cfg_pp:
            x, d = t.alpha * p.model(p.x, s, "data") + t.sigma * p.branch(1, "noise"), p.branch(1)
            if past:
                x = x + t.scale * (t.tau - s.tau) * (self.gamma - 1) * (d - past[-1])
            p.x = x
            return [d]
        d = p.model(p.x, s)
        p.x = along(p.x, s, t, self.gamma * d + (1 - self.gamma) * past[-1] if past else d)
        return [d]
