"""Heun++ (experimental): a weighted mean of the slopes at this node and the next two.

    y1 = Euler's step from s to t;      y2 = Euler's step from t to the node after it
    x_t / c_t = x_s / c_s + (tau_t - tau_s) ((1 - w1 - w2) d_s + w1 d_t(y1) + w2 d(y2))
    w1 = tau_t / (3 tau_0),      w2 = tau_after / (3 tau_0),      tau_0 that of the first node

One step before the last: without w2, and 2 tau_0 in place of 3. The weights do not make a rule of order 2:
order 1, by three network calls a step. c, tau, d as in `euler`.

Source: ComfyUI (sample_heunpp2), after Karras et al. 2022, arXiv:2206.00364.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.math import plain
from ..core.process import Node
from ..core.solver import Past
from ._coordinates import Straight
from ._slope import along


@dataclass(frozen=True)
class HeunPP2(Straight):
    key = "heunpp2"
    order = 1
    source = "Karras et al. 2022, arXiv:2206.00364"

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        p.visits = [nodes[i] for i in route] if route is not None else list(nodes)
        super().record(p, nodes, route)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        ahead = p.visits[p.step + 2 :]
        d = p.model(p.x, s)
        mean = d
        if ahead and plain(p.visits[0].scale) != 0:  # tau_0 = inf leaves no weight to the others
            y, top = along(p.x, s, t, d), p.visits[0].tau
            d1 = p.model(y, t)
            w = t.tau / top / (3 if len(ahead) > 1 else 2)
            mean = d + w * (d1 - d)
            if len(ahead) > 1:
                d2 = p.model(along(y, t, ahead[0], d1), ahead[0])
                mean = mean + ahead[0].tau / top / 3 * (d2 - d)
        p.x = along(p.x, s, t, mean)
        return []
