"""The compiler: one linear stage per call, carrying as few tensors as can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastdiff.core.compile import Special, compile_record
from fastdiff.core.grid import grids
from fastdiff.core.hook import Hook
from fastdiff.core.interpret import interpret
from fastdiff.core.plan import DRAWS, INPUTS, OUTPUTS, Recipe, plan
from fastdiff.core.predict import PREDICTIONS
from fastdiff.core.process import Process, processes
from fastdiff.core.recorder import Recorder
from fastdiff.core.solver import Multistep, Solver, solvers
from fastdiff.testing.solvers import network_rows, planned, rank, variants

VP, FLOW = processes.get("vp")(), processes.get("flow-matching")()
KINDS = (*PREDICTIONS, "edm")


def grid_for(process: Process, steps: int, predicts: str, final: str = "zero") -> np.ndarray:
    times = grids.make(process.default_grid).times(process, steps, final).copy()
    top = process.node(float(times[0]))
    if top.pure and (predicts in ("noise", "score") or top.clean):  # clean: the far end of a bridge
        times[0] *= 0.999
    return times


@pytest.mark.parametrize("process", processes.names(kind="gaussian"))
def test_carries_the_fewest_tensors(process: str) -> None:
    """At every call of every plan. The bound is computed here anew: the formula itself is run on the basis
    (x_T, output 0, output 1, ...), and the rank of what later calls are given, over what exists so far, is
    found by elimination in 60 digits. Every variant with two kinds of prediction on VP and on flow matching,
    with one on every other process or so, in turn."""
    made = processes.make(process)
    turn = processes.names(kind="gaussian").index(process)
    every = 3 if process in ("vp", "flow-matching") else 12
    for k, key in enumerate(planned()):
        for i, options in enumerate(variants(key)):
            for j, predicts in enumerate(KINDS):
                if (k + i + j + turn) % every:
                    continue
                if made.const is not None and predicts == "edm":
                    continue  # is refused
                steps = 8 + (i + j) % 3
                times = grid_for(made, steps, predicts, ("zero", "sigma_min")[(i + j) % 2])
                p = plan(key, made, times, predicts=predicts, **options)
                rows = network_rows(solvers.make(key, **options), made, times, predicts)
                # the result is no call's argument: it is memory only across the calls before it
                ranks = [rank(rows[k:], range(k + 1)) for k in range(len(rows) - 1)]
                stages = [s for s in p.stages if s.call]
                assert [s.rank for s in stages] == ranks, (key, options, predicts)
                assert [s.alive for s in stages] == ranks, (key, options, predicts)
                assert p.carried == p.bound == max(ranks)


KNOWN = [
    ("ddim", {}, 1),
    ("ddim", {"eta": 0.7}, 1),
    ("ddpm", {}, 1),
    ("euler", {}, 1),
    ("euler", {"churn": 5.0}, 1),
    ("euler-a", {}, 1),
    ("heun", {}, 2),
    ("heun", {"churn": 5.0}, 2),
    ("dpm2", {}, 2),
    ("dpmpp-2s", {}, 2),
    ("dpmpp-2s", {"weight": "taylor"}, 2),
    ("dpmpp-2m", {}, 2),
    ("dpmpp-2m", {"order": 1}, 1),
    ("dpmpp-2m-sde", {}, 2),
    ("dpmpp-2m-sde", {"eta": 0.3}, 2),
    ("unipc", {"order": 1}, 2),
    ("unipc", {}, 3),
    ("unipc", {"order": 3}, 4),
    ("unipc", {"order": 3, "startup": "single"}, 4),
]


@pytest.mark.parametrize("key, options, carried", KNOWN)
@pytest.mark.parametrize("predicts", ["noise", "data"])
def test_known_numbers(key: str, options: dict[str, Any], carried: int, predicts: str) -> None:
    for process in (VP, FLOW):
        p = plan(key, process, grid_for(process, 12, predicts), predicts=predicts, **options)
        assert p.carried == p.bound == carried


# tensors read and written in mid-flight, per network call: found by a search over all orders of candidates
# in the prototype
TRAFFIC = [
    ("ddim", {}, "data", 3),
    ("ddim", {}, "noise", 3),
    ("dpmpp-2m", {}, "data", 4),
    ("dpmpp-2m", {}, "noise", 5),
    ("dpmpp-2s", {}, "data", 3),
    ("heun", {}, "data", 3.5),
    ("unipc", {}, "data", 5),
    ("unipc", {}, "noise", 6),
    ("unipc", {"order": 3}, "data", 6),
    ("unipc", {"order": 3}, "noise", 7),
    ("euler-a", {}, "noise", 3),
]


@pytest.mark.parametrize("key, options, predicts, expected", TRAFFIC)
def test_traffic(key: str, options: dict[str, Any], predicts: str, expected: float) -> None:
    p = plan(key, VP, grid_for(VP, 40, predicts), predicts=predicts, **options)
    middle = p.stages[12:28]  # even in number: methods of two calls a step alternate
    assert sum(len(s.inputs) + len(s.outputs) for s in middle) / len(middle) <= expected


def test_one_stage_a_call_and_one_launch_a_stage() -> None:
    for key in planned():
        for options in variants(key):
            p = plan(key, VP, grid_for(VP, 9, "noise"), **options)
            assert len(p.stages) == len(p.calls) + 1 and p.stages[-1].call is None
            for s in p.stages:
                # what is more than a launch takes is split, where as much must be carried
                assert len(s.outputs) <= max(OUTPUTS, p.carried)
                assert len(s.inputs) <= INPUTS and len(s.draws) <= DRAWS
                assert all(np.any(column != 0) for column in s.coeffs.T), (
                    "a coefficient 0 removes the read and the draw"
                )
            assert not p.stages[0].outputs or p.stages[0].draws, (
                "the first argument is x_T itself unless noise comes before"
            )


class _Linear(Solver):
    """Formulas that are wrong in ways a recorder can tell."""

    def __init__(self, what: Any):
        self.what = what

    def step(self, p: Any, s: Any, t: Any, past: list[Any]) -> list[Any]:
        p.x = self.what(p, p.model(p.x, s))
        return []


@pytest.mark.parametrize(
    "what, message",
    [
        (lambda p, m: p.x * m, "two tensors cannot be multiplied"),
        (lambda p, m: p.x / m, "cannot be a divisor"),
        (lambda p, m: p.x + 1.0, "cannot be added to float"),
    ],
)
def test_plans_are_linear(what: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Recipe(_Linear(what), VP, (0.9, 0.5, 0.2), "data").record()


def test_an_unused_draw_and_an_unused_call_cost_nothing() -> None:
    """A draw times zero is not drawn; a history that nobody reads is not carried."""

    class Wasteful(Multistep):
        memory = 3

        def step(self, p: Any, s: Any, t: Any, past: list[Any]) -> list[Any]:
            m = p.model(p.x, s)
            p.x = t.sigma / s.sigma * p.x + t.alpha * m + 0.0 * p.noise()
            return [*past, m]

    p = plan(Wasteful(order=1), VP, grid_for(VP, 6, "data"), predicts="data")
    assert not p.stochastic and p.carried == 1


def test_draws_are_replayed_and_never_carried() -> None:
    """A method that uses one draw in two steps: drawn twice, from one counter, carried never."""

    class Colored(Solver):
        memory = 1

        def step(self, p: Any, s: Any, t: Any, past: list[Any]) -> list[Any]:
            xi = p.noise()
            old = past[-1] if past else 0 * xi
            p.x = t.sigma / s.sigma * p.x + t.alpha * p.model(p.x, s) + t.sigma * (xi + old / 2)
            return [xi]

    times = grid_for(VP, 5, "data", "sigma_min")
    p = plan(Colored(), VP, times, predicts="data")
    assert p.carried == p.bound == 1
    assert [s.draws for s in p.stages[1:4]] == [((0, 0),), ((0, 0), (1, 0)), ((1, 0), (2, 0))]


def test_two_columns_of_one_step_stay_two() -> None:
    """Variances are never merged: the direct run must equal the plan."""
    p = plan("heun", VP, grid_for(VP, 4, "data"), predicts="data", churn=4.0)
    assert sorted({d for s in p.stages for d in s.draws}) == [(i, 0) for i in range(4)]
    both = plan(_TwoDraws(), VP, grid_for(VP, 3, "data", "sigma_min"), predicts="data")
    assert [s.draws for s in both.stages[1:]] == [((i, 0), (i, 1)) for i in range(3)]


class _TwoDraws(Solver):
    def step(self, p: Any, s: Any, t: Any, past: list[Any]) -> list[Any]:
        p.x = t.sigma / s.sigma * p.x + t.alpha * p.model(p.x, s) + t.sigma * p.noise() + s.sigma * p.noise()
        return []


def test_constants_cost_no_memory() -> None:
    class Pulled(Solver):
        def step(self, p: Any, s: Any, t: Any, past: list[Any]) -> list[Any]:
            p.x = t.sigma / s.sigma * p.x + t.alpha * p.model(p.x, s) + (t.t - s.t) * p.const("mu")
            return []

    times = grid_for(VP, 4, "data", "sigma_min")
    p = plan(Pulled(), VP, times, predicts="data")
    assert p.carried == 1 and "const:mu" in p.kinds
    got = interpret(p, lambda x, c, b: 0 * x, np.array([1.0]), consts={"mu": np.array([2.0])})
    x = 1.0
    for s, t in zip(times, times[1:], strict=False):
        x = VP.sigma(t) / VP.sigma(s) * x + (t - s) * 2.0
    assert got == pytest.approx([x], rel=1e-13)


# tapes


def test_a_tape_gives_the_same_structure() -> None:
    times = tuple(grid_for(VP, 7, "noise").tolist())
    recipe = Recipe(solvers.make("unipc", order=3), VP, times, "noise")
    first = recipe.record()
    program = compile_record(first)
    again = compile_record(recipe.record(answers=first.asked), program.tape)
    assert [s.rows.keys() for s in again.stages] == [s.rows.keys() for s in program.stages]
    assert [s.rows for s in again.stages] == [s.rows for s in program.stages]
    assert again.tape == program.tape


def test_special_times_are_noticed() -> None:
    """On a straight path in equal steps of 1/8 Heun has rows with a coefficient of exactly 1, which nearby
    times have not."""
    times = tuple(np.linspace(1, 0, 9).tolist())
    recipe = Recipe(solvers.make("heun"), FLOW, times, "data")
    tape = compile_record(recipe.record()).tape
    near = Recipe(solvers.make("heun"), FLOW, tuple(t + 0.01 * t * (1 - t) for t in times), "data")
    compile_record(recipe.record(), tape, verify=True)
    with pytest.raises(Special):
        compile_record(near.record(), tape, verify=True)


# hooks, as the compiler sees them


class Weighted(Hook):
    branches = 1

    def weights(self, node: Any, step: int) -> tuple[float, float]:
        return 1.5, -0.5


@pytest.mark.parametrize("key", planned())
def test_guidance_costs_no_stage(key: str) -> None:
    """Two outputs a call, one weighted sum: as many stages as without, and what is carried is still the
    bound."""
    times = grid_for(VP, 9, "noise")
    plain, guided = plan(key, VP, times), plan(key, VP, times, guidance=Weighted())
    assert len(guided.stages) == len(plain.stages) and guided.carried == guided.bound == plain.carried
    assert guided.nfe == 2 * plain.nfe


def test_a_recorder_names_only_what_is_new() -> None:
    rec = Recorder("data")
    x = rec.x
    assert rec.keep(x) is x and len(rec.segments[0]) == 0
    half = rec.keep(x / 2)
    assert len(rec.segments[0]) == 1 and rec.keep(half) is half
