"""The classics: what each is on a grid where it is something known, and its order where that has a condition.

Equalities hold to 1e-12 of the scale of what a network is given and of the result, in float64 tables that
were computed in 60 digits.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from fastdiff.core.direct import Direct
from fastdiff.core.grid import grids
from fastdiff.core.interpret import interpret
from fastdiff.core.plan import Plan, plan
from fastdiff.core.process import Process, processes
from fastdiff.core.solver import Solver, solvers
from fastdiff.solvers._step_choice import Step
from fastdiff.solvers._usf import mean
from fastdiff.testing import GaussianMixture, affine_law, order_of, pf_ode

VP, EDM, FLOW = (processes.get(k)() for k in ("vp", "edm", "flow-matching"))
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
X = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)
PROCESSES = ("vp", "edm", "ve", "flow-matching", "sub-vp", "trig", "discrete-vp")


def grid_for(process: Process, steps: int = 9, final: str = "zero") -> np.ndarray:
    return grids.make(process.default_grid).times(process, steps, final)


def run(p: Plan) -> list[np.ndarray]:
    """What the network is given at every call, and the result, for outputs that are random numbers."""
    outputs = iter(np.random.default_rng(0).standard_normal((len(p.calls), 4)))
    seen = []

    def net(x: Any, call: Any, branch: int) -> Any:
        seen.append(x)
        return next(outputs)

    y = interpret(p, net, np.arange(4.0), noise=lambda s, c: np.random.default_rng([s, c]).standard_normal(4))
    return [*seen, y]


def assert_same(a: Plan, b: Plan, tolerance: float = 1e-12) -> None:
    assert a.nfe == b.nfe and [c.t for c in a.calls] == pytest.approx([c.t for c in b.calls], rel=1e-14)
    for x, y in zip(run(a), run(b), strict=True):
        assert np.abs(x - y).max() <= tolerance * max(1.0, np.abs(y).max())


# the same under two names


@pytest.mark.parametrize("process", PROCESSES)
def test_order_1_is_euler(process: str) -> None:
    made = processes.make(process)
    times = grid_for(made)
    euler = plan("euler", made, times, predicts="data")
    for key, options in [
        ("lms", {"order": 1}),
        ("ipndm", {"order": 1}),
        ("ipndm-v", {"order": 1}),
        ("ge", {"gamma": 1.0}),
        ("ghvb", {"order": 1.0}),
        ("plms-hb", {"nodes": 1, "beta": 1.0}),
        ("euler-a-rf", {"eta": 0.0}),
        ("tcd", {"gamma": 0.0}),
        ("iadb", {}),
        ("usf", {"schedule": [{"order": 1}]}),
    ]:
        assert_same(plan(key, made, times, predicts="data", **options), euler)
    if not made.node(float(times[0])).pure:
        for variant in ("tab", "rhoab", "logrho"):
            assert_same(plan("deis", made, times, predicts="data", order=1, variant=variant), euler)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_equal_steps_in_rho(order: int) -> None:
    """iPNDM with its fixed weights = LMS = iPNDM-V = DEIS in rho (and in t, where rho is t); to 0 too."""
    times = np.linspace(6.0, 0.0, 13)
    reference = plan("ipndm", EDM, times, order=order)
    for key, options in [
        ("lms", {}),
        ("ipndm-v", {}),
        ("deis", {"variant": "rhoab"}),
        ("deis", {"variant": "tab"}),
    ]:
        assert_same(plan(key, EDM, times, order=order, **options), reference)
    assert_same(plan("ghvb", EDM, times, order=float(order)), reference)


def test_on_other_grids_the_variable_weights_are_their_own() -> None:
    times = grid_for(EDM, 12)
    a, b = run(plan("ipndm", EDM, times))[-1], run(plan("ipndm-v", EDM, times))[-1]
    assert np.abs(a - b).max() > 1e-3
    assert_same(plan("ipndm-v", EDM, times), plan("lms", EDM, times))


@pytest.mark.parametrize("process", [VP, EDM, FLOW], ids=["vp", "edm", "flow"])
def test_beta_1_is_the_method_without_momentum(process: Process) -> None:
    times = grid_for(process, 10)
    never, above = {"lower_order_final": "never"}, grid_for(process, 10, "sigma_min")
    for key in ("plms-hb", "plms-nt"):  # their step to sigma = 0 is of order 1
        for q in (1, 2, 3, 4):
            assert_same(
                plan(key, process, above, predicts="data", nodes=q, beta=1.0),
                plan("ipndm", process, above, predicts="data", order=q, **never),
            )
    assert_same(
        plan("dpmpp-2m-hb", process, times, predicts="data", beta=1.0),
        plan("dpmpp-2m", process, times, predicts="data", **never),
    )
    for q in (1, 2, 3):
        for more in ({"variant": "bh1"}, {"variant": "bh2"}, {"prediction": "noise"}):
            assert_same(
                plan("unipc-hb", process, times, predicts="data", nodes=q, beta=1.0, **more),
                plan("unipc", process, times, predicts="data", order=q, **never, **more),
            )


@pytest.mark.parametrize(
    "key", ["plms-hb", "plms-nt", "dpmpp-2m-hb", "unipc-hb", "ghvb", "lms", "ge", "heunpp2"]
)
def test_data_at_one_point_stay_there(key: str) -> None:
    """Every mean of equal predictions is that prediction: the flow of a point is exact, with momentum too."""
    for process in (VP, EDM, FLOW):
        times = grid_for(process, 8, "sigma_min")
        y = interpret(plan(key, process, times, predicts="data"), lambda x, c, b: 0.3, 2.0)
        s, t = process.node(float(times[0])), process.node(float(times[-1]))
        assert y == pytest.approx(0.3 * t.alpha + t.sigma / s.sigma * (2.0 - 0.3 * s.alpha), rel=1e-10)


def test_the_ends_of_tcd() -> None:
    """gamma = 1 is lcm, where time 0 is clean."""
    for process in (VP, EDM, FLOW):
        times = grid_for(process, 5)
        assert_same(
            plan("tcd", process, times, predicts="data", gamma=1.0),
            plan("lcm", process, times, predicts="data"),
        )


def test_dpm2_a_without_noise_is_dpm2() -> None:
    for process in (VP, EDM):
        times = grid_for(process, 7)
        assert_same(
            plan("dpm2-a", process, times, predicts="data", eta=0.0),
            plan("dpm2", process, times, predicts="data"),
        )


# laws


@pytest.mark.parametrize("key", ["dpm2-a", "euler-a-rf", "lcm", "tcd"])
def test_marginals_of_data_at_one_point(key: str) -> None:
    """Then x0 is exact, and the law of every step is that of the process: alpha M, sigma^2."""
    for process in (VP, EDM, FLOW):
        for final in ("sigma_min", "zero"):
            times = grid_for(process, 6, final)
            p = plan(key, process, times, predicts="data")
            law = affine_law(
                lambda model, x, noise, p=p: interpret(p, lambda x, c, b: model(x, c.t), x, noise=noise),
                process,
                times[0],
                mean=0.7,
                std=0.0,
                predicts="data",
            )
            last = process.node(float(times[-1]))
            assert law.mean == pytest.approx(last.alpha * 0.7, rel=1e-10)
            # the start's own variance is 1 to alpha = 0.007, of which the ends keep e^-16
            assert law.variance == pytest.approx(last.sigma**2, rel=1e-9, abs=1e-20)


def weak_errors(solver: Solver, tau2: float, steps: int) -> tuple[float, float]:
    """Of the variance from the process's own start, and of the mean from one that is off, for Gaussian data:
    the flow of noise level tau takes V = std^2 + rho^2 to the power (1 + tau^2) / 2."""
    times = np.asarray(VP.time_of(np.linspace(-2.5, 2.5, steps + 1)))
    p, (first, last) = plan(solver, VP, times), (VP.node(float(t)) for t in times[[0, -1]])

    def go(model: Any, x: Any, noise: Any) -> Any:
        return interpret(p, lambda x, c, b: model(x, c.t), x, noise=noise)

    law = affine_law(go, VP, first.t, mean=0.7, std=0.4, draws=2 * steps)
    off = affine_law(
        go, VP, first.t, mean=0.7, std=0.4, draws=2 * steps, start=(first.alpha * 0.7 + 0.5, 1.0)
    )
    growth = ((0.16 + last.rho**2) / (0.16 + first.rho**2)) ** ((1 + tau2) / 2) * last.alpha / first.alpha
    return (
        abs(law.variance - (last.alpha * 0.4) ** 2 - last.sigma**2),
        abs(off.mean - last.alpha * 0.7 - 0.5 * growth),
    )


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_dpm2_a_keeps_the_variance_to_second_order(eta: float) -> None:
    """An exact flow down and its noise up keep the marginal, so the variance errs by the midpoint method's
    error alone; the mean of a start that is off sees the split, of order 1."""
    errors = [weak_errors(solvers.make("dpm2-a", eta=eta), eta**2, n) for n in (80, 160)]
    variance, average = (order_of(e, (80, 160)) for e in zip(*errors, strict=True))
    assert abs(variance - 2) <= 0.15 and abs(average - 1) <= 0.15


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_eta_of_euler_a_rf_is_the_noise_level(eta: float) -> None:
    """tau^2 = eta in the limit: otherwise the mean would not converge."""
    errors = [weak_errors(solvers.make("euler-a-rf", eta=eta), eta, n) for n in (80, 160)]
    assert all(abs(order_of(e, (80, 160)) - 1) <= 0.15 for e in zip(*errors, strict=True))


def test_consistency_samplers_do_not_converge_with_a_posterior_mean() -> None:
    """Order 0: with E[x0 | x] in place of a consistency function the variance stays off by more than 0.02."""
    for key in ("lcm", "tcd"):
        a, b = (weak_errors(solvers.make(key), 0, n)[0] for n in (80, 160))
        assert b > 0.02 and a / b < 1.2 and solvers.make(key).order == 0


# orders that have a condition


def measured(key: str, options: dict[str, Any], steps: tuple[int, int] = (160, 320)) -> float:
    """On equal steps in rho from 5 to 0.2, against the flow to 1e-10."""
    solver, x = solvers.make(key, **options), X * 5
    exact, errors = pf_ode(MIXTURE, EDM, x, 5.0, 0.2), []
    for n in steps:
        p = Direct(
            lambda x, n: MIXTURE.expectations(x, n.alpha, n.sigma)[0], x, "data", wanted=solver.predicts
        )
        solver.record(p, [EDM.node(float(t)) for t in np.linspace(5.0, 0.2, n + 1)])
        errors.append(float((p.x - exact).abs().max()))
    return order_of(errors, steps, floor=1e-10)


NEVER = {"lower_order_final": "never"}
ORDERS: list[Any] = [
    *(("ipndm", {"order": q, **NEVER}, q) for q in (1, 2, 3, 4)),
    *(("ghvb", {"order": k + b, **NEVER}, k + 1) for k, b in ((1, 0.5), (2, 0.5), (2, 0.3), (3, 0.5))),
    ("pndm", {}, 4),
    ("pndm", {"warmup": "runge-kutta"}, 4),
    ("ge", {}, 1),
    ("ge", {"gamma": 1.5}, 2),
    ("plms-hb", {}, 1),
    ("plms-hb", {"beta": 0.5}, 1),
    ("plms-nt", {}, 1),
    ("lms", {"startup": "single", **NEVER}, 4),
]


@pytest.mark.parametrize("key, options, order", ORDERS)
def test_order_on_equal_steps(key: str, options: dict[str, Any], order: int) -> None:
    """The first steps are of lower order, but few beside the trajectory: they leave 0.25, 0.3 of 3 and 4."""
    assert abs(measured(key, options) - order) <= (0.25 if order <= 2 else 0.3)


@pytest.mark.parametrize("variant", ["tab", "rhoab", "logrho"])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_deis_orders(variant: str, order: int) -> None:
    """On VP, lambda from -2.5 to 2.5, exact history."""
    solver = solvers.make("deis", variant=variant, order=order, startup="single", lower_order_final="never")
    times = {n: np.asarray(VP.time_of(np.linspace(-2.5, 2.5, n + 1))) for n in (80, 160)}
    exact, errors = pf_ode(MIXTURE, VP, X, times[80][0], times[80][-1]), []
    for grid in times.values():
        p = Direct(lambda x, n: MIXTURE.expectations(x, n.alpha, n.sigma)[1], X, "noise", wanted="noise")
        solver.record(p, [VP.node(float(t)) for t in grid])
        errors.append(float((p.x - exact).abs().max()))
    assert order_of(errors, list(times)) >= order - 0.3


# DEIS: its coefficients

NODES = [VP.node(t) for t in (0.65, 0.8, 0.9)]
TARGET = VP.node(0.5)


@pytest.mark.parametrize(
    "variant, known",
    [
        ("tab", [-2.52702855109, 1.95531683391, -0.828581395782]),
        ("rhoab", [-1.69175020853, 0.332536464587, -0.0410793690169]),
    ],
)
def test_deis_golden(variant: str, known: list[float]) -> None:
    """By independent code (specification, section 12b, 12 digits)."""
    weights = solvers.make("deis", variant=variant).weights(NODES[0], TARGET, NODES)  # type: ignore[attr-defined]
    assert [TARGET.alpha * w for w in weights] == pytest.approx(known, rel=1e-10)
    assert sum(weights) == pytest.approx(TARGET.rho - NODES[0].rho, rel=1e-14)


@pytest.mark.parametrize("process", ["vp", "edm", "ve", "vp-cosine", "sub-vp", "trig", "flow-matching"])
@pytest.mark.parametrize("times", [(0.6, 0.5, 0.4, 0.3), (0.5, 0.3, 0.2, 0.001), (0.3, 0.2, 0.1, 0.00001)])
def test_tab_integrals(process: str, times: tuple[float, ...]) -> None:
    """Against adaptive quadrature of L_j(u) rho'(u) in 30 digits; a last step down to 1e-5 is the worst for a
    fixed rule, since rho is like sqrt(t) there on VP: 1e-9 of the whole is asked for."""
    made = processes.make(process)
    nodes, t = [made.node(u) for u in times[:3][::-1]], made.node(times[3])
    got = solvers.make("deis").weights(nodes[0], t, nodes)  # type: ignore[attr-defined]

    def slope(u: float) -> float:  # d rho / dt = -rho dlam / dt
        n = made.node(u)
        return float(-n.rho * made.dlam(u))

    def basis(j: int, u: Any) -> Any:
        return mpmath.fprod((u - b.t) / (nodes[j].t - b.t) for i, b in enumerate(nodes) if i != j)

    pieces = np.geomspace(nodes[0].t, t.t, 10).tolist()
    for j, w in enumerate(got):
        exact = mpmath.quad(
            lambda u, j=j: basis(j, u) * slope(float(u)), pieces, method="gauss-legendre", maxdegree=4
        )
        assert abs(w - float(exact)) <= 1e-9 * abs(t.rho - nodes[0].rho)


def test_runge_kutta_in_rho_has_its_own_order() -> None:
    for method, order in (("rho-heun", 2), ("rho-kutta3", 3), ("rho-rk4", 4)):
        made = solvers.make("deis", method=method)
        assert made.order == order and plan(made, VP, grid_for(VP, 6, "sigma_min")).nfe == 6 * order


# USF: a schedule of one entry is the named solver


UNMIXED: list[Any] = [
    ([{"order": 1}], "ddim", {}),
    ([{"order": 1, "prediction": "noise"}], "ddim", {}),
    ([{"order": 1, "tau": 1.0}], "ddpm", {}),
    ([{"order": 2}], "dpmpp-2m", {"weight": "heun", **NEVER}),
    ([{"order": 2, "scaling": "bh2"}], "dpmpp-2m", {"weight": "midpoint", **NEVER}),
    ([{"order": 2, "tau": 0.6**0.5}], "dpmpp-2m-sde", {"weight": "heun", "eta": 0.6, **NEVER}),
    *(
        ([{"order": q, "prediction": "noise"}], "deis", {"variant": "logrho", "order": q, **NEVER})
        for q in (2, 3, 4)
    ),
    *(
        (
            [{"order": q, "corrector": q + 1, "scaling": bh, "prediction": kind}],
            "unipc",
            {"order": q, "variant": bh, "prediction": kind, **NEVER},
        )
        for q in (1, 2, 3)
        for bh in ("bh1", "bh2")
        for kind in ("data", "noise")
    ),
    ([{"order": 2, "method": "singlestep"}], "dpmpp-2s", {"weight": "taylor"}),
    ([{"order": 3, "method": "singlestep"}], "dpmpp-3s", {}),
    ([{"order": 3, "method": "singlestep", "prediction": "noise"}], "dpm-3", {}),
]


@pytest.mark.parametrize("schedule, key, options", UNMIXED)
def test_a_schedule_of_one_entry_is_the_named_solver(schedule: Any, key: str, options: Any) -> None:
    for process in (VP, EDM):
        for final in ("zero", "sigma_min"):
            times = grid_for(process, 9, final)
            for n in (1, 9):  # one entry for all steps, or one for each
                a = plan("usf", process, times, predicts="data", schedule=schedule * n)
                # noise predictions lose 1 / alpha = 150 digits' worth to rounding at the noisy end
                assert_same(a, plan(key, process, times, predicts="data", **options), 1e-11)


def test_a_schedule_is_the_solver_bit_for_bit() -> None:
    times = grid_for(VP, 12)
    for schedule, key, options in UNMIXED[3:5]:
        a, b = plan("usf", VP, times, schedule=schedule), plan(key, VP, times, **options)
        assert len(a.stages) == len(b.stages)
        for s, t in zip(a.stages, b.stages, strict=True):
            assert s.inputs == t.inputs and s.outputs == t.outputs and np.array_equal(s.coeffs, t.coeffs)


def test_usf_golden_rows() -> None:
    """sa-solver of three nodes, tau = 1/2, and its corrector (specification, section 12b, 12 digits)."""
    step = Step(order=3, tau=0.5)
    unit = np.eye(4)
    known = [(n, unit[1 + j]) for j, n in enumerate(NODES)]
    row = mean(unit[0], NODES[0], TARGET, step, known)
    assert row.tolist() == pytest.approx(
        [0.771753986332, 0.364952827898, -0.281653292875, 0.106576265998], rel=1e-10
    )
    known = [(TARGET, unit[1]), (NODES[0], unit[2]), (NODES[1], unit[3])]
    assert mean(unit[0], NODES[0], TARGET, step, known).tolist() == pytest.approx(
        [0.771753986332, 0.0983940336109, 0.102958766475, -0.0114769990643], rel=1e-10
    )


def cycle(entries: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    return [entries[i % len(entries)] for i in range(steps)]


MIXED: list[Any] = [
    ([{"order": 2}, {"order": 2, "prediction": "noise"}], 2),
    ([{"order": 2, "corrector": 3}], 3),
    (
        [
            {"order": 2, "corrector": 3},
            {"order": 2, "prediction": "noise"},
            {"order": 3},
            {"method": "singlestep"},
        ],
        2,
    ),
    ([{"order": 3, "method": "singlestep"}, {"order": 3, "method": "singlestep", "prediction": "noise"}], 3),
    ([{"order": 3, "estimator": "difference"}], 2),
    ([{"order": 2, "scaling": "bh1"}, {"order": 2, "scaling": "bh2", "prediction": "noise"}], 2),
]


@pytest.mark.parametrize("entries, order", MIXED)
def test_mixed_schedules_keep_the_order(entries: list[dict[str, Any]], order: int) -> None:
    """On VP, lambda from -2.5 to 2.5; the lowest of the orders, or one more where all steps are corrected."""
    times = {n: np.asarray(VP.time_of(np.linspace(-2.5, 2.5, n + 1))) for n in (80, 160)}
    exact, errors = pf_ode(MIXTURE, VP, X, times[80][0], times[80][-1]), []
    for n, grid in times.items():
        solver = solvers.make("usf", schedule=cycle(entries, n))
        p = Direct(lambda x, n: MIXTURE.expectations(x, n.alpha, n.sigma)[0], X, "data", wanted="data")
        solver.record(p, [VP.node(float(t)) for t in grid])
        errors.append(float((p.x - exact).abs().max()))
    assert abs(order_of(errors, list(times)) - order) <= 0.3


@pytest.mark.parametrize("process", ["vp", "flow-matching", "edm"])
def test_mixed_plans_are_their_formula_and_carry_the_fewest(process: str) -> None:
    made = processes.make(process)
    times = grid_for(made, 9)
    entries = [e for es, _ in MIXED for e in es] + [{"tau": 0.5, "corrector": 3}]
    p = plan("usf", made, times, predicts="data", schedule=cycle(entries, 9))
    assert p.carried == p.bound and len(p.stages) == len(p.calls) + 1

    def net(x: Any, t: float) -> Any:
        return MIXTURE.expectations(x, float(made.alpha(t)), float(made.sigma(t)))[0]

    def draw(step: int, column: int) -> torch.Tensor:
        return torch.from_numpy(np.random.default_rng([step, column]).standard_normal(len(X)))

    x = X * made.prior_std(float(times[0]))
    solver = solvers.make("usf", schedule=cycle(entries, 9))
    d = Direct(lambda x, n: net(x, float(n.t)), x, "data", noise=draw)
    solver.record(d, [made.node(float(t)) for t in times])
    y = interpret(p, lambda x, c, b: net(x, c.t), x, noise=draw)
    assert (y - d.x).abs().max() <= 1e-11 * d.x.abs().max()


def test_weak_error_of_usf_known() -> None:
    """Variance errors at 20 steps, by independent code (specification, section 12b)."""
    for order, known in ((1, -3.40715074275e-02), (2, 5.64032021643e-03)):
        error, _ = weak_errors(solvers.make("usf", schedule=[{"order": order, "tau": 1.0}]), 1.0, 20)
        assert error == pytest.approx(abs(known), rel=1e-10)


# what is carried, and what is refused


@pytest.mark.parametrize(
    "key, options, carried",
    [
        ("lms", {}, 4),
        ("lms", {"order": 2}, 2),
        ("ipndm", {}, 4),
        ("ipndm-v", {"order": 3}, 3),
        ("pndm", {}, 4),
        ("ge", {}, 2),
        ("ghvb", {}, 3),
        ("ghvb", {"order": 3.5}, 4),
        ("plms-hb", {}, 4),
        ("plms-nt", {}, 5),
        ("dpmpp-2m-hb", {}, 2),
        ("unipc-hb", {}, 4),
        ("dpm2-a", {}, 2),
        ("euler-a-rf", {}, 1),
        ("lcm", {}, 1),
        ("tcd", {}, 1),
        ("heunpp2", {}, 2),
        ("deis", {}, 3),
        ("deis", {"order": 4}, 4),
        ("deis", {"method": "rho-rk4"}, 3),
        ("usf", {}, 2),
    ],
)
@pytest.mark.parametrize("predicts", ["noise", "data"])
def test_carried(key: str, options: dict[str, Any], carried: int, predicts: str) -> None:
    p = plan(key, VP, grid_for(VP, 12), predicts=predicts, **options)
    assert p.carried == p.bound == carried


def test_network_calls() -> None:
    times = grid_for(VP, 12)
    for key, options, calls in [
        ("pndm", {}, 13),
        ("pndm", {"warmup": "runge-kutta"}, 21),
        ("dpm2-a", {}, 23),
        ("heunpp2", {}, 33),
        ("lms", {"startup": "single"}, 21),
        ("deis", {"startup": "single"}, 16),
        ("lcm", {}, 12),
    ]:
        assert plan(key, VP, times, **options).nfe == calls, key


@pytest.mark.parametrize(
    "key, options, error, message",
    [
        ("lms", {"order": 5}, ValueError, "order=5"),
        ("ipndm", {"startup": "single"}, ValueError, "startup"),
        ("pndm", {"warmup": "euler"}, ValueError, "warmup='euler'"),
        ("ge", {"gamma": -1.0}, ValueError, "gamma"),
        ("ghvb", {"order": 0.0}, ValueError, "order"),
        ("ghvb", {"order": 5.5}, ValueError, "order"),
        ("plms-hb", {"beta": 0.0}, ValueError, "beta"),
        ("plms-nt", {"nodes": 5}, ValueError, "nodes=5"),
        ("unipc-hb", {"nodes": 4}, ValueError, "nodes=4"),
        ("tcd", {"gamma": 1.5}, ValueError, "gamma"),
        ("lcm", {"sigma_data": 0.0}, ValueError, "sigma_data"),
        ("euler-a-rf", {"eta": 2.0}, ValueError, "eta"),
        ("deis", {"variant": "log"}, ValueError, "variant='log'"),
        ("deis", {"order": 0}, ValueError, "order=0"),
        ("usf", {"schedule": []}, ValueError, "empty"),
        ("usf", {"schedule": {"order": 2}}, TypeError, "list of dicts"),
        ("usf", {"schedule": [2]}, TypeError, "dict, got int"),
        ("usf", {"schedule": [{"oder": 2}]}, ValueError, "order"),
        ("usf", {"schedule": [{"order": 5}]}, ValueError, "order=5"),
        ("usf", {"schedule": [{"order": 4, "method": "singlestep"}]}, ValueError, "singlestep"),
        ("usf", {"schedule": [{"tau": 1.0, "method": "singlestep"}]}, ValueError, "tau=1.0"),
    ],
)
def test_refused(key: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solvers.make(key, **options)


def test_a_schedule_of_the_wrong_length_is_told_when_the_plan_is_made() -> None:
    with pytest.raises(ValueError, match="2 entries for 9 steps"):
        plan("usf", VP, grid_for(VP), schedule=[{"order": 1}, {"order": 2}])


def test_beta_is_read_as_it_is_written() -> None:
    for order, beta, nodes in ((2.3, 0.3, 3), (1.0, 1.0, 1), (4.0, 1.0, 4), (0.1, 0.1, 1), (3.7, 0.7, 4)):
        made: Any = solvers.make("ghvb", order=order)
        assert made.beta == beta and math.ceil(made.order) == nodes
