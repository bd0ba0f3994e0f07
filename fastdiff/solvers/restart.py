"""Restart: at some levels back up by fresh noise and down again, K times; a wrapper of any solver.

    up      x = a x + s_noise sqrt(sigma_max^2 - a^2 sigma_min^2) xi,      a = alpha_max / alpha_min
    down    the inner solver on n nodes from rho_max to rho_min, evenly spaced in rho^{1/7} (karras)

segments: (n, K, rho_min, rho_max) each, rho = sigma / alpha; rho_min becomes the grid's nearest node above 0.
A segment belongs to the step that ends at its rho_min. Errors made before shrink by every restart; those
within a segment do not, so n has to grow with the steps for the inner solver's order.

Source: Xu et al. 2023, arXiv:2306.14878.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..core.math import exp, log, plain
from ..core.process import Node
from ..core.solver import check_range, renoise
from ._wrapper import Wrapper

Segment = tuple[int, int, float, float]


@dataclass(frozen=True)
class Restart(Wrapper):
    key = "restart"
    source = "Xu et al. 2023, arXiv:2306.14878"

    segments: tuple[Segment, ...] = ()
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "s_noise", 0)
        try:
            made = tuple((n, k, float(low), float(high)) for n, k, low, high in self.segments)
        except (TypeError, ValueError) as e:
            what = "a tuple of (nodes, repeats, rho_min, rho_max)"
            raise ValueError(f"solver 'restart': segments must be {what}, got {self.segments!r}") from e
        for n, k, low, high in made:
            counts = type(n) is int and type(k) is int and n >= 2 and k >= 0
            if not (counts and 0 < low < high < float("inf")):
                need = "nodes >= 2, repeats >= 0 and 0 < rho_min < rho_max"
                raise ValueError(f"solver 'restart': segments need {need}, got {(n, k, low, high)}")
        object.__setattr__(self, "segments", made)  # a list is taken too, and hashes no longer

    @property
    def stochastic(self) -> bool:
        return self.made.stochastic or any(k for _, k, _, _ in self.segments)

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        if route is not None:
            raise ValueError("restart makes its own way: it does not go with a hook's route")
        past, p.steps = [], len(nodes) - 1
        p.x = p.inside(p.x, nodes[0])
        ways = self.ways(nodes)
        for i, (s, t) in enumerate(pairwise(nodes)):
            p.begin(i, s)
            past = self.made.move(p, s, t, past, self.made.limit(i, p.steps))
            for down in ways.get(i + 1, ()):
                renoise(p, t, down[0], self.s_noise)
                past = []
                for a, b in pairwise(down):
                    past = self.made.move(p, a, b, past, self.made.order)
            past = p.finish(past, t)
        p.x = p.outside(p.x, nodes[-1])

    def ways(self, nodes: Sequence[Node]) -> dict[int, list[list[Node]]]:
        """Index of a node -> the ways down to it."""
        levels = {i: plain(n.rho) for i, n in enumerate(nodes) if not n.clean and not n.pure and i > 0}
        found: dict[int, list[list[Node]]] = {}
        for n, k, low, high in self.segments:
            i = min(levels, key=lambda i: abs(levels[i] - low), default=None)
            if i is None or levels[i] >= high:
                raise ValueError(f"restart: no node of the grid lies below rho_max={high:g} and near {low:g}")
            bottom, top = nodes[i], -log(high + 0 * nodes[i].rho)  # in the kind of number of the nodes
            a, b = exp(-top / 7), exp(log(bottom.rho) / 7)
            inner = [bottom.at(-7 * log(a + (b - a) * j / (n - 1))) for j in range(1, n - 1)]
            found.setdefault(i, []).extend([[bottom.at(top), *inner, bottom]] * k)
        return found
