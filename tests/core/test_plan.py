"""A plan as data: its tables over other numbers, its adjoint, its file, its hooks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdiff.core.direct import Direct
from fastdiff.core.grid import grids
from fastdiff.core.hook import Hook
from fastdiff.core.interpret import interpret
from fastdiff.core.plan import Plan, plan
from fastdiff.core.process import Process, processes
from fastdiff.core.solver import solvers
from fastdiff.guidance import CFG
from fastdiff.testing import GaussianMixture
from fastdiff.testing.solvers import planned, variants

VP, VE, FLOW = (processes.get(k)() for k in ("vp", "ve", "flow-matching"))
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
X = torch.linspace(-2, 2, 7, dtype=torch.float64)
CASES = [
    pytest.param(k, o, id=f"{k}-{'-'.join(f'{n}={v}' for n, v in o.items()) or 'default'}")
    for k in planned()
    for o in variants(k)
]


def network(process: Process, predicts: str) -> Any:
    """net(x, node) that differentiates in the node's alpha and sigma too."""

    def net(x: torch.Tensor, n: Any) -> torch.Tensor:
        x0, eps = MIXTURE.expectations(x, n.alpha, n.sigma)
        if predicts == "velocity":
            return n.alpha * eps - n.sigma * x0
        return x0 if predicts == "data" else eps

    return net


def draw(step: int, column: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([step + 1, column]).standard_normal(len(X)))


def small_grid(process: Process, steps: int, predicts: str = "data") -> np.ndarray:
    times = (
        grids.make("logsnr" if process is VE else process.default_grid).times(process, steps, "zero").copy()
    )
    if process is VE:  # not down from 50: at such steps a noise prediction costs all digits
        times[:-1] = process.time_of(np.linspace(-np.log(5.0), np.log(10.0), steps))
    if predicts == "noise" and process.node(float(times[0])).pure:
        times[0] = 0.95
    return times


# over torch scalars


@pytest.mark.parametrize("key, options", CASES)
def test_tables_differentiate_in_the_times(key: str, options: dict[str, Any]) -> None:
    """The formula run on tensors with trainable times, and the plan's tables at these times: values and
    derivatives agree."""
    solver = solvers.make(key, **options)
    for process, predicts, steps in (
        (VP, "noise", 8),
        (VE, "data", 6),
        (FLOW, "velocity", 8),
        (FLOW, "data", 4),
    ):
        net = network(process, predicts)
        times = small_grid(process, steps, predicts)
        if predicts == "velocity":
            times = 0.93 * times  # at t = 0.5 a velocity is a slope, which generic() refuses
        if key == "rd-ddim":
            times[1:-1] *= 0.97  # from t = 0.75 to 0.5 on the straight path its coefficient of x is 0
        p = plan(solver, process, times, predicts=predicts).generic()
        t = [
            torch.tensor(v, dtype=torch.float64, requires_grad=0 < i < steps)
            for i, v in enumerate(times.tolist())
        ]
        d = Direct(net, X, predicts, wanted=solver.predicts, noise=draw)
        solver.record(d, [process.node(v) for v in t])
        found = p.coefficients(t)
        calls = iter(found.times)
        y = interpret(
            p,
            lambda x, c, b, net=net, calls=calls, process=process: net(x, process.node(next(calls))),
            X,
            noise=draw,
            tables=found.tables,
        )
        assert (y - d.x).abs().max() <= 1e-11 * d.x.abs().max()
        expected = torch.autograd.grad((d.x**2).sum(), t[1:-1])
        got = torch.autograd.grad((y**2).sum(), t[1:-1])
        scale = max(float(g.abs()) for g in expected)
        # elimination in float64 costs up to two digits over the formula: 1e-11 is what issue and prototype
        # found for values
        assert max(float((a - b).abs()) for a, b in zip(got, expected, strict=True)) <= 1e-10 * scale


def test_tables_at_the_plans_own_times_are_its_own() -> None:
    for key in planned():
        p = plan(key, VP, small_grid(VP, 6))
        tables = p.coefficients(p.times.tolist()).tables
        for a, b in zip(tables, p.coeffs, strict=True):
            # 1e-9: float64 elimination against 60 digits, relative to each table's own scale
            assert np.abs(np.array([list(r) for r in a]).reshape(b.shape) - b).max(
                initial=0
            ) <= 1e-9 * np.abs(b).max(initial=0)


def test_tables_for_each_sample_its_own_times() -> None:
    """Arrays for times: column k of every coefficient is the table of sample k's own plan."""
    times = np.stack(
        [
            VP.time_of(np.linspace(-4, 3, 6)),
            VP.time_of(np.linspace(-3, 4, 6)),
            VP.time_of(np.linspace(-4, 3, 6) + np.sin(np.arange(6)) / 9),
        ]
    )
    p = plan("dpmpp-2m", VP, times[0], predicts="data")
    tables = p.coefficients(list(times.T)).tables
    for k in range(3):
        own = plan("dpmpp-2m", VP, times[k], predicts="data")
        for a, b in zip(tables, own.coeffs, strict=True):
            at_k = [[float(np.broadcast_to(v, 3)[k]) for v in row] for row in a]
            assert np.allclose(np.array(at_k).reshape(b.shape), b, rtol=1e-11, atol=1e-13)


def test_special_times_are_refused_and_the_generic_plan_serves() -> None:
    """Heun on a straight path in steps of 1/8: some rows are 1 there only. Silence would lose derivatives."""
    times = np.linspace(1, 0, 9)
    p = plan("heun", FLOW, times, predicts="data")
    with pytest.raises(ValueError, match="generic"):
        p.coefficients(times.tolist())
    g = p.generic()
    assert g.generic() is g and g.coefficients(times.tolist()) and g != p

    def net(x: Any, c: Any, b: int) -> Any:
        return MIXTURE.expectations(x, 1 - c.t, c.t)[0]

    assert torch.allclose(interpret(g, net, X), interpret(p, net, X), rtol=1e-13, atol=0)


def test_coefficients_want_as_many_times_and_a_formula(tmp_path: Path) -> None:
    p = plan("ddim", VP, [0.9, 0.5, 0.1])
    with pytest.raises(ValueError, match="2 times for a plan of 3"):
        p.coefficients([0.9, 0.1])
    p.save(tmp_path / "p.json")
    with pytest.raises(ValueError, match="loaded plan"):
        Plan.load(tmp_path / "p.json").coefficients([0.9, 0.5, 0.1])


# the adjoint


@pytest.mark.parametrize("key, options", CASES)
def test_transposed_plan(key: str, options: dict[str, Any]) -> None:
    """With linear networks the result is a matrix times x; the transposed plan is the transposed matrix, and
    carries no more."""
    rng = np.random.default_rng(0)
    for process, predicts, steps in ((VP, "data", 6), (VP, "noise", 12), (FLOW, "velocity", 9)):
        p = plan(key, process, small_grid(process, steps, predicts), predicts=predicts, **options)
        nets = [rng.standard_normal((5, 5)) / 3 for _ in p.calls]
        forward, backward = iter(nets), iter(nets[::-1])
        y = interpret(
            p,
            lambda x, c, b, forward=forward: next(forward) @ x,
            np.eye(5),
            noise=lambda s, c: np.zeros((5, 5)),
        )
        q = p.transpose()
        z = interpret(q, lambda x, c, b, backward=backward: next(backward).T @ x, np.eye(5))
        # noise predictions divide by alpha = 0.007: coefficients near 150 cancel
        assert np.abs(z - y.T).max() <= 1e-11 * np.abs(y).max()
        assert q.carried <= p.carried and q.carried == q.bound and not q.stochastic
        assert [c.t for c in q.calls] == [c.t for c in p.calls][::-1]


def test_transposed_twice_is_the_plan_again() -> None:
    p = plan("unipc", VP, small_grid(VP, 7), predicts="data")
    nets = [np.random.default_rng(k).standard_normal((4, 4)) for k in range(7)]
    results = []
    for q in (p, p.transpose().transpose()):
        calls = iter(nets)
        results.append(interpret(q, lambda x, c, b, calls=calls: next(calls) @ x, np.eye(4)))
    assert np.allclose(*results, rtol=1e-12)


# saving, comparing


@pytest.mark.parametrize("key", planned())
def test_saved_and_loaded_is_equal(key: str, tmp_path: Path) -> None:
    p = plan(key, VP, small_grid(VP, 5), predicts="velocity")
    p.save(tmp_path / "plan.json")
    q = Plan.load(tmp_path / "plan.json")
    assert q == p and hash(q) == hash(p) and q is not p and str(q) == str(p)
    assert all(np.array_equal(a, b) for a, b in zip(q.coeffs, p.coeffs, strict=True))
    assert q.carried == p.carried and q.nfe == p.nfe and np.array_equal(q.times, p.times)
    assert not list(tmp_path.glob("*.part"))
    assert interpret(q.transpose(), lambda x, c, b: x, 1.0) == interpret(
        p.transpose(), lambda x, c, b: x, 1.0
    )


def test_plans_differ_where_something_differs() -> None:
    times = small_grid(VP, 5)
    p = plan("dpmpp-2m", VP, times)
    others = [
        plan("dpmpp-2m", VP, times, weight="heun"),
        plan("dpmpp-2m", VP, times, predicts="data"),
        plan("ddim", VP, times),
        plan("dpmpp-2m", VP, [*times[:-2], times[-2] * (1 + 1e-15), times[-1]]),
        p.with_trajectory(),
        plan("dpmpp-2m", processes.get("vp")(beta_max=20.5), times),
    ]
    assert len({p, *others}) == 7 and all(p != o for o in others) and p != "dpmpp-2m"


def test_plans_are_cached_and_frozen() -> None:
    times = small_grid(VP, 5)
    p = plan("ddim", VP, times)
    assert plan("ddim", VP, times.tolist()) is p
    with pytest.raises(ValueError, match="read-only"):
        p.times[0] = 0.5
    with pytest.raises(ValueError, match="read-only"):
        p.coeffs[1][0, 0] = 0.5
    with pytest.raises(AttributeError):
        p.order = 3  # type: ignore[misc]


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    for text in ("[]", "{}", json.dumps({"format": 0})):
        bad.write_text(text)
        with pytest.raises(ValueError, match="not a plan"):
            Plan.load(bad)
    plan("ddim", VP, small_grid(VP, 3), hooks=[Identity()]).save(bad)
    with pytest.raises(ValueError, match="Identity"):
        Plan.load(bad)
    assert Plan.load(bad, hooks=[Identity()]).carried == 1


def test_printed() -> None:
    text = str(plan("unipc", VP, small_grid(VP, 30)))
    assert (
        "30 network calls" in text
        and "carries 3 tensors" in text
        and "..." in text
        and len(text.splitlines()) < 20
    )
    assert repr(plan("ddim", VP, small_grid(VP, 3), eta=0.5)).startswith("<Plan ddim(eta=0.5) on VP")


def test_trajectory_gives_states_and_data() -> None:
    times = small_grid(VP, 6)
    p = plan("dpmpp-2m", VP, times, predicts="noise")
    emitted: dict[tuple[str, int], Any] = {}

    def net(x: Any, c: Any, b: int) -> Any:
        return network(VP, "noise")(x, VP.node(c.t))

    y = interpret(p.with_trajectory(), net, X, emitted=emitted)
    assert sorted(emitted) == [(what, k) for what in ("data", "x") for k in range(6)]
    assert torch.equal(emitted["x", 5], y) and torch.allclose(y, interpret(p, net, X), rtol=1e-12)
    assert torch.allclose(
        emitted["data", 5], y, rtol=1e-10
    )  # to zero the last step gives the data prediction itself
    shorter = plan("dpmpp-2m", VP, times[:4], predicts="noise", lower_order_final="never")
    assert torch.allclose(interpret(shorter, net, X), emitted["x", 2], rtol=1e-11)
    assert torch.allclose(
        emitted["data", 0], MIXTURE.expectations(X, VP.alpha(1.0), VP.sigma(1.0))[0], rtol=1e-10
    )


# hooks


class Identity(Hook):
    def state(self, ctx: Any, x: Any) -> Any:
        return x


class Swap(Hook):
    def population(self, ctx: Any, x: Any, history: Any) -> Any:
        return x, history


class Bend(Hook):
    def predict(self, ctx: Any, xhat: Any) -> Any:
        return xhat


class Colour(Hook):
    def noise(self, ctx: Any, xi: Any) -> Any:
        return xi


@pytest.mark.parametrize("hook", [Identity, Swap, Bend, Colour])
@pytest.mark.parametrize("key", planned())
def test_a_hook_that_changes_nothing_changes_nothing(key: str, hook: type[Hook]) -> None:
    times = small_grid(VP, 6)
    options = {"eta": 1.0} if key == "ddim" else {"churn": 3.0} if key in ("euler", "heun", "dpm2") else {}

    def net(x: Any, c: Any, b: int) -> Any:
        return network(VP, "noise")(x, VP.node(c.t))

    plain, hooked = plan(key, VP, times, **options), plan(key, VP, times, hooks=[hook()], **options)
    assert torch.allclose(
        interpret(hooked, net, X, noise=draw), interpret(plain, net, X, noise=draw), rtol=1e-11
    )
    kinds = [c.kind for c in hooked.calls if c.kind != "net"]
    expected = {Identity: "state", Swap: "population", Bend: "predict", Colour: "noise"}[hook]
    assert set(kinds) <= {expected}
    count = {
        "state": 6,
        "population": 6,
        "predict": plain.nfe,
        "noise": len({d for s in plain.stages for d in s.draws}),
    }[expected]
    assert len(kinds) == count and hooked.nfe == plain.nfe
    # a noise hook is handed a tensor that the bound, where draws are free, does not count; a population hook
    # each tensor of state and history, though one may be made of the others
    assert hooked.carried <= hooked.bound + (expected in ("noise", "population") and count > 0)


def test_hooks_act_where_they_say() -> None:
    class Early(Bend):
        def active(self, node: Any, step: int) -> bool:
            return step < 2

    p = plan("heun", VP, small_grid(VP, 5), hooks=[Early()])
    assert [c.step for c in p.calls if c.kind == "predict"] == [0, 0, 1, 1]


def test_a_hook_can_drop_the_history() -> None:
    class Reset(Identity):
        history = "reset"

    times = small_grid(VP, 6)
    net = {t: np.random.default_rng(i).standard_normal() for i, t in enumerate(times.tolist())}
    p, q = plan("dpmpp-2m", VP, times, hooks=[Reset()]), plan("ddim", VP, times)
    assert interpret(p, lambda x, c, b: net[c.t] * x, 1.0) == pytest.approx(
        interpret(q, lambda x, c, b: net[c.t] * x, 1.0), rel=1e-12
    )


def test_guidance_is_the_weighted_network() -> None:
    class Guided(Hook):
        branches = 1

        def weights(self, node: Any, step: int) -> tuple[float, float]:
            return 1.5, -0.5

    times = small_grid(VP, 6)
    cond, uncond = network(VP, "noise"), lambda x, n: 0.1 * x
    for key in planned():
        p = plan(key, VP, times, guidance=Guided())
        y = interpret(p, lambda x, c, b: (cond, uncond)[b](x, VP.node(c.t)), X, noise=draw)
        z = interpret(
            plan(key, VP, times),
            lambda x, c, b: 1.5 * cond(x, VP.node(c.t)) - 0.5 * uncond(x, VP.node(c.t)),
            X,
            noise=draw,
        )
        assert torch.allclose(y, z, rtol=1e-11)


def test_a_branch_of_weight_zero_is_not_run() -> None:
    class Off(Hook):
        branches = 2

        def weights(self, node: Any, step: int) -> tuple[float, ...]:
            return (1.0, 0.0, 0.0) if step % 2 else (0.5, 0.0, 0.5)

    p = plan("ddim", VP, small_grid(VP, 4), guidance=Off())
    assert [c.branches for c in p.calls] == [(0, 2), (0,), (0, 2), (0,)] and p.nfe == 6


def test_reproject_keeps_the_networks_noise_or_not() -> None:
    """With a threshold on the data: eps that belongs to the bent data (default), or the network's own."""
    times = VP.time_of(np.linspace(-2, 2, 5))

    def by_hand(reproject: bool) -> torch.Tensor:
        x = X
        for a, b in zip(times, times[1:], strict=False):
            s, t = VP.node(float(a)), VP.node(float(b))
            eps = network(VP, "noise")(x, s)
            x0 = ((x - s.sigma * eps) / s.alpha).clamp(-1, 1)
            x = t.alpha * x0 + t.sigma * ((x - s.alpha * x0) / s.sigma if reproject else eps)
        return x

    for reproject in (True, False):
        p = plan("ddim", VP, times, hooks=[Bend()], reproject=reproject)
        y = interpret(
            p,
            lambda x, c, b: network(VP, "noise")(x, VP.node(c.t)),
            X,
            hook=lambda call, xhat, x: [xhat.clamp(-1, 1)],
        )
        assert torch.allclose(y, by_hand(reproject), rtol=1e-12)
    assert not torch.allclose(by_hand(True), by_hand(False))


class Back(Hook):
    def __init__(self, visits: list[int]):
        self.visits = visits

    def route(self, nodes: Any) -> list[int]:
        return self.visits


def test_a_route_visits_what_it_says() -> None:
    """0 1 2 1 2 3: from node 2 back to 1 by fresh noise, whose scale is the forward process's."""
    times = [0.9, 0.6, 0.3, 0.0]
    p = plan("ddim", VP, times, predicts="data", hooks=[Back([0, 1, 2, 1, 2, 3])])
    assert [c.t for c in p.calls] == [0.9, 0.6, 0.6, 0.3]
    assert [d for s in p.stages for d in s.draws] == [(2, 0)]  # draw = step of the unrolled program
    xi = np.array([0.7])
    got = interpret(p, lambda x, c, b: 0.5 * x, np.array([1.3]), noise=lambda s, c: xi)
    n = [VP.node(t) for t in times]

    def down(x: Any, s: Any, t: Any) -> Any:
        return t.sigma / s.sigma * x + (t.alpha - s.alpha * t.sigma / s.sigma) * 0.5 * x

    x = down(down(np.array([1.3]), n[0], n[1]), n[1], n[2])
    a = n[1].alpha / n[2].alpha
    x = a * x + (n[1].sigma ** 2 - a**2 * n[2].sigma ** 2) ** 0.5 * xi
    assert got == pytest.approx(down(down(x, n[1], n[2]), n[2], n[3]), rel=1e-12)


def test_routes_that_lead_nowhere() -> None:
    for visits in ([1, 2, 3], [0, 1, 2], [0, 1, 4, 3], []):
        with pytest.raises(ValueError, match="route"):
            plan("ddim", VP, [0.9, 0.6, 0.3, 0.0], hooks=[Back(visits)])
    with pytest.raises(ValueError, match="only one"):
        plan("ddim", VP, [0.9, 0.6, 0.3, 0.0], hooks=[Back([0, 1, 2, 3]), Back([0, 1, 2, 3])])


# noise columns


@pytest.mark.parametrize(
    "key, options, draws",
    [
        ("ddpm", {}, [(0, 0), (1, 0), (2, 0), (3, 0)]),
        ("ddim", {"eta": 0.3}, [(0, 0), (1, 0), (2, 0), (3, 0)]),
        ("euler-a", {}, [(0, 0), (1, 0), (2, 0), (3, 0)]),
        ("dpmpp-2m-sde", {}, [(0, 0), (1, 0), (2, 0), (3, 0)]),
        (
            "euler",
            {"churn": 2.0},
            [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)],
        ),  # churn acts before the last step too
        ("heun", {"churn": 2.0, "s_tmin": 0.5, "s_tmax": 20.0}, None),
        ("ddim", {}, []),
        ("dpmpp-2m-sde", {"eta": 0.0}, []),
    ],
)
def test_draws(key: str, options: dict[str, Any], draws: list[tuple[int, int]] | None) -> None:
    """(step, column) of every draw: the counter is the step, the stream follows from the column."""
    times = small_grid(VP, 5)
    p = plan(key, VP, times, **options)
    found = [d for s in p.stages for d in s.draws]
    if draws is None:
        rho = [float(VP.sigma(t) / VP.alpha(t)) for t in times[:-1]]
        draws = [(i, 0) for i, r in enumerate(rho) if 0.5 <= r <= 20]
        assert 0 < len(draws) < 5
    assert sorted(set(found)) == draws and p.stochastic == bool(draws)


def test_churn_may_start_above_the_grid() -> None:
    """The first level is raised too, above t_max: the network is asked at a later time than the grid has."""
    p = plan("euler", VP, small_grid(VP, 5), churn=2.0)
    assert p.calls[0].t > VP.t_max and p.stages[0].draws == ((0, 0),)
    on_a_straight_path = plan("euler", FLOW, small_grid(FLOW, 5), churn=2.0, predicts="velocity")
    assert on_a_straight_path.calls[0].t == 1.0 and max(c.t for c in on_a_straight_path.calls) == 1.0


# what is refused


def test_arguments_of_plan() -> None:
    with pytest.raises(TypeError, match="process"):
        plan("ddim", "vp", [0.9, 0.1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="near|known|did you mean"):
        plan("ddim", VP, [0.9, 0.1], predicts="epsilon")
    with pytest.raises(ValueError, match="already made"):
        plan(solvers.make("ddim"), VP, [0.9, 0.1], eta=0.5)
    with pytest.raises(TypeError, match="Hook"):
        plan("ddim", VP, [0.9, 0.1], hooks=["cfg"])  # type: ignore[list-item]
    for times in ([0.1, 0.9], [0.9, 0.9], [0.9], [0.9, float("nan")], [1.2, 0.1], [0.9, -0.1]):
        with pytest.raises(ValueError, match="times"):
            plan("ddim", VP, times)
    with pytest.raises(ValueError, match="noise prediction cannot be turned into data"):
        plan("ddim", FLOW, [1.0, 0.5, 0.0], predicts="noise")


def test_plans_of_the_same_facts() -> None:
    p = plan("unipc", VP, small_grid(VP, 20), order=3)
    assert (p.order, p.steps, p.nfe, p.solver, p.predicts) == (3, 20, 20, "unipc(order=3)", "noise")
    assert replace(p) == p


def test_guidance_of_equal_strength_is_compiled_once() -> None:
    """What a condition holds does not decide a plan, and each plan keeps its own hooks."""
    vp = processes.make("vp")
    times = grids.make("logsnr").times(vp, 3)
    one, two = (plan("ddim", vp, times, guidance=CFG(2.0, uncond={"y": y})) for y in (1, 2))
    assert one.stages is two.stages and one == two
    assert [p.hooks[0].uncond["y"] for p in (one, two, two.with_trajectory())] == [1, 2, 2]
    assert plan("ddim", vp, times, guidance=CFG(3.0)) != one


def test_a_solver_says_which_processes_it_serves() -> None:
    class Pair(type(VP)):  # type: ignore[misc]
        kind = "linear"

    with pytest.raises(ValueError, match="'unipc' is for gaussian processes, but .*Pair.* is linear"):
        plan("unipc", Pair(), [0.9, 0.1])
    assert "unipc" in solvers.names(kind="gaussian") and "unipc" not in solvers.names(kind="linear")
    linear = [k for k in processes.names() if processes.get(k).kind == "linear"]
    assert "cld" in linear and not set(linear) & set(processes.names(kind="gaussian"))
    assert set(linear) | set(processes.names(kind="gaussian")) == set(processes.names())
    assert set(solvers.names(kind="gaussian")) | set(solvers.names(kind="linear")) == set(solvers.names())
