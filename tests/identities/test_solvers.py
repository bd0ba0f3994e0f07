"""Solvers that are the same mathematics under two names: their plans have the same tables, to 1e-12 of each
table's scale (they are computed in 60 digits, from options that are rounded once to float64)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastdiff.core.grid import grids
from fastdiff.core.interpret import interpret
from fastdiff.core.math import adams_weights, exp, expm1, phi, sqrt
from fastdiff.core.plan import Plan, plan
from fastdiff.core.process import Process, processes
from fastdiff.core.solver import Multistep, solvers

VP, EDM, FLOW = (processes.get(k)() for k in ("vp", "edm", "flow-matching"))


def grid_for(process: Process, steps: int = 9, final: str = "zero") -> np.ndarray:
    times = grids.make(process.default_grid).times(process, steps, final).copy()
    if process.node(float(times[0])).clean:
        times[0] *= 0.999  # at the far end of a bridge nothing but data predictions can be converted
    return times


def assert_same(a: Plan, b: Plan) -> None:
    """The same stages, wherever the tables are comparable; in any case the same function of x, networks and
    draws."""
    assert a.nfe == b.nfe and [c.t for c in a.calls] == pytest.approx([c.t for c in b.calls], rel=1e-14)
    if all(
        (s.inputs, s.outputs, s.draws) == (t.inputs, t.outputs, t.draws)
        for s, t in zip(a.stages, b.stages, strict=True)
    ):
        for s, t in zip(a.coeffs, b.coeffs, strict=True):
            assert np.abs(s - t).max(initial=0) <= 1e-12 * np.abs(t).max(initial=0)
    outputs = np.random.default_rng(0).standard_normal((len(a.calls), 4))
    results = []
    for p in (a, b):
        seen, calls = [], iter(outputs)

        def net(x: Any, call: Any, branch: int, seen: list[Any] = seen, calls: Any = calls) -> Any:
            seen.append(x)
            return next(calls)

        y = interpret(
            p,
            net,
            np.arange(4.0),
            noise=lambda s, c: np.random.default_rng([s, c]).standard_normal(4),
            consts={kind[6:]: np.cos(np.arange(4.0)) for kind in p.kinds if kind.startswith("const:")},
        )
        results.append([*seen, y])
    for x, y in zip(*results, strict=True):  # what the network is given at every call, and the result
        assert np.abs(x - y).max() <= 1e-12 * max(1.0, np.abs(y).max())


@pytest.mark.parametrize("process", processes.names(kind="gaussian"))
def test_posterior_sampling(process: str) -> None:
    """ddpm "small" = ddim(eta=1) = euler-a(eta=1) = dpmpp-2m-sde of order 1, on every process, from alpha =
    0 too."""
    made = processes.make(process)
    times = grid_for(made)
    reference = plan("ddpm", made, times, predicts="velocity")
    assert_same(plan("ddim", made, times, predicts="velocity", eta=1.0), reference)
    assert_same(plan("euler-a", made, times, predicts="velocity"), reference)
    assert_same(plan("dpmpp-2m-sde", made, times, predicts="velocity", order=1), reference)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("process", processes.names(kind="gaussian"))
def test_euler_a_is_ddim(process: str, eta: float) -> None:
    made = processes.make(process)
    assert_same(
        plan("euler-a", made, grid_for(made), predicts="data", eta=eta),
        plan("ddim", made, grid_for(made), predicts="data", eta=eta),
    )


@pytest.mark.parametrize("process", processes.names(kind="gaussian"))
def test_euler_is_ddim(process: str) -> None:
    """On straight paths by the slope eps - x0 in t, elsewhere by eps in sigma / alpha."""
    made = processes.make(process)
    for final in ("zero", "sigma_min"):
        times = grid_for(made, 9, final)
        for predicts in ("data", "flow", "velocity"):
            assert_same(
                plan("euler", made, times, predicts=predicts), plan("ddim", made, times, predicts=predicts)
            )


def test_euler_on_flow_is_x_plus_dt_u() -> None:
    times = grid_for(FLOW)
    p = plan("euler", FLOW, times, predicts="flow")
    for s, a, b in zip(p.stages[1:], times, times[1:], strict=False):
        assert s.coeffs.tolist() == [pytest.approx([1.0, b - a], rel=1e-15)]


@pytest.mark.parametrize("eta", [0.2, 0.7, 1.0])
def test_ddim_is_the_master_step(eta: float) -> None:
    """eta of DDIM is the SDE of noise level tau^2 = -log(1 - eta^2 (1 - e^{-2h})) / (2h), one for each
    step."""
    for s, t in ((0.9, 0.6), (0.5, 0.1)):
        a, b = VP.node(s), VP.node(t)
        h = b.lam - a.lam
        tau2 = -math.log1p(-(eta**2) * -math.expm1(-2 * h)) / (2 * h)
        row = plan("ddim", VP, [s, t], predicts="data", eta=eta).coeffs[-1][0]
        expected = [
            b.sigma / a.sigma * math.exp(-tau2 * h),
            b.alpha * -math.expm1(-(1 + tau2) * h),
            b.sigma * math.sqrt(-math.expm1(-2 * tau2 * h)),
        ]
        assert row == pytest.approx(expected, rel=1e-12)


class ExponentialAB2(Multistep):
    """The master step with two nodes, by the coefficient engine."""

    tau2 = 0.0

    def step(self, p: Any, s: Any, t: Any, past: list[Any]) -> list[Any]:
        h, m = t.lam - s.lam, p.model(p.x, s)
        known = [(s, m), *past[::-1]]
        weights = adams_weights(1 + self.tau2, h, [n.lam - s.lam for n, _ in known])
        total = sum(w * f for w, (_, f) in zip(weights, known, strict=True))
        p.x = t.sigma / s.sigma * exp(-self.tau2 * h) * p.x + (1 + self.tau2) * t.alpha * total
        if self.tau2:
            p.x = p.x + t.sigma * sqrt(-expm1(-2 * self.tau2 * h)) * p.noise()
        return [(s, m)]


class ExponentialSDE2(ExponentialAB2):
    tau2 = 0.6


@pytest.mark.parametrize("process", [VP, EDM, FLOW], ids=["vp", "edm", "flow"])
def test_dpmpp_2m_heun_is_exponential_adams_bashforth(process: Process) -> None:
    times = grid_for(process, 9)
    assert_same(
        plan("dpmpp-2m", process, times, predicts="data", weight="heun"),
        plan(ExponentialAB2(), process, times, predicts="data"),
    )


@pytest.mark.parametrize("process", [VP, EDM], ids=["vp", "edm"])
def test_dpmpp_2m_sde_heun_is_the_master_step(process: Process) -> None:
    times = grid_for(process, 9)
    assert_same(
        plan("dpmpp-2m-sde", process, times, predicts="data", weight="heun", eta=0.6),
        plan(ExponentialSDE2(), process, times, predicts="data"),
    )


@pytest.mark.parametrize("weight", ["midpoint", "heun"])
def test_dpmpp_2m_sde_without_noise_is_dpmpp_2m(weight: str) -> None:
    for process in (VP, EDM, FLOW):
        times = grid_for(process)
        assert_same(
            plan("dpmpp-2m-sde", process, times, predicts="data", weight=weight, eta=0.0),
            plan("dpmpp-2m", process, times, predicts="data", weight=weight),
        )


def test_dpmpp_2m_of_order_1_is_ddim() -> None:
    assert_same(plan("dpmpp-2m", VP, grid_for(VP), order=1), plan("ddim", VP, grid_for(VP)))


@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_unipc_variants_agree_where_weights_are_solved(prediction: str) -> None:
    """Rules of three and more nodes do not depend on B. With startup="single" order 3 has no others; by the
    ramp it begins with some."""
    times = grid_for(VP, 10)
    a, b = (
        plan(
            "unipc",
            VP,
            times,
            order=3,
            variant=v,
            startup="single",
            lower_order_final="never",
            prediction=prediction,
        )
        for v in ("bh1", "bh2")
    )
    assert_same(a, b)
    a, b = (
        plan("unipc", VP, times, order=3, variant=v, lower_order_final="never", prediction=prediction)
        for v in ("bh1", "bh2")
    )
    assert any(not np.allclose(x, y, rtol=1e-6) for x, y in zip(a.coeffs, b.coeffs, strict=True))


def test_unipc_weights_solve_the_authors_system() -> None:
    """R rho = b of the paper, for the predictor of order 3 and the correctors of order 2 and 3, on uneven
    nodes, both signs of hh."""
    h, older = 0.7, [-0.5, -1.3]
    for sign in (1, -1):  # data, noise
        hh = -sign * h
        for r in ([o / h for o in older], [older[0] / h, 1.0], [older[0] / h, older[1] / h, 1.0]):
            for B in (hh, math.expm1(hh)):
                k = np.arange(len(r))
                R = np.array(r)[None] ** k[:, None]
                # int_0^1 of e^{hh (1 - u)} u^{i+1}: (i + 1)! phi_{i+2}(hh)
                b = np.array([hh * math.factorial(i + 1) * phi(i + 2, hh) / B for i in k])
                rho = np.linalg.solve(R, b)
                # x = ... - alpha (expm1(hh) m_0 + B sum rho_k (m_k - m_0) / r_k), and E_0 = -expm1(hh) / sign
                theirs = [-math.expm1(hh) + B * sum(rho / r), *(-B * rho / r)]
                ours = np.array(adams_weights(sign, h, [0.0, *(v * h for v in r)])) * sign
                assert ours == pytest.approx(theirs, rel=1e-12)


def test_aliases_are_what_they_say() -> None:
    times = grid_for(VP)
    assert plan("res-2m", VP, times) == plan("dpmpp-2m", VP, times, weight="heun")
    assert plan("res-2s", VP, times) == plan("dpmpp-2s", VP, times, weight="taylor")
    assert plan("dpm-1", VP, times) == plan("ddim", VP, times)
    assert plan("ml-sde", VP, times) == plan("ddpm", VP, times)
    assert plan("iadb", FLOW, times, predicts="flow") == plan("euler", FLOW, times, predicts="flow")


def test_euler_on_gaussian_data_has_a_closed_form() -> None:
    """O5: on VE / EDM with data N(0, c^2) Euler's scale is the exact one times prod cos(theta_i -
    theta_{i+1}), theta = atan(sigma / c)."""
    c, times = 0.7, grid_for(EDM, 12, "sigma_min")
    y = interpret(
        plan("euler", EDM, times, predicts="noise"), lambda x, call, b: call.t * x / (call.t**2 + c * c), 1.0
    )
    exact = math.sqrt((times[-1] ** 2 + c * c) / (times[0] ** 2 + c * c))
    theta = np.arctan(times / c)
    assert y == pytest.approx(exact * np.prod(np.cos(-np.diff(theta))), rel=1e-12)


def test_singlestep_start_leaves_a_history_of_true_predictions() -> None:
    """startup="single": as many calls more as the method's own stages, at interior nodes; then one call a
    step."""
    for key, order, extra in (("dpmpp-2m", 2, 1), ("unipc", 2, 1), ("unipc", 3, 4)):
        p = plan(key, VP, grid_for(VP, 20), order=order, startup="single")
        assert p.nfe == 20 + extra
        starts = [c.t for c in p.calls if c.t not in p.times]
        assert len(starts) == extra and all(c.step < order - 1 for c in p.calls if c.t not in p.times)
    assert solvers.make("unipc", order=1, startup="single").describe() == "unipc(order=1, startup='single')"
