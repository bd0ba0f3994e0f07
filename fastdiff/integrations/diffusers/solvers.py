"""Solvers in the form that diffusers' schedulers have where it is not one of `fd.solvers`.

    Stepped      any solver with an order for each step, and steps that may end off the next node
    Singlestep   DPM-Solver's singlestep on a grid given beforehand: the groups' inner nodes are grid points
    Corrected    UniPC without its corrector at some steps
    SDE3M        the third-order stochastic step with -1/2 where the expansion has +1/2
    SDENoise     SDE-DPM-Solver, on noise predictions
    Noising      DDIM from data to noise
    PNDM         pseudo linear multistep on integer indices with a fixed stride, slopes averaged raw
    DDPM         fixed_large noise after the last step
    EnteredLMS   LMS entered later, as image-to-image does
    IPNDM        its first step from alpha = 0, which takes x0 for 0

Facts: diffusers 0.42, src/diffusers/schedulers; methods as in fastdiff/solvers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.math import expm1, plain, sqrt
from ...core.process import Node
from ...core.solver import Past, Solver
from ...solvers._adams import interpolated, mixed
from ...solvers._coordinates import add, total
from ...solvers._exponential import Known, adams, fresh, multistep
from ...solvers.ddim import DDIM
from ...solvers.ddpm import DDPM as Posterior
from ...solvers.dpmpp_2m_sde import DPMpp2MSDE
from ...solvers.dpmpp_3m_sde import DPMpp3MSDE
from ...solvers.lms import LMS
from ...solvers.unipc import UniPC


def at(s: Node, t: float) -> Node:
    return s.process.node(0 * s.t + t)


@dataclass(frozen=True)
class Stepped(Solver):
    """`inner`, of order orders[i] at most in step i, which ends at time ends[i]. A step that ends where it
    starts asks the network and leaves x."""

    inner: Any = None
    orders: tuple[int, ...] = ()
    ends: tuple[float, ...] = ()

    @property
    def predicts(self) -> str:  # type: ignore[override]
        return self.inner.predicts

    @property
    def order(self) -> Any:  # type: ignore[override]
        return self.inner.order

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.inner.stochastic

    def describe(self) -> str:
        return self.inner.describe()

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        past: Past = []
        p.steps = len(self.ends)
        for i, (end, q) in enumerate(zip(self.ends, self.orders, strict=True)):
            s, t = nodes[i], nodes[i + 1]
            p.begin(i, s)
            if end == plain(s.t):
                if not (self.inner.memory and past):
                    p.model(p.x, s)
                past = []
            else:
                past = self.inner.move(p, s, t if end == plain(t.t) else at(s, end), past, q)
            past = p.finish(past, t)


@dataclass(frozen=True)
class Singlestep(Solver):
    """orders 1, 2, 3 within a group: each step goes from the group's start to the next node of the grid, by
    the predictions at the nodes passed."""

    orders: tuple[int, ...] = ()
    kind: str = "data"
    weight: str = "midpoint"
    tau2: int = 0
    legacy: bool = True

    order = 1

    @property
    def predicts(self) -> str:  # type: ignore[override]
        return self.kind

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return bool(self.tau2)

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        p.steps, x, known = len(nodes) - 1, p.x, []
        for i, t in enumerate(nodes[1:]):
            s = nodes[i]
            p.begin(i, s)
            q = min(self.orders[i], len(known) + 1)
            if t.clean:
                p.x = t.alpha * p.model(p.x, s, "data")
                return
            known = [(s, p.keep(p.model(p.x, s, self.kind))), *known[:2]]
            if q == 1:
                x = p.x
            p.x = self.reach(p, x, known[q - 1][0], t, known[:q])
            p.finish([], t)
            x = p.keep(x)

    def reach(self, p: Any, x: Any, s: Node, t: Node, known: Known) -> Any:
        two = self.weight if len(known) == 2 else "heun"
        used = [known[0], known[-1]] if len(known) == 3 and self.weight == "midpoint" else known
        y = multistep(x, s, t, self.kind, used, two, self.tau2)
        if not self.tau2:
            return y
        if len(used) == 3 and self.legacy:
            y = y - t.alpha * second(s, t, known)
        return y + t.sigma * fresh(p, s, t, self.tau2)


def second(s: Node, t: Node, known: Known) -> Any:
    """h^2 m'' of the parabola through three predictions."""
    (a, ma), (b, mb), (c, mc) = known
    h = t.lam - s.lam
    ab, bc = (ma - mb) * (h / (a.lam - b.lam)), (mb - mc) * (h / (b.lam - c.lam))
    return (ab - bc) * (2 * h / (a.lam - c.lam))


@dataclass(frozen=True)
class Corrected(UniPC):
    """skipped: steps whose result stays the predictor's."""

    skipped: tuple[int, ...] = ()

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = past or [(s, p.model(p.x, s, self.prediction))]
        x = p.x
        p.x = self.rule(x, s, t, past[::-1])
        step = p.step
        if past := self.evaluated(p, t, past):
            if step not in self.skipped:
                p.x = self.rule(x, s, t, past[::-1])
        return past


@dataclass(frozen=True)
class SDE3M(DPMpp3MSDE):
    weight: str = "midpoint"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        known = [(s, p.model(p.x, s)), *past[::-1]]
        if len(known) < 3 or not self.legacy:
            p.x = multistep(p.x, s, t, "data", known, self.weight, tau2=1)
        else:
            p.x = adams(p.x, s, t, "data", known, 1, 0.5) - t.alpha / 2 * second(s, t, known)
        p.x = p.x + t.sigma * fresh(p, s, t, 1)
        return known[::-1]


@dataclass(frozen=True)
class SDENoise(DPMpp2MSDE):
    """x_t = alpha_t / alpha_s x_s - 2 sigma_t ((e^h - 1) e_0 + c d) + sigma_t sqrt(e^(2 h) - 1) xi, with
    c = (e^h - 1) / 2, or for "heun" (e^h - 1) / h - 1, and d = (e_0 - e_1) h / h_previous."""

    predicts = "noise"

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        h, e0 = t.lam - s.lam, p.model(p.x, s)
        mean = expm1(h) * e0
        if past:
            u, e1 = past[-1]
            c = expm1(h) / 2 if self.weight == "midpoint" else expm1(h) / h - 1
            mean = mean + c * (h / (s.lam - u.lam)) * (e0 - e1)
        p.x = t.alpha / s.alpha * p.x - 2 * t.sigma * mean + t.sigma * sqrt(expm1(2 * h)) * p.noise(s, t, 1)
        return [(s, e0)]

    def first(self, p: Any, s: Node, t: Node) -> Past:
        p.x = t.alpha * p.model(p.x, s, "data") + t.sigma * p.noise(s, t, 1)
        return []


@dataclass(frozen=True)
class Noising(DDIM):
    """Its first step may begin at the data, sigma = 0. A clip bends the data prediction alone."""

    reproject: bool = False

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        return self.jump(p, s, t, 0)


@dataclass(frozen=True)
class PNDM(Solver):
    """indices: training steps visited, falling; a step goes `stride` of them down, whatever comes next, and
    what falls below 0 is the time `final`. half: of the Runge-Kutta warm-up's inner step; None: no such
    warm-up. kind: "noise", or "velocity": slopes are mixed as they come."""

    indices: tuple[int, ...] = ()
    stride: int = 1
    half: int | None = None
    final: float = 0.0
    train_steps: int = 1000
    kind: str = "noise"

    order = 2

    @property
    def predicts(self) -> str:  # type: ignore[override]
        return self.kind

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        def node(n: int) -> Node:
            return at(nodes[0], (n + 1) / self.train_steps if n >= 0 else self.final)

        def go(x: Any, s: Node, t: Node, d: Any) -> Any:
            eps = d if self.kind == "noise" else s.alpha * d + s.sigma * x
            return t.alpha / s.alpha * x + (t.sigma - s.sigma * t.alpha / s.alpha) * eps

        p.steps, known = len(self.indices), []
        for i, n in enumerate(self.indices):
            s = node(n)
            p.begin(i, s)
            if self.half is not None and i < 3:
                d, x, down = p.keep(p.model(p.x, s)), p.x, self.indices[i + 1]
                inner = node(down + self.half)
                d1 = p.model(go(x, s, node(n - self.half), d), inner)
                d2 = p.model(go(x, s, inner, d1), inner)
                d3 = p.model(go(x, s, node(down), d2), node(down))
                p.x = go(x, s, node(down), (d + 2 * d1 + 2 * d2 + d3) / 6)
                known = [d, *known]
            elif not known:
                d, x, down = p.keep(p.model(p.x, s)), p.x, self.indices[i + 1]
                d1 = p.model(go(x, s, node(n - self.stride), d), node(down))
                p.x = go(x, node(down + self.stride), node(down), (d + d1) / 2)
                known = [d]
            else:
                known = [p.model(p.x, s), *known[:3]]
                p.x = go(p.x, s, node(n - self.stride), mixed(known))
            known = p.finish(known, s)


@dataclass(frozen=True)
class DDPM(Posterior):
    """With the larger variance in the step to data too, if that starts above timestep 0."""

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        p.x = t.alpha * p.model(p.x, s) + s.sigma * p.noise(s, t)
        return []


@dataclass(frozen=True)
class EnteredLMS(LMS):
    """A run that begins at a later node with the weights of a full history: those of the slopes that it does
    not have (at `earlier` times, newest first) are left out."""

    earlier: tuple[float, ...] = ()

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        known = [(s, p.model(p.x, s)), *past[::-1]][: self.order]
        nodes = [n for n, _ in known] + [at(s, u) for u in self.earlier]
        weights = interpolated(s, t, nodes[: self.order])
        p.x = add(p.x, s, t, total(weights[: len(known)], [d for _, d in known]))
        return known[::-1]


@dataclass(frozen=True)
class IPNDM(Solver):
    order = 1
    predicts = "noise"

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        p.steps, known = len(nodes) - 1, []
        for i, t in enumerate(nodes[1:]):
            s = nodes[i]
            p.begin(i, s)
            known = [p.model(p.x, s), *known[:3]]
            eps = mixed(known)
            x0 = 0 * p.x if s.pure else (p.x - s.sigma * eps) / s.alpha
            p.x = t.alpha * x0 + t.sigma * eps
            known = p.finish(known, t)
