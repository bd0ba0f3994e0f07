"""USF: a schedule of solvers, one for each step, in one common state.

    schedule = [{"order": 1}, {"order": 2, "prediction": "noise"}, {"order": 3, "corrector": 3}, ...]

An entry: prediction, order, method, estimator, scaling, corrector, tau, as `Step` in _step_choice.py says; a
single one serves all steps. History holds predictions of both kinds, so that neighbours may differ in all.

Of one entry it is `dpmpp-2m`, `unipc`, `sa-solver` or `deis` (logrho): equalities that its tests state.

Source: Liu et al. 2024, arXiv:2312.07243.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.process import Node
from ..core.solver import Past, Solver
from ._step_choice import Step, reach, schedule_of
from ._usf import fresh, known_of, mean


@dataclass(frozen=True)
class USF(Solver):
    key = "usf"
    predicts = "data"
    source = "Liu et al. 2024, arXiv:2312.07243"

    schedule: Any = (Step(),)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "schedule", schedule_of(self.schedule))

    @property
    def order(self) -> int:
        return min(entry.reaches for entry in self.schedule)

    @property
    def stochastic(self) -> bool:
        return any(entry.tau > 0 for entry in self.schedule)

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        if len(self.schedule) not in (1, steps):
            raise ValueError(f"solver 'usf': schedule has {len(self.schedule)} entries for {steps} steps; "
                             "give one for each, or one for all")
        return reach(self.schedule)

    def at(self, p: Any) -> Step:
        self.limit(p.step, p.steps)
        return self.schedule[p.step % len(self.schedule)]

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        now, x = self.at(p), p.x
        past = past if past and past[-1][0] is s else [*past, self.predicted(p, x, s, now)]
        if now.method == "singlestep":
            known = known_of(past, now)[:1]
            for i in range(1, now.order):
                u = s.at(s.lam + (t.lam - s.lam) * i / now.order)
                known = [known[0], (u, p.model(mean(x, s, u, now, known), u, now.prediction))]
        else:
            known = known_of(past, now)[: now.order]
        noise = [fresh(p, s, t, now)] if now.tau else []
        p.x = sum(noise, start=mean(x, s, t, now, known))
        if now.corrector and p.step < p.steps - 1:
            past = [*past, self.predicted(p, p.x, t, now)]
            p.x = sum(noise, start=mean(x, s, t, now, known_of(past, now)[: now.corrector]))
        return past

    def first(self, p: Any, s: Node, t: Node) -> Past:
        if not self.at(p).tau:
            return super().first(p, s, t)
        p.x = t.alpha * p.model(p.x, s) + t.sigma * p.noise(s, t, self.at(p).tau**2)
        return []

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        if not past or past[-1][0] is not s:
            return super().last(p, s, t, past)
        _, m, eps = past[-1]
        data = self.at(p).prediction == "data"
        p.x = t.alpha * m if data else t.alpha / s.alpha * (p.x - s.sigma * eps)
        return []

    def predicted(self, p: Any, x: Any, n: Node, now: Step) -> tuple[Node, Any, Any]:
        """(node, data prediction, noise prediction) by a network call; only what the schedule takes."""
        m = p.model(x, n, now.prediction)
        data, mixed = now.prediction == "data", len({e.prediction for e in self.schedule}) > 1
        other = ((x - n.alpha * m) / n.sigma if data else (x - n.sigma * m) / n.alpha) if mixed else None
        return (n, m, other) if data else (n, other, m)

