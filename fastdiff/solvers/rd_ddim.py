"""RD-DDIM: restore, then degrade; the DDIM of any forward SDE dx = b(x, t) dt + g(t) dw.

    restore   y = x - L b(x, s) + L g(s)^2 score(x, s)          the state at s - L, likeliest given x
    noise     D = x - Phi(y; s - L -> s)                        Phi: the forward map without noise
    degrade   x_t = Phi(y; s - L -> t) + kappa D,               kappa = 1 - h / (2 L),   h = s - t in time

span     L / h, at least 1 (to the data at most). The net drift is -b + g^2 score / 2 to first order: order 1.
         Explicit in time: h g^2 / sigma^2 has to be small, so take grids fine in time near the data
None     L reaches the data, y is their prediction, Phi the mean of the process's own kernel and
         kappa = sigma_t / sigma_s: `ddim`. Linear processes only

A linear process has b = f(t) x and Phi = alpha_t / alpha_s; a `NonlinearSDE` with a drift is asked for both
by p.call, a stage for each: b and, by a step of Runge-Kutta, the Phi that are not at rest. The ratio of noise
scales, sqrt((L - h) / L), in place of kappa errs by h^2 / (8 L) a step: no order at all with L in proportion
to h.

Source: Chen et al. 2023, arXiv:2303.03384; kappa is ours.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.math import plain
from ..core.process import Node
from ..core.solver import Past, Solver, check_range


@dataclass(frozen=True)
class RDDDIM(Solver):
    key = "rd-ddim"
    predicts = "score"
    order = 1
    source = "Chen et al. 2023, arXiv:2303.03384"
    kinds: ClassVar[tuple[str, ...]] = ("gaussian", "nonlinear")

    span: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.span is not None:
            check_range(self, "span", 1)

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        if nodes[0].process.kind == "nonlinear":
            if self.span is None:
                raise ValueError("solver 'rd-ddim': span=None wants a linear process; give a span")
            if p.predicts != "score":
                raise ValueError(f"solver 'rd-ddim': {nodes[0].process!r} wants a network that predicts the "
                                 f"score, got {p.predicts!r}: there is no kernel to convert it by")
            if route is not None or any(h.acts("predict") for h in getattr(p, "hooks", ())):
                raise ValueError("solver 'rd-ddim': a nonlinear process has no data prediction and no way "
                                 "back up, so no hook can change them")
        super().record(p, nodes, route)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if self.span is None:
            x0 = p.model(p.x, s, "data")
            p.x = t.alpha * x0 + t.sigma / s.sigma * (p.x - s.alpha * x0)
            return []
        h, whole = s.t - t.t, s.t - s.process.t_zero
        L = self.span * h if plain(self.span * h) < plain(whole) else whole
        u = t if self.span == 1 else s.process.node(s.t - L)
        score = p.model(p.x, s)
        x = p.x
        y = x - L * self.drift(p, x, s) + L * s.process.g2(s.t) * score
        p.x = self.carry(p, y, u, t) + (1 - h / (2 * L)) * (x - self.carry(p, y, u, s))
        return []

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if s.process.kind == "nonlinear":
            return self.step(p, s, t, past)
        return super().last(p, s, t, past)

    def drift(self, p: Any, x: Any, s: Node) -> Any:
        if s.process.kind == "nonlinear":
            return p.call("drift", s, x)
        return s.process.f(s.t) * x

    def carry(self, p: Any, y: Any, u: Node, t: Node) -> Any:
        """Phi(y; u -> t)."""
        if t is u:
            return y
        if u.process.kind == "nonlinear":
            return p.call("carry", u, y, params=(t.t,))
        return t.alpha / u.alpha * y
