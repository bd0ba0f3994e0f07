"""SA-Solver: stochastic Adams predictor and corrector for the reverse SDE of noise level tau(t).

    predictor   y   = A x_s + (1 + tau^2) alpha_t int_0^h e^{-(1 + tau^2)(h - u)} P(u) du + c xi
    corrector   x_t = the same with the polynomial through m(y, t) too, and the same xi
    A = (sigma_t / sigma_s) e^{-tau^2 h},      c = sigma_t sqrt(1 - e^{-2 tau^2 h}),      tau = tau(t)

P: the polynomial through the newest `predictor` data predictions; the corrector's goes through `corrector`
of them, m(y, t) included (0: none). m(y, t) is the next step's m_0, one call a step; pece=True asks the
network again at x_t. The last step has no corrector.

tau: a number; (level, low, high), which is level where low <= t <= high and 0 elsewhere; or a function of the
node. legacy=True: rules of two nodes take h^2 / 2 for their first moment, as public codes do for few steps.

tau = 0 with no corrector is exponential Adams-Bashforth (`dpmpp-2m` "heun", `dpmpp-3m`), tau = 1 with
predictor=1 `ddpm`. Orders: tau = 0 min(corrector, predictor + 1); of the law at most 2 else.

Source: Xue et al. 2023, arXiv:2309.05019, algorithm 1.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.math import Number, decided, plain
from ..core.process import Node
from ..core.solver import Past, Solver
from ._exponential import Known, adams, fresh, from_noise, midpoint, singlestep


@dataclass(frozen=True)
class SASolver(Solver):
    key = "sa-solver"
    predicts = "data"
    memory = 1
    source = "Xue et al. 2023, arXiv:2309.05019"

    predictor: Literal[1, 2, 3, 4] = 3
    corrector: Literal[0, 1, 2, 3, 4] = 4
    tau: Any = (1.0, 0.2, 0.8)
    pece: bool = False
    startup: Literal["ramp", "single"] = "ramp"
    lower_order_final: Literal["auto", "always", "never"] = "always"
    legacy: bool = False

    startups = ("ramp", "single")

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = (self.tau,) if isinstance(self.tau, (int, float)) else self.tau
        if callable(numbers):
            return
        good = isinstance(numbers, tuple) and len(numbers) in (1, 3)
        if not good or any(type(v) not in (int, float) or not v >= 0 for v in numbers):
            raise ValueError(f"solver {self.key!r}: tau must be a number >= 0, three of them (level, low, "
                             f"high) or a function of the node, got {self.tau!r}")

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.predictor

    @property
    def corrects(self) -> int:  # type: ignore[override]
        return min(self.corrector - self.predictor, 1) if self.corrector else 0

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return callable(self.tau) or (self.tau[0] if isinstance(self.tau, tuple) else self.tau) > 0

    def tau2(self, t: Node) -> Number:
        tau: Any = self.tau
        if callable(tau):
            tau = tau(t)
        elif isinstance(tau, tuple):
            level, low, high = tau
            tau = level if decided(t.t, lambda v: low <= v <= high) else 0.0
        return tau * tau

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        q = max(self.predictor, self.corrector - 1)
        lower = self.lower_order_final == "always" or (self.lower_order_final == "auto" and steps < 15)
        return min(q, steps - step) if lower else q

    def start(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        if self.startup == "ramp" or q == 1:
            return self.step(p, s, t, past)
        past = past or [(s, p.model(p.x, s))]
        p.x = singlestep(p, s, t, "data", past[-1][1], min(q, 3), "pair", self.tau2(t))
        return [] if p.step == p.steps - 1 else [*past, (t, p.model(p.x, t))]

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        past = past or [(s, p.model(p.x, s))]
        x, tau2 = p.x, self.tau2(t)
        xi = t.sigma * fresh(p, s, t, tau2) if plain(tau2) else None

        def reach(known: Known) -> Any:
            two = self.legacy and len(known) == 2
            y = (midpoint(x, s, t, "data", known, t.lam - s.lam, tau2) if two
                 else adams(x, s, t, "data", known, tau2))
            return y if xi is None else y + xi

        p.x = reach(past[::-1][: self.predictor])
        if p.step == p.steps - 1:
            return []
        known = [(t, p.model(p.x, t)), *past[::-1]]
        if self.corrector:
            p.x = reach(known[: self.corrector])
            if self.pece:
                known[0] = t, p.model(p.x, t)
        return known[::-1]

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """h = inf: nothing of x_s is left if tau > 0."""
        tau2 = self.tau2(t)
        return from_noise(p, s, t, *((0, 1, tau2) if plain(tau2) else (1, 0)))

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if not past:
            return super().last(p, s, t, past)
        p.x = t.alpha * past[-1][1]
        return []
