"""The score-SDE family and the wrappers of solvers: laws in closed form, equal mathematics, public code."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.core.direct import Direct
from fastdiff.core.interpret import interpret
from fastdiff.core.plan import Plan, plan
from fastdiff.core.process import Process, processes
from fastdiff.core.solver import Solver, solvers
from fastdiff.testing import GaussianMixture, affine_law, order_of, pf_ode
from fastdiff.testing.solvers import network_rows, rank

VP, SUB, EDM, FLOW = (processes.get(k)() for k in ("vp", "sub-vp", "edm", "flow-matching"))
VE = processes.get("ve")(sigma_min=0.05, sigma_max=10.0)
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
X = torch.linspace(-2.2, 2.2, 9, dtype=torch.float64)[:, None]
M0, S0 = 0.7, 0.4
ORDERS = [("euler", 1), ("midpoint", 2), ("heun", 2), ("bosh3", 3), ("rk4", 4)]
RESTARTS = ((4, 2, 0.3, 0.8), (3, 1, 0.06, 0.3))


def even(process: Process, steps: int, low: float = -2.0, high: float = 2.5) -> np.ndarray:
    return np.asarray(process.time_of(np.linspace(low, high, steps + 1)))


def law(made: Plan, process: Process, **options: Any) -> Any:
    def run(model: Any, x: Any, noise: Any) -> Any:
        return interpret(made, lambda x, call, branch: model(x, call.t), x, noise=noise)

    return affine_law(run, process, float(made.times[0]), mean=M0, std=S0, draws=400, **options)


def same(a: Plan, b: Plan, scale: float = 1e-12) -> None:
    assert len(a.stages) == len(b.stages)
    for s, t in zip(a.stages, b.stages, strict=True):
        assert (s.inputs, s.outputs, s.draws) == (t.inputs, t.outputs, t.draws)
        assert np.abs(s.coeffs - t.coeffs).max(initial=0) <= scale * np.abs(t.coeffs).max(initial=0)


# the SDE


@pytest.mark.parametrize("key", ["em", "reverse-diffusion", "ancestral"])
@pytest.mark.parametrize("process", [VP, SUB, VE, FLOW], ids=lambda p: p.key)
def test_weak_order_one(process: Process, key: str) -> None:
    """Variance, and the mean from a start that is off, against the exact reverse SDE: there the mean is
    multiplied by V_t / V_s in units of alpha, V = std^2 + (sigma / alpha)^2. Ancestral steps are exact in it.
    EM on VE is left with its mean: exponential times hide the order of its variance."""
    errors, means = [], []
    for n in (80, 160):
        made = plan(key, process, even(process, n))
        s, t = (process.node(float(made.times[i])) for i in (0, -1))
        errors.append(abs(law(made, process).variance - (t.alpha * S0) ** 2 - t.sigma**2))
        growth = (S0**2 + t.rho**2) / (S0**2 + s.rho**2)
        off = law(made, process, start=(s.alpha * M0 + 0.5, 1.0)).mean
        means.append(abs(off - t.alpha * M0 - 0.5 * t.alpha / s.alpha * growth))
    if key != "em" or process is not VE:
        assert abs(order_of(errors, (80, 160)) - 1) <= 0.1
    if key == "ancestral" or (key == "reverse-diffusion" and process is VE):
        assert max(means) <= 1e-14  # some hundred roundings of numbers below 1
    elif process is SUB and key == "em":
        assert order_of(means, (80, 160)) >= 0.9  # the leading term nearly cancels on these times
    else:
        assert abs(order_of(means, (80, 160)) - 1) <= 0.1


def test_em_is_of_strong_order_one() -> None:
    """The draws of coarser runs are sums of the finest run's Brownian increments over time."""
    finest, counts = 2560, (40, 80, 160)
    fine = even(VP, finest)
    steps = np.random.default_rng(0).standard_normal((finest, 128)) * np.sqrt(-np.diff(fine))[:, None]
    ends = {}
    for n in (*counts, finest):
        w = steps.reshape(n, -1, 128).sum(1) / np.sqrt(-np.diff(fine[:: finest // n]))[:, None]
        d = Direct(
            lambda x, s: S0**2 * s.alpha * x / ((s.alpha * S0) ** 2 + s.sigma**2),  # E[x0 | x] of N(0, S0^2)
            np.random.default_rng(1).standard_normal(128),
            wanted="score",
            noise=lambda step, column, w=w: w[step],
        )
        solvers.make("em").record(d, [VP.node(float(t)) for t in fine[:: finest // n]])
        ends[n] = d.x
    errors = [float(np.sqrt(np.mean((ends[n] - ends[finest]) ** 2))) for n in counts]
    # the reference's own error, 1/16 of the last one's, lifts the slope by 0.04
    assert abs(order_of(errors, counts) - 1) <= 0.15


def test_draws_of_em_are_increments_over_time() -> None:
    made = plan("em", VP, even(VP, 4))
    spans = [s for stage in made.stages for s in stage.spans if s]
    assert [s[2] for s in spans] == ["t"] * 4
    assert [tuple(s[:2]) for s in spans] == list(zip(made.times, made.times[1:], strict=False))


def test_em_of_a_flow_is_the_rectified_sde() -> None:
    """x <- x - h (2 u + x / (1 - t)) + sqrt(2 t / (1 - t) h) xi, and no draw in the step from pure noise."""
    times = np.array([1.0, 0.9, 0.7, 0.5, 0.2])
    made = plan("em", FLOW, times, predicts="flow")
    assert made.stages[1].draws == ()
    for k, (t, u) in enumerate(zip(times[1:], times[2:], strict=False)):
        h, (row,) = t - u, made.stages[k + 2].coeffs
        assert row == pytest.approx([1 - h / (1 - t), -2 * h, (2 * t / (1 - t) * h) ** 0.5], rel=1e-12)


@pytest.mark.parametrize("process", processes.names(kind="gaussian"))
def test_ancestral_is_the_posterior(process: str) -> None:
    """ "small" and "large" are those of ddpm wherever alpha > 0; "auto" is small on VE kinds, where it is
    euler-a, and large elsewhere."""
    made = processes.make(process)
    times = fd.grid(made.default_grid, made, steps=8, final="sigma_min")[1:]
    still = isinstance(made, fd.processes.VE | fd.processes.EDM)
    for variance in ("small", "large"):
        a = plan("ancestral", made, times, predicts="data", variance=variance)
        same(a, plan("ddpm", made, times, predicts="data", variance=variance))
        if still == (variance == "small"):
            same(plan("ancestral", made, times, predicts="data"), a)
    if still:
        same(plan("ancestral", made, times, predicts="data"), plan("euler-a", made, times, predicts="data"))


def test_reverse_diffusion_on_a_discrete_chain() -> None:
    """x (2 - sqrt(1 - beta)) + beta score + sqrt(beta) xi, of the chain's own betas."""
    betas = np.linspace(1e-4, 0.02, 50)
    process = processes.get("discrete-vp")(np.cumprod(1 - betas))
    n = np.arange(49, 39, -1)
    made = plan("reverse-diffusion", process, (n + 1) / 50, predicts="score")
    for k, beta in enumerate(betas[n[:-1]]):
        (row,) = made.stages[k + 1].coeffs
        assert row == pytest.approx([2 - (1 - beta) ** 0.5, beta, beta**0.5], rel=1e-11)


def test_diffusers_score_sde_predictors() -> None:
    """Their VE predictor is reverse diffusion, their VP one Euler-Maruyama with a step of 1 / N wherever t
    is; both run live, one step at a time."""
    diffusers = pytest.importorskip("diffusers")
    x, xi = X.numpy(), np.random.default_rng(0).standard_normal(X.shape)
    score = np.sin(3 * x)

    ve = diffusers.ScoreSdeVeScheduler(num_train_timesteps=20, sigma_min=0.05, sigma_max=10.0)
    ve.set_timesteps(20)
    ve.set_sigmas(20)
    ve.discrete_sigmas, ve.timesteps = ve.discrete_sigmas.double(), ve.timesteps.double()
    module = importlib.import_module(type(ve).__module__)
    patch = pytest.MonkeyPatch()
    try:
        patch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(xi))
        for i in (0, 7, 18):
            t = ve.timesteps[i]
            theirs = ve.step_pred(torch.from_numpy(score), t, torch.from_numpy(x)).prev_sample.numpy()
            j = int((t * (len(ve.timesteps) - 1)).long())
            levels = [float(ve.discrete_sigmas[j]), float(ve.discrete_sigmas[j - 1])]
            made = plan("reverse-diffusion", EDM, levels, predicts="score")
            ours = interpret(made, lambda *a: score, x, noise=lambda *a: xi)
            assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()  # sigmas by float32 exponents

        module = importlib.import_module("diffusers.schedulers.deprecated.scheduling_sde_vp")
        vp = module.ScoreSdeVpScheduler(num_train_timesteps=100, beta_min=0.1, beta_max=20.0)
        vp.set_timesteps(40)
        patch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(xi))
        for t in (0.9, 0.4, 0.1):
            t = torch.tensor(t, dtype=torch.float64)
            s = VP.node(float(t))
            raw = torch.from_numpy(score) * -s.sigma  # they divide by -std
            theirs = vp.step_pred(raw, torch.from_numpy(x), t)[0].numpy()
            made = plan("em", VP, [float(t), float(t) - 1 / 40], predicts="score")
            ours = interpret(made, lambda *a: score, x, noise=lambda *a: xi)
            assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()  # sqrt(-dt) in float32
    finally:
        patch.undo()


# the probability flow


@pytest.mark.parametrize("process", [VP, EDM, FLOW], ids=lambda p: p.key)
def test_pf_ode_has_euler_and_heun_among_its_methods(process: Process) -> None:
    times = fd.grid(process.default_grid, process, steps=8)
    for key in ("euler", "heun"):
        for predicts in ("data", "flow"):
            a = plan("pf-ode", process, times, predicts=predicts, method=key)
            same(a, plan(key, process, times, predicts=predicts))


def test_pf_ode_in_time_is_x_plus_dt_u() -> None:
    for process in (VP, FLOW):
        times = fd.grid("uniform-t", process, steps=6, final="sigma_min")
        made = plan("pf-ode", process, times, predicts="flow", method="euler", coordinates="time")
        for stage, dt in zip(made.stages[1:], np.diff(times), strict=True):
            assert stage.coeffs.tolist() == [pytest.approx([1.0, dt], rel=1e-14)]


@pytest.mark.parametrize("coordinates", ["straight", "time"])
@pytest.mark.parametrize("method, order", ORDERS)
def test_orders_in_both_coordinates(method: str, order: int, coordinates: str) -> None:
    counts, errors = (80, 160), []
    exact = pf_ode(MIXTURE, VP, X, *(float(t) for t in even(VP, 1)))
    solver = solvers.make("pf-ode", method=method, coordinates=coordinates)
    assert solver.order == order
    for n in counts:
        d = Direct(lambda x, s: MIXTURE.expectations(x, s.alpha, s.sigma)[0], X, wanted="flow")
        solver.record(d, [VP.node(float(t)) for t in even(VP, n)])
        errors.append(float((d.x - exact).abs().max()))
        assert d.calls == n * {"euler": 1, "bosh3": 3, "rk4": 4}.get(method, 2)
    assert abs(order_of(errors, counts, floor=1e-10) - order) <= 0.25


# restart


@dataclass(frozen=True)
class GaussianFlow(Solver):
    """The exact flow of N(0, S0^2)."""

    def step(self, p: Any, s: Any, t: Any, past: Any) -> Any:
        ratio = ((t.alpha * S0) ** 2 + t.sigma**2) / ((s.alpha * S0) ** 2 + s.sigma**2)
        p.x = ratio**0.5 * p.x
        return []


def test_restart_without_repeats_is_its_inner_solver() -> None:
    times = fd.grid("karras", EDM, steps=10)
    for inner in ("heun", "dpmpp-2m", solvers.make("unipc", order=3)):
        for segments in ((), ((3, 0, 0.1, 0.5),)):
            same(plan("restart", EDM, times, inner=inner, segments=segments), plan(inner, EDM, times))
    assert not solvers.make("restart").stochastic and solvers.make("restart", segments=RESTARTS).stochastic


def test_network_calls_of_the_papers_settings() -> None:
    """43 for CIFAR-10, 203 for ImageNet-64 (Xu et al. 2023)."""
    many = (4, 1, 19.35, 40.79), (4, 1, 1.09, 1.92), (4, 5, 0.59, 1.09), (4, 5, 0.3, 0.59), (6, 6, 0.06, 0.3)
    for steps, segments, calls in ((18, ((3, 2, 0.06, 0.30),), 43), (36, many, 203)):
        made = plan("restart", EDM, fd.grid("karras", EDM, steps=steps), segments=segments)
        assert made.nfe == calls and made.steps == steps
        assert sum(len(s.draws) for s in made.stages) == sum(k for _, k, _, _ in segments)


@pytest.mark.parametrize("process", [VP, EDM, FLOW], ids=lambda p: p.key)
def test_restart_keeps_the_marginal_and_forgets(process: Process) -> None:
    """With the exact flow inside, the marginal at the end is exact, and an error of the mean shrinks by
    sqrt(V_min / V_max) in each restart, V = std^2 + rho^2 (in units of alpha)."""
    times = even(process, 8, -2.0, 2.0)
    nodes = [process.node(float(t)) for t in times]
    low, high, repeats = nodes[5].rho, 1.4, 3
    inner = GaussianFlow()

    def end(segments: Any, start: tuple[float, float]) -> Any:
        solver = solvers.make("restart", inner=inner, segments=segments)

        def run(model: Any, x: Any, noise: Any) -> Any:
            d = Direct(lambda *a: x, x, wanted="data", noise=noise)
            solver.record(d, nodes)
            return d.x

        return affine_law(run, process, float(times[0]), mean=0.0, std=S0, start=start)

    s, t = nodes[0], nodes[-1]
    std = ((s.alpha * S0) ** 2 + s.sigma**2) ** 0.5
    segments = ((4, repeats, low * 1.01, high),)
    exact = (t.alpha * S0) ** 2 + t.sigma**2
    assert end(segments, (0.0, std)).variance == pytest.approx(exact, rel=1e-12)
    assert end(segments, (0.0, std)).draws == repeats
    shift = end(segments, (0.5, std)).mean / end((), (0.5, std)).mean
    assert shift == pytest.approx(((S0**2 + low**2) / (S0**2 + high**2)) ** (repeats / 2), rel=1e-12)


@pytest.mark.parametrize("inner", ["heun", "dpmpp-2m", "ddpm", "unipc"])
def test_restart_carries_the_fewest_and_is_its_formula(inner: str) -> None:
    solver = solvers.make("restart", inner=inner, segments=RESTARTS)
    for process, predicts in ((EDM, "data"), (VP, "noise"), (FLOW, "flow")):
        times = fd.grid(process.default_grid, process, steps=9)
        made = plan(solver, process, times, predicts=predicts)
        rows = network_rows(solver, process, times, predicts)
        assert made.carried == made.bound == max(rank(rows[k:], range(k + 1)) for k in range(len(rows) - 1))
        net = MIXTURE.denoiser(process, predicts)
        x = X * process.prior_std(times[0])

        def draw(step: int, column: int) -> torch.Tensor:
            return torch.from_numpy(np.random.default_rng([step, column]).standard_normal(X.shape))

        d = Direct(lambda x, n, net=net: net(x, float(n.t)), x, predicts, wanted=solver.predicts, noise=draw)
        solver.record(d, [process.node(float(t)) for t in times])
        y = interpret(made, lambda x, call, b, net=net: net(x, call.t), x, noise=draw)
        assert (y - d.x).abs().max() <= 1e-10  # 1 / alpha = 150 of a noise prediction, and some 50 calls


def test_restart_runs_with_a_trajectory_and_a_callback() -> None:
    denoiser = fd.Denoiser(MIXTURE.denoiser(EDM, "data"), EDM, predicts="data")
    seen: list[int] = []
    how: dict[str, Any] = {"solver": "restart", "segments": RESTARTS, "steps": 8, "seeds": 0}
    out = fd.sample(denoiser, X * 80, **how, trajectory=True)
    y = fd.sample(denoiser, X * 80, **how, callback=lambda k, *a: seen.append(k))
    assert len(out.states) == 9 and torch.equal(out.x, y) and seen == list(range(8))


def test_wrong_restarts() -> None:
    wrong = (1, 2, 0.1, 0.5), (3, 2, 0.5, 0.1), (3, -1, 0.1, 0.5), (3, 2, 0.1), (3.0, 2, 0.1, 0.5)
    for bad in (5, *((segment,) for segment in wrong)):
        with pytest.raises(ValueError, match="segments"):
            solvers.make("restart", segments=bad)
    with pytest.raises(TypeError, match="inner"):
        solvers.make("restart", inner=3)
    with pytest.raises(ValueError, match="rho_max"):
        plan("restart", EDM, [80.0, 20.0, 0.0], segments=((3, 1, 0.1, 0.5),))
    assert solvers.make("restart", segments=[[3, 1, 0.1, 0.5]]).segments == ((3, 1, 0.1, 0.5),)


# ode-jump


@pytest.mark.parametrize("inner", ["heun", "dpmpp-2m", "unipc"])
def test_ode_jump_is_the_run_that_ends_there(inner: str) -> None:
    denoiser = fd.Denoiser(MIXTURE.denoiser(EDM, "noise"), EDM, predicts="noise")
    times = fd.grid("karras", EDM, steps=10)
    for after in (0, 4, 9):
        how = {"inner": inner, "after": after, "times": times}
        jump = fd.sample(denoiser, X * 80, solver="ode-jump", trajectory=True, **how)
        short = np.append(times[: after + 1], 0.0)
        if inner != "unipc":  # which looks at the number of steps
            other = fd.sample(denoiser, X * 80, solver=inner, times=short)
            assert (jump.x - other).abs().max() <= 1e-12  # plans with and without a trajectory round apart
        state = jump.states[after]
        assert (jump.x - denoiser(state, float(times[after]))).abs().max() <= 1e-11 or inner == "unipc"
        assert len(jump.states) == 11 and torch.equal(jump.states[after + 1], jump.x)
    assert plan("ode-jump", EDM, times, after=4).nfe == 9
    same(plan("ode-jump", EDM, times, inner=inner), plan(inner, EDM, times))
    same(plan("ode-jump", EDM, times, inner=inner, after=20), plan(inner, EDM, times))


def test_wrong_jumps() -> None:
    for bad in (-1, 1.0, True):
        with pytest.raises(ValueError, match="after"):
            solvers.make("ode-jump", after=bad)
    with pytest.raises(ValueError, match="zero"):
        plan("ode-jump", EDM, [80.0, 20.0, 1.0], after=1)
