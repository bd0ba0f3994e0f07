"""S3: the best schedule of solvers for a number of steps, by evolution with a learned judge.

A schedule is a choice for each step of `usf` and one among several grids. Of every schedule that is run

    J = mean |x_N - x_N^teacher|_rms        or a metric of your own

is known; a small network, trained to rank the known ones, judges the many children of the best by crossover
and mutation, and the most promising are run. The first population holds the unmixed schedules, named solvers
among them, so the result is at least as good as the best of those.

Source: Liu et al. 2024, arXiv:2312.07243; sizes and the loss of the judge are ours.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import check_options
from ..core.grid import check_times
from ..core.hook import Hook
from ..core.plan import Plan
from ..core.plan import plan as make_plan
from ..core.solver import Solver
from ..runtime.denoiser import Denoiser
from ..runtime.sample import grid as make_grid
from ..runtime.sampler import Sampler
from ..solvers._step_choice import Step
from ._descent import Notes, bar
from ._teacher import check_fit, taught

CHOICES: dict[str, tuple[Any, ...]] = {
    "prediction": ("data", "noise"), "order": (1, 2, 3), "estimator": ("interpolation", "difference"),
    "scaling": ("exact", "bh1", "bh2"), "corrector": (0, 2, 3),
}  # fmt: skip
UNMIXED = ("prediction", "order", "corrector")  # all of whose values stand in the first population
WIDTH, LESSONS, RATE = 64, 200, 1e-2  # of the judge

Genes = tuple[int, ...]


def s3_search(
    denoiser: Denoiser,
    shape_or_x: Sequence[int] | Tensor,
    *,
    steps: int,
    grids: Sequence[str] | None = None,
    times: Sequence[Any] | None = None,
    final: str = "zero",
    choices: Mapping[str, Sequence[Any]] | None = None,
    metric: Callable[[Tensor], float] | None = None,
    initial: int = 100,
    population: int = 200,
    mutation: float = 0.2,
    rounds: int = 5,
    top: int = 20,
    teacher: str | Solver = "heun",
    fine: int = 8,
    guidance: Hook | None = None,
    hooks: Sequence[Hook] = (),
    seeds: Any = 0,
    search_seed: int = 0,
    cond: Mapping[str, Any] | None = None,
    progress: bool = False,
    resume: str | os.PathLike[str] | None = None,
) -> Plan:
    """A plan of the best schedule, of one network call a step.

    shape_or_x  the probes: starts at the first time, as in `fd.sample`
    grids, times    keys of `fd.grids`, and rows of times: all are in the choice, and begin and end alike
    choices     values of the fields of a `usf` entry (but method and tau); default: `CHOICES`
    metric      of the samples made of the probes, lower is better; then there is no teacher
    initial     schedules run before the first round, the unmixed ones first; population: children judged in a
                round, of which `top` are run; mutation: the chance of each gene
    teacher, fine    a solver, and how many of its steps stand for one
    search_seed    of the choices at random
    cond, resume    as in `fd.tune.bespoke`

    Costs initial + rounds * top runs of `steps` steps. Raises ValueError or TypeError before any.
    """
    check_fit("s3_search", denoiser, steps=steps, fine=fine, initial=initial, population=population, top=top)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ValueError(f"s3_search: rounds must be a whole number >= 0, got {rounds!r}")
    if not 0 < mutation <= 1:
        raise ValueError(f"s3_search: mutation={mutation!r}; a number in (0, 1] is allowed")
    space = _Space(_choices(choices), _grids(denoiser, steps, grids, times, final), steps)
    every = (guidance, *hooks) if guidance is not None else tuple(hooks)
    run = taught(denoiser, shape_or_x, space.grids[0], 1 if metric else fine, teacher, seeds, cond, every)
    x, wanted = run.states[0], run.x

    def plan_of(genes: Genes) -> Plan:
        schedule, at = space.schedule(genes)
        return make_plan("usf", denoiser.process, at, predicts=denoiser.predicts, hooks=every,
                         schedule=schedule)  # fmt: skip

    def cost(genes: Genes) -> float:
        made = Sampler(denoiser, plan_of(genes))(x, cond=cond)
        if metric is not None:
            found = float(metric(made))
        else:
            found = float((made - wanted).flatten(1).double().square().mean(1).sqrt().mean())
        return found if math.isfinite(found) else math.inf

    judged = "metric" if metric else f"{teacher} {fine}"
    what = (f"s3_search {denoiser!r} {space.choices} {[t.tolist() for t in space.grids]} {judged} "
            f"seed={search_seed}")  # fmt: skip
    notes = Notes(resume, what)
    remembered = {tuple(g): float(v) for g, v in notes.read().get("known", [])}
    known: dict[Genes, float] = {}
    rng = np.random.default_rng(search_seed)

    def evaluate(many: Sequence[Genes], name: str) -> None:
        for k in bar(range(len(many)), progress, name):
            genes = many[k]
            if genes not in remembered:
                remembered[genes] = cost(genes)
                notes.write(known=[[list(g), v] for g, v in remembered.items()])
            known[genes] = remembered[genes]

    evaluate(space.first(initial, rng), "s3_search")
    for r in range(rounds):
        judge = _judge(space, known, search_seed * 1000 + r)
        parents = sorted(known, key=lambda g: known[g])[: max(2, top)]
        children = space.children(parents, population, mutation, rng, known)
        if not children:
            break
        order = np.argsort(judge(children), kind="stable")
        evaluate([children[int(k)] for k in order[:top]], f"s3_search round {r + 1}")
    return plan_of(min(known, key=lambda g: known[g]))


def _choices(given: Mapping[str, Sequence[Any]] | None) -> dict[str, tuple[Any, ...]]:
    chosen = {**CHOICES, **{n: tuple(v) for n, v in (given or {}).items()}}
    check_options("choices of s3_search", chosen, CHOICES)
    for name, values in chosen.items():
        if not values:
            raise ValueError(f"s3_search: choices[{name!r}] is empty")
        for v in values:
            Step(**{name: v})  # says what a field may be
    return chosen


def _grids(denoiser: Denoiser, steps: int, grids: Any, times: Any, final: str) -> list[np.ndarray]:
    process = denoiser.process
    if isinstance(grids, str):
        raise TypeError(f"s3_search: grids must be a list of keys, got {grids!r}")
    keys = [process.default_grid] if grids is None and times is None else list(grids or ())
    found = [make_grid(k, process, steps=steps, final=final) for k in keys]
    found += [check_times(t, process) for t in (() if times is None else times)]
    if not found:
        raise ValueError("s3_search: grids and times are empty; at least one grid is allowed")
    for t in found:
        if len(t) != steps + 1 or t[0] != found[0][0] or t[-1] != found[0][-1]:
            raise ValueError(f"s3_search: every grid must have {steps + 1} times and the same ends, got "
                             f"{len(t)} from {t[0]:g} to {t[-1]:g}")  # fmt: skip
    return found


class _Space:
    """Genes: for each step the index of each field's value, then that of the grid."""

    def __init__(self, choices: dict[str, tuple[Any, ...]], grids: list[np.ndarray], steps: int):
        self.choices, self.grids, self.steps = choices, grids, steps
        self.sizes = [*(len(v) for v in choices.values())] * steps + [len(grids)]

    def schedule(self, genes: Genes) -> tuple[tuple[Step, ...], np.ndarray]:
        width, entries = len(self.choices), []
        for i in range(self.steps):
            own = genes[i * width : (i + 1) * width]
            entries.append(Step(**{n: v[g] for (n, v), g in zip(self.choices.items(), own, strict=True)}))
        return tuple(entries), self.grids[genes[-1]]

    def first(self, count: int, rng: np.random.Generator) -> list[Genes]:
        """The unmixed ones, then others at random."""
        spread = [range(len(v)) if n in UNMIXED else (0,) for n, v in self.choices.items()]
        found = [(*(one * self.steps), g) for g in range(len(self.grids)) for one in product(*spread)]
        made: dict[Genes, None] = dict.fromkeys(found[:count])
        for _ in range(20 * count):
            if len(made) >= count:
                break
            made[tuple(int(rng.integers(n)) for n in self.sizes)] = None
        return list(made)

    def children(
        self, parents: Sequence[Genes], count: int, chance: float, rng: np.random.Generator, known: Any
    ) -> list[Genes]:
        made: dict[Genes, None] = {}
        sizes = np.array(self.sizes)
        for _ in range(20 * count):
            if len(made) >= count:
                break
            a, b = (np.array(parents[int(rng.integers(len(parents)))]) for _ in range(2))
            child = np.where(rng.random(len(sizes)) < 0.5, a, b)
            child = np.where(rng.random(len(sizes)) < chance, rng.integers(sizes), child)
            genes = tuple(child.tolist())
            if genes not in known:
                made[genes] = None
        return list(made)

    def coded(self, many: Sequence[Genes]) -> Tensor:
        """One-hots of all genes."""
        parts = [torch.nn.functional.one_hot(torch.tensor(column), n)
                 for column, n in zip(zip(*many, strict=True), self.sizes, strict=True)]  # fmt: skip
        return torch.cat(parts, 1).double()


def _judge(space: _Space, known: Mapping[Genes, float], seed: int) -> Callable[[Sequence[Genes]], np.ndarray]:
    """A function that ranks: trained on all pairs of known ones, log(1 + e^{better - worse})."""
    g = torch.Generator().manual_seed(seed)
    sizes = (sum(space.sizes), WIDTH, 1)
    weights = [torch.randn(a, b, generator=g, dtype=torch.float64) / a**0.5
               for a, b in zip(sizes, sizes[1:], strict=False)]  # fmt: skip
    weights.append(torch.zeros(WIDTH, dtype=torch.float64))

    def rank(x: Tensor) -> Tensor:
        first, second, shift = weights
        return (torch.tanh(x @ first + shift) @ second)[:, 0]

    x = space.coded(list(known))
    cost = torch.tensor(list(known.values()), dtype=torch.float64)
    worse = cost[:, None] > cost[None, :]
    for w in weights:
        w.requires_grad_()
    adam = torch.optim.Adam(weights, lr=RATE, weight_decay=1e-4)
    with torch.enable_grad():
        for _ in range(LESSONS if bool(worse.any()) else 0):
            adam.zero_grad()
            found = rank(x)
            loss = torch.nn.functional.softplus(found[None, :] - found[:, None])[worse].mean()
            for w, grad in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                w.grad = grad
            adam.step()

    def judge(many: Sequence[Genes]) -> np.ndarray:
        with torch.no_grad():
            return rank(space.coded(many)).numpy()

    return judge
