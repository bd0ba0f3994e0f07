"""What public code does otherwise than fastdiff's solvers: its further options, and its defects.

    Fast       DPM-Solver-fast with eta            SDE        DPM-Solver++ (SDE) with the inner node at any r
    Seeds      SEEDS with its nodes anywhere       ER         ER-SDE with s_noise, any phi, 200 points
    SA         SA-Solver by a list of tau          Consistent LCM with s_noise from step to step
    Tab        DEIS with polynomials in the time of a VP process that reaches sigma 80
    DPM2RF, DPMpp2SRF    ancestral steps of flow models: `euler-a-rf` with two-stage steps down

They are written for any process: k-diffusion's state is x / alpha, its sigma sigma / alpha.

Source: Katherine Crowson's k-diffusion and ComfyUI (comfy/k_diffusion/sampling.py), each class's docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from ...core.math import Number, exp, expm1, gauss_legendre, log, plain, sqrt
from ...core.process import Node
from ...core.solver import Past, Solver, check_range
from ...processes.vp import VP
from ...solvers._exponential import Noisy, adams, below, fresh, from_noise, midpoint, singlestep
from ...solvers._slope import along, at_tau
from ...solvers.deis import DEIS, integrals_in_time
from ...solvers.er_sde import ERSDE
from ...solvers.ipndm import IPNDM
from ...solvers.ipndm_v import IPNDMV
from ...solvers.lcm import LCM
from ...solvers.lms import LMS
from ...solvers.sa_solver import SASolver


@dataclass(frozen=True)
class Fast(Noisy):
    """DPM-Solver-fast: singlestep steps of given orders. With eta a step ends below the next level, no lower
    than `end`, and goes up to it by fresh noise."""

    predicts = "noise"

    eta: float = 0.0
    orders_of_steps: tuple[int, ...] = ()
    end: float = 0.0

    eta_max, order = 1.0, 3

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        d = self.target(p, s, t)
        x = singlestep(p, s, d, "noise", p.model(p.x, s), self.orders_of_steps[p.step], "midpoint")
        p.x = t.alpha / d.alpha * x
        if d is not t:
            up = sqrt(-expm1(2 * (t.lam - d.lam)))
            p.x = p.x + self.s_noise * t.sigma * up * p.noise(s, t)
        return []

    def target(self, p: Any, s: Node, t: Node) -> Node:
        if not self.eta or p.step == p.steps - 1:
            return t
        k, _ = below(s, t, self.eta)
        end = s.process.node(self.end)
        return s.at(s.lam + k) if plain(s.lam + k) < plain(end.lam) else end


@dataclass(frozen=True)
class SDE(Noisy):
    """DPM-Solver++ (SDE): `dpmpp-sde` with legacy=True, its inner node at lambda_s + r h.

    given: the noise of the second stage is asked for from s to t, as k-diffusion asks; else it is made of the
    increments from s to u and from u to t.
    """

    predicts = "data"

    r: float = 0.5
    given: bool = False

    eta_max, order = 1.0, 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "r", 1e-3, 1)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        x, m0 = p.x, p.model(p.x, s)
        u = t if self.r == 1 else s.at(s.lam + self.r * (t.lam - s.lam))
        (k, up), (whole, all_up) = below(s, u, self.eta), below(s, t, self.eta)
        y = u.alpha * (exp(-k) / s.alpha * x - expm1(-k) * m0)
        first = p.noise(s, u, -0.5) if self.eta else None
        if first is not None:
            y = y + self.s_noise * up * u.sigma * first
        half = 1 / (2 * self.r)
        m = (1 - half) * m0 + half * p.model(y, u)
        p.x = t.alpha * (exp(-whole) / s.alpha * x - expm1(-whole) * m)
        if first is not None:
            p.x = p.x + self.s_noise * all_up * t.sigma * self.over(p, s, u, t, first)
        return []

    def over(self, p: Any, s: Node, u: Node, t: Node, first: Any) -> Any:
        """The noise of the whole step; the motion runs in rho = sigma / alpha."""
        if self.given:
            return p.noise(s, t)
        if u is t:
            return first
        w = (s.rho - u.rho) / (s.rho - t.rho)
        return sqrt(w) * first + sqrt(1 - w) * p.noise(u, t, -0.5)

    def first(self, p: Any, s: Node, t: Node) -> Past:
        return from_noise(p, s, t, (1 - self.eta**2) ** 0.5, self.s_noise * self.eta)


@dataclass(frozen=True)
class Seeds(Noisy):
    """SEEDS with inner nodes at lambda_s + r h for r in `nodes`. weight "phi_1": E_0 times a mean of the
    predictions that is of order 2; "phi_2": the line through the first and the newest."""

    predicts = "data"
    order = 2

    nodes: tuple[float, ...] = (0.5,)
    weight: Literal["phi_1", "phi_2"] = "phi_2"

    def __post_init__(self) -> None:
        super().__post_init__()
        inside = all(isinstance(r, (int, float)) and 0 < r <= 1 for r in self.nodes)
        if not inside or any(b <= a for a, b in zip(self.nodes, self.nodes[1:], strict=False)):
            raise ValueError(
                f"seeds: inner nodes must grow within (0, 1], got {', '.join(map(str, self.nodes))}"
            )

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        x, h = p.x, t.lam - s.lam
        known, v, wave = [(s, p.model(x, s))], s, None
        for r in self.nodes:
            u = t if r == 1 else s.at(s.lam + r * h)
            y, wave = self.mean(x, s, u, known, False), self.wave(p, v, u, wave)
            y = y if wave is None else y + u.sigma * wave
            known, v = [known[0], (u, p.model(y, u))], u
        wave = self.wave(p, v, t, wave)
        p.x = self.mean(x, s, t, known, True)
        p.x = p.x if wave is None else p.x + t.sigma * wave
        return []

    def mean(self, x: Any, s: Node, u: Node, known: Sequence[tuple[Node, Any]], last: bool) -> Any:
        if last and self.weight == "phi_1":
            return midpoint(x, s, u, "data", known, tau2=self.eta)
        return adams(x, s, u, "data", known, self.eta)

    def wave(self, p: Any, v: Node, u: Node, before: Any) -> Any:
        """The noise at u over sigma_u, that at v given."""
        if not self.eta or v is u:
            return before
        return fresh(p, v, u, self.eta, before, self.s_noise)


@dataclass(frozen=True)
class ER(ERSDE):
    """ER-SDE with s_noise and any phi (`scaler`: a function of a tensor of sigma / alpha). legacy=True takes
    200 points."""

    s_noise: float = 1.0
    scaler: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "s_noise", 0)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.s_noise > 0

    def growth(self, n: Node) -> Number:
        return super().growth(n) if self.scaler is None else self.phi_of(n.rho) / n.rho

    def phi_of(self, k: Number) -> Number:
        if self.scaler is None:
            return k * (exp(exp(0.3 * log(k))) + 10)
        return float(self.scaler(torch.tensor(float(k), dtype=torch.float64)))

    def moments(self, s: Node, t: Node) -> tuple[Number, Number]:
        step = t.rho - s.rho
        if self.legacy:
            nodes = [(t.rho - step * j / 200, -step / 200) for j in range(200)]
        else:
            points = 8 + int(np.ceil(4 * plain(t.lam - s.lam)))
            nodes = [(exp(v), w * exp(v)) for v, w in gauss_legendre(-t.lam, -s.lam, points)]
        density = [(k, w / self.phi_of(k)) for k, w in nodes]
        phi = t.rho * self.growth(t)
        I1, I2 = sum(w for _, w in density), sum(w * (k - s.rho) for k, w in density)
        return step + phi * I1, step * step / 2 + phi * I2

    def noise(self, p: Any, s: Node, t: Node, before: Any = None) -> Any:
        kept = self.growth(t) / self.growth(s)
        fraction = 1 - kept * kept
        size = sqrt(fraction) if plain(fraction) > 0 else 0.0  # where phi / k falls there is none
        return self.s_noise * size * p.noise(s, t, -log(kept) / (t.lam - s.lam))

    def first(self, p: Any, s: Node, t: Node) -> Past:
        return from_noise(p, s, t, 0, self.s_noise)


@dataclass(frozen=True)
class SA(SASolver):
    """SA-Solver, tau^2 of each step given. lower: towards sigma = 0 orders fall to 1 one step earlier than in
    `sa-solver`: they count to the last level that is not 0."""

    taus: tuple[float, ...] = ()
    s_noise: float = 1.0
    lower: bool = True

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return any(self.taus) and self.s_noise > 0

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        return max(self.predictor, self.corrector - 1)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = past or [(s, p.model(p.x, s))]
        x, tau2 = p.x, self.taus[p.step] ** 2
        left = p.steps - 1 - p.step if self.lower else max(self.predictor, self.corrector)
        xi = t.sigma * fresh(p, s, t, tau2, None, self.s_noise) if tau2 and self.s_noise else None

        def reach(known: Sequence[tuple[Node, Any]]) -> Any:
            two = self.legacy and len(known) == 2
            y = (
                midpoint(x, s, t, "data", known, t.lam - s.lam, tau2)
                if two
                else adams(x, s, t, "data", known, tau2)
            )
            return y if xi is None else y + xi

        p.x = reach(past[::-1][: min(self.predictor, left)])
        if p.step == p.steps - 1:
            return []
        known = [(t, p.model(p.x, t)), *past[::-1]]
        corrects = self.corrector and (self.pece or not (self.lower and p.step == p.steps - 2))
        if corrects:
            p.x = reach(known[: min(self.corrector, left)])
            if self.pece:
                known[0] = t, p.model(p.x, t)
        return known[::-1]

    def first(self, p: Any, s: Node, t: Node) -> Past:
        tau2 = self.taus[0] ** 2
        return from_noise(p, s, t, *((0, self.s_noise, tau2) if tau2 else (1, 0)))


@dataclass(frozen=True)
class Consistent(LCM):
    """LCM with its noise times s_noise, which goes to s_noise_end in a straight line over the steps."""

    s_noise: float = 1.0
    s_noise_end: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "s_noise", 0)
        check_range(self, "s_noise_end", 0)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        part = p.step / (p.steps - 1) if p.steps > 1 else 0.0
        level = self.s_noise + (self.s_noise_end - self.s_noise) * part
        p.x = t.alpha * p.model(p.x, s) + level * t.sigma * p.noise(s, t)
        return []


@dataclass(frozen=True)
class Fitted(VP):
    """With a beta that is below 0 beside t = 0, as public code fits it."""

    def __post_init__(self) -> None:
        pass


@lru_cache(maxsize=1)
def _training() -> VP:
    """The VP process whose level is 0.002 at t = 0.001 and 80 at t = 1."""
    top, low = np.log1p(80.0**2), np.log1p(0.002**2)
    rise = 2 * (low / 1e-3 - top) / (1e-3 - 1)
    return Fitted(beta_min=float(top - rise / 2), beta_max=float(top + rise / 2))


class ToData(Solver):
    """Public code goes to sigma = 0 by the data prediction, also where a method's own weights are finite
    there."""

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        return Solver.last(self, p, s, t, past)


class LMSToData(ToData, LMS):
    pass


class IPNDMToData(ToData, IPNDM):
    pass


class IPNDMVToData(ToData, IPNDMV):
    pass


class DEISToData(ToData, DEIS):
    pass


@dataclass(frozen=True)
class Tab(DEISToData):
    """DEIS in the time of a VP process. legacy=True integrates by sums of 10000 points, the last of which
    stands at the end, as public code does."""

    legacy: bool = False

    def weights(self, s: Node, t: Node, nodes: Sequence[Node]) -> list[Number]:
        if len(nodes) == 1:
            return [t.rho - s.rho]
        vp = _training()

        def moved(n: Node) -> Node:
            return vp.node(vp.time_of(n.lam))

        if not self.legacy:
            return integrals_in_time(moved(s), moved(t), [moved(n) for n in nodes])
        a, b, known = float(moved(s).t), float(moved(t).t), [float(moved(n).t) for n in nodes]
        u = np.linspace(a, b, 10000)
        log_alpha = 2 * np.asarray(vp.log_alpha(u))
        slope = np.asarray(vp.beta(u)) / 2 / np.sqrt(np.exp(log_alpha) * -np.expm1(log_alpha))
        rows = [np.prod([(u - w) / (v - w) for w in known if w is not v], axis=0) for v in known]
        return [float((slope * row).sum() * (b - a) / len(u)) for row in rows]


def lowered(s: Node, t: Node, eta: float) -> tuple[Node, Number, Number]:
    """The node below t, by how much x shrinks on the way up to t, and the noise there: `euler-a-rf`'s."""
    drop = t.tau * eta * (1 - t.tau / s.tau)
    d = at_tau(s, t.tau - drop)
    shrink = t.alpha / d.alpha
    return d, shrink, sqrt(drop / (1 - d.tau) * (t.tau + d.tau * shrink))


class RF(Noisy):
    """Base of the ancestral steps of flow models."""

    predicts = "data"
    eta_max = 1.0
    order = 2

    def up(self, p: Any, s: Node, t: Node, x: Any, shrink: Number, up: Number) -> Any:
        x = shrink * x
        return x + self.s_noise * up * p.noise(s, t) if self.eta else x

    def first(self, p: Any, s: Node, t: Node) -> Past:
        return self.step(p, s, t, [])


@dataclass(frozen=True)
class DPM2RF(RF):
    """The midpoint method down, its node at the geometric mean of both levels."""

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        d, shrink, up = lowered(s, t, self.eta)
        u = at_tau(s, sqrt(s.tau * d.tau))
        y = along(p.x, s, u, p.model(p.x, s, "slope"))
        p.x = self.up(p, s, t, along(p.x, s, d, p.model(y, u, "slope")), shrink, up)
        return []


@dataclass(frozen=True)
class DPMpp2SRF(RF):
    """Through the middle in lambda (from alpha = 0: 0.9999), by the data prediction found there."""

    def middle(self, s: Node, d: Node) -> Node:
        return s.process.node(0.9999) if s.pure else s.at((s.lam + d.lam) / 2)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        d, shrink, up = lowered(s, t, self.eta)
        u = self.middle(s, d)
        y = toward(p.x, s, u, p.model(p.x, s))
        p.x = self.up(p, s, t, toward(p.x, s, d, p.model(y, u)), shrink, up)
        return []


def toward(x: Any, s: Node, t: Node, data: Any) -> Any:
    """Straight on from s to t by a data prediction."""
    r = t.tau / s.tau
    return r * x + (1 - r) * data
