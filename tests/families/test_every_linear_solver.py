"""Every solver that serves linear processes against laws that are known without running it; a new file is
tested without touching this one.

Data of two normals on the line stay a mixture under CLD, PSLD, ...: their probability flow is known to 1e-10.
Data of one normal make a plan an affine map of its start and its draws, whose law is known without Monte
Carlo.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import fastdiff as fd
from fastdiff.core.direct import Direct
from fastdiff.core.interpret import interpret
from fastdiff.core.matrix import Vector
from fastdiff.core.number import Real, precision
from fastdiff.core.plan import DRAWS, INPUTS, OUTPUTS, plan
from fastdiff.core.solver import solvers
from fastdiff.testing import GaussianMixture, order_of
from fastdiff.testing.phase_space import PhaseMixture, phase_law
from fastdiff.testing.solvers import Row, _Sparse, planned, rank, variants

P = fd.processes
SMOOTH = {  # at 160 steps their orders show
    "psld": P.PSLD(nu=3.75, gamma=0.25, beta_min=0.1, beta_max=8.0),
    "cld": P.CLD(beta_min=1.0, beta_max=1.0),
}
EVERY = {
    **SMOOTH,
    "psld, noise on x": P.PSLD(nu=0.0, gamma=4.0),
    "psld, dsm": P.PSLD(conditioning="dsm"),
    "malda": P.MALDA(),
    "alda": P.ALDA(),
    "one register": P.LinearSDE(beta_min=0.1, beta_max=20.0),
    "spatial": P.LinearSDE.spatial([[1.0, 0.3], [0.3, 2.0]], [[0.0, 0.7], [-0.7, 0.0]], start=(0.0, 0.4)),
}
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
M0, S0 = 0.7, 0.4
START, END = 1.0, 0.05
REFUSED = {"eta", "reproject", "churn", "variance", "cfg_pp"}  # options that say nothing here
CASES = [
    pytest.param(k, o, id=f"{k}-{'-'.join(f'{n}={v}' for n, v in o.items()) or 'default'}")
    for k in planned("linear")
    for o in variants(k)
    if not REFUSED & set(o)
]
OFF = [(k, o) for k in planned("linear") for o in variants(k) if REFUSED & set(o)]


def in_law_only(key: str, options: dict[str, Any]) -> bool:
    """A flow of the right marginals that is not the probability flow."""
    return key == "ddim" and options.get("root", "cholesky") == "cholesky"


def asks_data(key: str) -> bool:
    return solvers.make(key).predicts == "data"


def has_data(process: Any, predicts: str) -> bool:
    return predicts == "data" or len(process.scored) == len(process.registers)


@lru_cache
def problem(name: str) -> tuple[PhaseMixture, list[torch.Tensor], list[np.ndarray]]:
    """Data, 25 starts, and where the probability flow takes them."""
    process = SMOOTH[name]
    oracle, line = PhaseMixture(MIXTURE, process), torch.linspace(-2, 2, 5, dtype=torch.float64)
    x, v = (a.reshape(-1) for a in torch.meshgrid(line, line, indexing="ij"))
    z = [x, v * process.prior_root()[1, 1]]
    return oracle, z, oracle.flow(z, START, END)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("key, options", [c for c in CASES if not solvers.make(c.values[0]).stochastic])
def test_order(key: str, options: dict[str, Any], name: str) -> None:
    """The declared order, of x at the end. Errors of order 1 still bend at 320 steps where they are
    largest."""
    solver, (oracle, z, exact), errors = solvers.make(key, **options), problem(name), []
    if in_law_only(key, options):
        return
    steps = (160, 320) if key == "conjugate" else (80, 160)
    predicts = "data" if asks_data(key) else "noise"
    for n in steps:
        made = plan(solver, SMOOTH[name], np.linspace(START, END, n + 1), predicts=predicts)

        def net(z: Any, call: Any, branch: int) -> Any:
            return oracle.outputs(z, call.t, predicts)

        errors.append(float(np.abs(interpret(made, net, z[0], consts={"v": z[1]}).numpy() - exact[0]).max()))
    assert abs(order_of(errors, steps, floor=1e-10) - solver.order) <= 0.15


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize(
    "key, options", [c for c in CASES if solvers.make(c.values[0]).stochastic or in_law_only(*c.values)]
)
def test_weak_order(key: str, options: dict[str, Any], name: str) -> None:
    """The variance of the exact law on Gaussian data, and its mean from a start that is off, against that
    of the reverse SDE by DOP853; both of the weak order."""
    if options.get("legacy"):
        return  # other people's mathematics
    process, solver = SMOOTH[name], solvers.make(key, **options)
    data = PhaseMixture(GaussianMixture([1.0], [M0], [S0]), process)
    (_,), (C,), _ = data.components(END)
    shift, off, spread = [0.5, -0.2], [], []

    def slope(t: float, m: np.ndarray) -> np.ndarray:
        return process.f(t).array() @ m + process.g2(t).array() @ np.linalg.solve(data.components(t)[1][0], m)

    moved = solve_ivp(slope, (START, END), shift, method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    steps = [40, 80]
    for n in steps:
        made = plan(
            solver, process, np.linspace(START, END, n + 1), predicts="data" if asks_data(key) else "noise"
        )
        law = phase_law(made, process, mean=M0, std=S0, shift=shift, draws=4 * n + 4)
        spread.append(abs(float(law.cov[0, 0] - C[0, 0])))
        off.append(abs(float(law.mean[0] - data.components(END)[0][0, 0] - moved[0])))
        if n < 320 and len(spread) > 1 and abs(order_of(spread[-2:], steps[-2:]) - solver.order) > 0.1:
            steps.append(2 * n)  # an order is a limit
    assert abs(order_of(spread[-2:], steps[-2:]) - solver.order) <= 0.15
    if solver.stochastic and max(off) > 1e-12:  # the mean of an ancestral step is exact
        assert abs(order_of(off[-2:], steps[-2:]) - solver.order) <= 0.15


# a plan is its formula


def draw(step: int, column: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([step + 1, column]).standard_normal(9))


def network(process: Any, predicts: str) -> Any:
    """Some smooth map of all registers; noise of size 1, data of size 1, scores as the root has them."""
    count = process.outputs(predicts)

    def net(z: Any, t: float) -> list[torch.Tensor]:
        some = [
            torch.sin(sum(0.2 * (1.0 + i + k) * a for i, a in enumerate(z)) + 3 * t) for k in range(count)
        ]
        return some if predicts != "score" else [-a / (0.2 + t) for a in some]

    return net


def some(name: str) -> list[tuple[int, Any]]:
    """Every case on the two processes of SMOOTH, one in three, in turn, on the others."""
    turn = list(EVERY).index(name)
    return [(i, c) for i, c in enumerate(CASES) if name in SMOOTH or (i + turn) % 3 == 0]


@pytest.mark.parametrize("name", EVERY)
def test_plan_is_formula(name: str) -> None:
    """Traced and direct agree to 1e-12 of their scale, over every variant and prediction, to zero and not."""
    process = EVERY[name]
    z = [draw(-1, k) * s for k, s in enumerate(np.sqrt(np.diag(process.system.rest)))]
    for i, case in some(name):
        key, options = case.values
        solver, predicts = solvers.make(key, **options), ("noise", "score", "data")[i % 3]
        if asks_data(key) and not has_data(process, predicts):
            predicts = "data"
        for steps, end in ((1, 0.0), (2, 1e-3), (6, (0.0, 1e-3)[i % 2])):
            times = 1e-3 + (1 - 1e-3) * np.linspace(1, 0, steps + 1) ** 1.3
            times[-1] = end
            made, net = plan(solver, process, times, predicts=predicts), network(process, predicts)
            direct = Direct(
                lambda z, n, net=net: Vector(net(z, float(n.t))),
                Vector(z),
                predicts,
                wanted=solver.predicts,
                noise=draw,
            )
            solver.record(direct, [process.node(float(t)) for t in times])

            def asked(z: Any, call: Any, branch: int, net: Any = net) -> Any:
                return net(z, call.t) if len(process.registers) > 1 else net([z], call.t)[0]

            consts = dict(zip(process.registers[1:], z[1:], strict=True))
            y, want = interpret(made, asked, z[0], noise=draw, consts=consts), direct.x[0]
            assert made.nfe == direct.calls
            # what a step amplifies, it amplifies of the rounding too
            largest = max(1.0, *(float(np.abs(s.coeffs).max(initial=0)) for s in made.stages))
            assert float((y - want).abs().max()) <= 1e-12 * largest * max(1.0, float(want.abs().max())), (
                key,
                options,
            )


@pytest.mark.parametrize("name", EVERY)
def test_carries_the_fewest_tensors(name: str) -> None:
    """At every call of every plan: the rank of what later calls are given, over the registers at the start
    and the outputs so far, found anew by running the formula itself and eliminating in 60 digits."""
    process = EVERY[name]
    K = len(process.registers)
    for i, case in some(name):
        key, options = case.values
        predicts = ("noise", "data", "score")[i % 3]
        if asks_data(key) and not has_data(process, predicts):
            predicts = "data"
        times = 1e-3 + (1 - 1e-3) * np.linspace(1, 0, 6 + i % 2)
        made = plan(key, process, times, predicts=predicts, **options)
        args, known = network_rows(solvers.make(key, **options), process, times, predicts)
        ranks = [
            rank([row for later in args[k:] for row in later], range(known[k])) for k in range(len(args) - 1)
        ]
        stages = [s for s in made.stages if s.call]
        assert [s.rank for s in stages] == [s.alive for s in stages] == ranks, (key, options, predicts)
        assert made.carried == made.bound == max(ranks) >= K
        assert len(made.stages) == len(made.calls) + 1
        for s in made.stages:
            assert len(s.outputs) <= max(OUTPUTS, made.carried) and len(s.inputs) <= INPUTS
            assert len(s.draws) <= DRAWS if K <= 2 else True
            assert all(np.any(column != 0) for column in s.coeffs.T), "a coefficient 0 is not read"


def network_rows(solver: Any, process: Any, times: Any, predicts: str) -> tuple[list[list[Row]], list[int]]:
    """What each call is given, over (registers, output 0, output 1, ...), and how many of those there are by
    then; the last is the result."""
    args: list[list[Row]] = []
    known, axes = [], len(process.registers)

    def net(z: Any, n: Any) -> Vector:
        nonlocal axes
        args.append([a.c for a in z])
        known.append(axes)
        axes += process.outputs(predicts)
        return Vector(_Sparse({k: Decimal(1)}) for k in range(known[-1], axes))

    with precision():
        start = Vector(_Sparse({k: Decimal(1)}) for k in range(len(process.registers)))
        run = Direct(net, start, predicts, wanted=solver.predicts, noise=lambda step, column: _Sparse({}))
        solver.record(run, [process.node(Real(float(t))) for t in times])
        return [*args, [run.x[0].c]], [*known, axes]


# what a user sees


@pytest.mark.parametrize("key, options", OFF)
def test_options_that_say_nothing_here(key: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}|alpha, sigma or lambda"):
        plan(key, EVERY["psld"], [1.0, 0.5, 0.1], **options)


def test_a_solver_of_the_other_kind() -> None:
    """Either way round the error names both, and what would serve."""
    with pytest.raises(
        ValueError, match="'dpmpp-2m' is for gaussian .*PSLD.* is linear; .*conjugate, ddim, ddpm, em"
    ):
        plan("dpmpp-2m", P.PSLD(), [1.0, 0.5])
    with pytest.raises(ValueError, match="'sscs' is for linear processes, but VP.* is gaussian; .*ddim"):
        plan("sscs", P.VP(), [1.0, 0.5])
    assert {"conjugate", "rse", "rvv", "strang", "oba", "sscs"} == {
        k for k in solvers.names() if solvers.get(k).kinds == ("linear",)
    }
    for bad in ({"strength": "1"}, {"matrix": "zeros"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            solvers.make("conjugate", **bad)
    for bad in ({"reduced": 1}, {"splitting": "abo"}, {"position_noise": 1.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            solvers.make("oba", **bad)


def test_other_times_want_another_plan() -> None:
    """Coefficients of a linear process are made on the host: no tables of other times, and no word of
    silence."""
    made = plan("em", P.PSLD(), [1.0, 0.5, 0.1])
    with pytest.raises(ValueError, match="plain numbers"):
        plan("conjugate", P.PSLD(), [1.0, 0.5, 0.1]).coefficients(
            torch.tensor([1.0, 0.5, 0.1]).requires_grad_()
        )
    loaded = type(made).load
    assert callable(loaded) and made == plan("em", P.PSLD(), [1.0, 0.5, 0.1])
