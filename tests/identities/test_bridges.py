"""Bridges: coefficients, exact laws and orders of `DiffusionBridge`, and DBIM and DDBM's sampler written out
as published."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
import fastdiff.processes as P
from fastdiff.core.direct import Direct
from fastdiff.core.interpret import interpret
from fastdiff.core.plan import plan
from fastdiff.core.process import Process
from fastdiff.core.solver import Solver, solvers
from fastdiff.testing import GaussianMixture, affine_law, order_of, pf_ode
from fastdiff.testing.solvers import planned

VP, VE, SB_VE = P.DiffusionBridge.vp(), P.DiffusionBridge.ve(), P.DiffusionBridge.sb_ve()
BRIDGES = [VP, VE, P.DiffusionBridge(P.VPCosine()), SB_VE]
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
X_T = torch.linspace(-1.5, 1.0, 9, dtype=torch.float64)
X = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).flip(0)
every_bridge = pytest.mark.parametrize("bridge", BRIDGES, ids=lambda b: type(b.base).__name__)


def abc(bridge: P.DiffusionBridge, t: float) -> tuple[float, float, float]:
    """DBIM's a, b, c as printed, from alpha and rho = sigma / alpha of the base."""
    base, end = bridge.base.node(t), bridge.base.node(bridge.t_max)
    rest = end.rho**2 - base.rho**2
    return (
        base.alpha / end.alpha * base.rho**2 / end.rho**2,
        base.alpha * rest / end.rho**2,
        base.alpha * math.sqrt(rest) * base.rho / end.rho,
    )


def net(x: torch.Tensor, t: float) -> torch.Tensor:
    return torch.tanh(1.3 * x - t) + 0.2 * x


def draw(step: int, column: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([step, column]).standard_normal(9))


def run(made: Any, x: torch.Tensor, net: Any = net) -> torch.Tensor:
    return interpret(made, lambda x, call, b: net(x, call.t), x, noise=draw, consts={"x_T": X_T})


# the process


@every_bridge
def test_coefficients_as_printed(bridge: P.DiffusionBridge) -> None:
    for u in (0.01, 0.3, 0.9, 0.99):
        t = u * bridge.t_max
        ours = bridge.offset(t), bridge.alpha(t), bridge.sigma(t)
        assert ours == pytest.approx(abc(bridge, t), rel=1e-11)  # rho_T^2 - rho_t^2 cancels by 50
        assert bridge.g2(t) == bridge.base.g2(t)


@every_bridge
def test_ends(bridge: P.DiffusionBridge) -> None:
    T = bridge.t_max
    assert (bridge.offset(T), bridge.alpha(T), bridge.sigma(T)) == (1, 0, 0) and bridge.prior_std(T) == 0
    assert (bridge.offset(0.0), bridge.alpha(0.0), bridge.sigma(0.0)) == (0, 1, 0)


def test_tied_to_nothing_it_is_the_base() -> None:
    """lam_T = -50: what is left of x_T is e^{2 (lam_T - lam)}."""
    base = P.VP(0.1, 200.0)
    bridge = P.DiffusionBridge(base)
    for t in (0.05, 0.3, 0.5):
        left = math.exp(2 * (base.lam(1.0) - base.lam(t)))
        assert bridge.alpha(t) == pytest.approx(base.alpha(t), rel=4 * left + 1e-14)
        assert bridge.sigma(t) == pytest.approx(base.sigma(t), rel=4 * left + 1e-14)
        assert bridge.offset(t) < 1e-6


# DBIM


@every_bridge
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_dbim_as_printed(bridge: P.DiffusionBridge, eta: float) -> None:
    """w = eta alpha_t rho_t sqrt(1 - rho_t^2 / rho_s^2) of the base; coefficients of x, m, x_T and noise."""
    for u, v in ((0.9, 0.6), (0.5, 0.1)):
        s, t = u * bridge.t_max, v * bridge.t_max
        (a, b, c), (a1, b1, c1) = abc(bridge, s), abc(bridge, t)
        rho = [bridge.base.node(n).rho for n in (s, t)]
        w = eta * float(bridge.base.alpha(t)) * rho[1] * math.sqrt(1 - rho[1] ** 2 / rho[0] ** 2)
        k = math.sqrt(c1**2 - w**2) / c
        want = k * X + (b1 - k * b) * net(X, s) + (a1 - k * a) * X_T + w * draw(0, 0)
        ours = run(plan("dbim", bridge, [s, t], predicts="data", eta=eta), X)
        assert torch.allclose(ours, want, rtol=1e-10, atol=1e-10)


def test_golden_coefficients() -> None:
    """alpha = 1, rho_T = 3, rho 2.5, 2 -> 1.2, order 2: by independent code (specification, section 12b)."""
    bridge = P.DiffusionBridge(P.EDM(sigma_max=3.0))
    made = plan("dbim", bridge, [2.5, 2.0, 1.2], predicts="data", order=2, lower_order_final="never")
    outputs = [torch.tensor([0.0, 0, 1], dtype=torch.float64), torch.tensor([0.0, 1, 0], dtype=torch.float64)]
    seen: list[torch.Tensor] = []

    def probe(x: torch.Tensor, call: Any, b: int) -> torch.Tensor:
        seen.append(x)
        return outputs[len(seen) - 1]

    # the state at rho = 2 is x of the step: its own coefficient is found from what it brings in
    zero, unit = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    y = interpret(made, probe, zero, consts={"x_T": zero})
    x, m0, m1 = 0.737780455149, 0.760759928394, -0.330637959033
    assert (y - x * seen[1]).tolist() == pytest.approx([0, m0, m1], abs=1e-11)
    seen.clear()
    y = interpret(made, probe, zero, consts={"x_T": unit})
    assert (y - x * seen[1])[0] == pytest.approx(-0.167902424511, abs=1e-11)
    assert seen[1][0].abs() > 0.1


@every_bridge
def test_dbim_by_other_names(bridge: P.DiffusionBridge) -> None:
    times = np.array([0.95, 0.8, 0.6, 0.4, 0.2, 0.05, 0.0]) * bridge.t_max
    for options, key, others in (
        ({}, "ddim", {}),
        ({"eta": 0.7}, "ddim", {"eta": 0.7}),
        ({"order": 2}, "dpmpp-2m", {"weight": "heun"}),
    ):
        ours = run(plan("dbim", bridge, times, predicts="data", **options), X)
        theirs = run(plan(key, bridge, times, predicts="data", **others), X)
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_eta_is_for_order_1() -> None:
    with pytest.raises(ValueError, match="eta=0.5 needs order=1, got order=2"):
        solvers.make("dbim", order=2, eta=0.5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_on_a_bridge(order: int) -> None:
    """Against the probability flow of x - a x_T, which is that of the path (b, c), known to 1e-10."""
    times = {n: VP.time_of(np.linspace(-2.5, 2.5, n + 1)) for n in (160, 320)}
    first, last = times[160][[0, -1]]
    z = pf_ode(MIXTURE, VP, X - VP.offset(first) * X_T, first, last)
    exact = z + VP.offset(last) * X_T
    startup = {"startup": "single"} if order > 1 else {}
    solver = solvers.make("dbim", order=order, lower_order_final="never", **startup)
    errors = []
    for grid in times.values():
        p = Direct(bridge_net(VP, MIXTURE), X, "data", wanted="data", consts={"x_T": X_T})
        solver.record(p, [VP.node(float(t)) for t in grid])
        errors.append(float((p.x - exact).abs().max()))
    measured = order_of(errors, list(times), floor=1e-10)
    assert measured >= order - 0.3 if order == 3 else abs(measured - order) <= 0.15


def bridge_net(bridge: Process, mixture: GaussianMixture) -> Any:
    return lambda x, n: mixture.expectations(x - float(n.process.offset(n.t)) * X_T, n.alpha, n.sigma)[0]


# SB-VE


def test_sb_ve_as_printed() -> None:
    """Table 1 of the speech paper: sigma_t^2 = c (k^{2t} - 1) / (2 log k), mean and deviation of x_t, and the
    first-order ODE and SDE samplers that it takes over, which are `dbim` with eta 0 and 1."""
    k, c = 2.6, 0.4

    def sigmas(t: float) -> tuple[float, float]:
        s, end = (math.sqrt(c * (k ** (2 * u) - 1) / (2 * math.log(k))) for u in (t, 1.0))
        return s, math.sqrt(end**2 - s**2)

    end = sigmas(1.0)[0]
    for t in (0.03, 0.4, 0.95):
        s, bar = sigmas(t)
        ours = SB_VE.alpha(t), SB_VE.offset(t), SB_VE.sigma(t)
        assert ours == pytest.approx((bar**2 / end**2, s**2 / end**2, s * bar / end), rel=1e-12)
        assert SB_VE.g2(t) == pytest.approx(c * k ** (2 * t), rel=1e-13)
    for s, t in ((0.95, 0.7), (0.4, 0.1)):
        (a, abar), (b, bbar) = sigmas(s), sigmas(t)
        m = net(X, s)
        ode = (b * bbar) / (a * abar) * X + (bbar**2 - abar * b * bbar / a) / end**2 * m
        ode = ode + (b**2 - a * b * bbar / abar) / end**2 * X_T
        sde = b**2 / a**2 * X + (1 - b**2 / a**2) * m + b * math.sqrt(1 - b**2 / a**2) * draw(0, 0)
        for eta, want in ((0.0, ode), (1.0, sde)):
            ours = run(plan("dbim", SB_VE, [s, t], predicts="data", eta=eta), X)
            assert torch.allclose(ours, want, rtol=1e-12, atol=1e-12)


# encoding, and pictures with holes


@pytest.mark.parametrize("bridge", [VP, SB_VE], ids=lambda b: type(b.base).__name__)
def test_encode_and_decode(bridge: P.DiffusionBridge) -> None:
    """DBIM's latent is the draw of its first step, from T to the first time below. The data go up to there by
    the inverse of the deterministic steps; decoding with that draw gives them back."""
    data = GaussianMixture([1.0], [0.5], [0.8])
    consts = {"x_T": X_T[:, None]}

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        n = bridge.node(float(t[0]))
        if n.pure:
            return torch.full_like(x, 0.5)
        return data.expectations(x - float(bridge.offset(n.t)) * consts["x_T"], n.alpha, n.sigma)[0]

    den, x0 = fd.Denoiser(model, bridge, predicts="data"), data.sample((9, 1), seed=2)
    times = np.linspace(1.0, 0.02, 30) * bridge.t_max
    first = bridge.node(float(times[1]))
    up = fd.invert(den, x0, "dbim", times=times[1:], iterations=30, consts=consts)
    latent = (up - float(bridge.offset(first.t)) * consts["x_T"] - float(first.alpha) * 0.5) / first.sigma
    again = fd.sample(
        den, consts["x_T"], solver="dbim", times=times, consts=consts, noise=lambda like, d: latent
    )
    assert (again - x0).abs().max() <= 1e-9
    assert (fd.sample(den, up, solver="dbim", times=times[1:], consts=consts) - x0).abs().max() <= 1e-9


def test_a_picture_with_holes() -> None:
    """m <- m mask + x_T (1 - mask) in every step, by hand; what is known comes out as it is."""
    mask = (torch.arange(9) % 3 > 0).double()[:, None]
    x_T, den = X_T[:, None], fd.Denoiser(lambda x, t: torch.tanh(1.3 * x), VP, predicts="data")
    times, draws = np.array([1.0, 0.8, 0.5, 0.2, 0.0]), torch.cos(5 * X)[:, None]
    run: dict[str, Any] = {"solver": "dbim", "times": times, "consts": {"x_T": x_T}}
    y = fd.sample(den, x_T, hooks=[fd.edit.Known(mask)], noise=lambda like, d: draws, **run)
    x = x_T
    for s, t in zip(times, times[1:], strict=False):
        (a, b, c), (a1, b1, c1) = (
            (float(VP.offset(u)), float(VP.alpha(u)), float(VP.sigma(u))) for u in (s, t)
        )
        m = torch.tanh(1.3 * x) * mask + x_T * (1 - mask)
        x = a1 * x_T + b1 * m + c1 * (draws if c == 0 else (x - a * x_T - b * m) / c)
    torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-12)
    assert torch.equal(y[mask == 0], x_T[mask == 0])
    given = {"hooks": [fd.edit.Known(mask, x_T)], "seeds": 0}
    assert torch.equal(fd.sample(den, x_T, **given, **run), fd.sample(den, x_T, chunk=4, **given, **run))
    with pytest.raises(ValueError, match="has no const; give known="):
        fd.sample(
            fd.Denoiser(lambda x, t: x, P.VP(), predicts="data"), x_T, steps=2, hooks=[fd.edit.Known(mask)]
        )
    with pytest.raises(ValueError, match="mask must lie in"):
        fd.edit.Known(2 * mask)
    with pytest.raises(TypeError, match="known must be a tensor"):
        fd.edit.Known(mask, 0.5)  # type: ignore[arg-type]


# laws


@every_bridge
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_marginals_are_exact_for_every_eta(bridge: P.DiffusionBridge, eta: float) -> None:
    """Data at one point, from T on: the law of x_t is N(b x_0 + a x_T, c^2) at every time."""
    grid = np.array([1.0, 0.9, 0.7, 0.4, 0.2]) * bridge.t_max
    for n in (2, 5):
        made = plan("dbim", bridge, grid[:n], predicts="data", eta=eta)
        law = law_from_T(made, bridge, 0.7, 0.0, 2.0)
        end = bridge.node(float(grid[n - 1]))
        assert law.mean == pytest.approx(end.alpha * 0.7 + bridge.offset(end.t) * 2.0, rel=1e-12)
        assert law.variance == pytest.approx(end.sigma**2, rel=1e-12)


def law_from_T(made: Any, bridge: P.DiffusionBridge, mean: float, std: float, x_T: float) -> Any:
    """From x = x_T at T; the network is the best one for x_0 ~ N(mean, std^2) given x_T."""

    def go(model: Any, x: torch.Tensor, noise: Any) -> torch.Tensor:
        one = torch.zeros_like(x)
        one[..., 0] = 1

        def net(x: torch.Tensor, call: Any, b: int) -> torch.Tensor:
            if call.t == bridge.t_max:
                return mean * one
            return model(x - float(bridge.offset(call.t)) * x_T * one, call.t)

        return interpret(made, net, x_T * one, noise=noise, consts={"x_T": x_T * one})

    t0 = 0.5 * bridge.t_max  # the start given here is not used: x_T is
    return affine_law(go, bridge, t0, mean=mean, std=std, predicts="data", start=(0.0, 1.0), draws=400)


@pytest.mark.parametrize("key, order", [("ddim", 1), ("ddpm", 1), ("dpmpp-2m", 2)])
def test_the_posterior_of_a_pair(key: str, order: int) -> None:
    """x_0 ~ N(0, 1) and x_T = alpha_T x_0 + sigma_T e: given x_T, x_0 is normal, of mean and variance that
    the conditional denoiser knows. From x_T = 2 alone the samples have this law: the mean exactly, the
    variance to the order of the solver."""
    a, s = VP.base.alpha(1.0), VP.base.sigma(1.0)
    v = 1 / (1 + a * a / (s * s))
    mean = v * a / (s * s) * 2.0
    errors = []
    for n in (80, 160, 320):
        times = np.append(np.append(1.0, VP.time_of(np.linspace(-3.0, 3.0, n))), 0.0)
        options = {"lower_order_final": "never"} if order == 2 else {}
        law = law_from_T(plan(key, VP, times, predicts="data", **options), VP, mean, math.sqrt(v), 2.0)
        assert law.mean == pytest.approx(mean, rel=1e-10)
        errors.append(law.variance - v)
    ratio = (errors[0] - errors[1]) / (errors[1] - errors[2])
    assert abs(math.log2(ratio) - order) <= 0.15
    # lambda runs from -3 to 3 whatever n is: what the ends leave out, e^{-6} v^2 and e^{-6}, does not shrink
    limit = errors[2] + (errors[2] - errors[1]) / (2**order - 1)
    assert abs(limit) < 1.05 * math.exp(-6) * (1 + v * v)


@pytest.mark.parametrize("key", planned())
def test_every_solver_from_the_far_end(key: str) -> None:
    """From x_T alone, data at one point: all end there, and on the way the first level is exact."""
    solver: Solver = solvers.make(key)
    if hasattr(solver, "second"):  # exactly invertible, which a draw is not
        with pytest.raises(ValueError, match="not finite"):
            plan(solver, VP, [1.0, 0.8, 0.5, 0.0], predicts="data")
        return
    x0 = torch.cos(X)
    made = plan(solver, VP, [1.0, 0.8, 0.5, 0.3, 0.1, 0.0], predicts="data")
    assert torch.allclose(run(made, X_T, lambda x, t: x0), x0, rtol=0, atol=1e-11)
    once = plan(solver, VP, [1.0, 0.8], predicts="data")
    s = VP.node(0.8)
    want = s.alpha * x0 + s.sigma * draw(0, 0) + VP.offset(0.8) * X_T
    assert torch.allclose(run(once, X_T, lambda x, t: x0), want, rtol=1e-12, atol=1e-12)
    assert once.nfe == 1


@pytest.mark.parametrize("predicts", ["noise", "score", "velocity", "flow"])
def test_only_data_say_anything_at_the_far_end(predicts: str) -> None:
    with pytest.raises(ValueError, match=f"only a data prediction .*, got a {predicts} prediction"):
        plan("dbim", VP, [1.0, 0.5, 0.0], predicts=predicts)


# DDBM's sampler


@pytest.mark.parametrize("bridge", BRIDGES[:2], ids=["vp", "ve"])
@pytest.mark.parametrize("ratio", [0.33, 0.0])
def test_ddbm_heun_as_printed(bridge: P.DiffusionBridge, ratio: float) -> None:
    """d = f x - g^2 (grad log q / 2 - grad log h) in x itself, and with the whole grad log q in the part that
    draws noise; starting at x_T just below T as public code does."""
    base, end = bridge.base, bridge.base.node(bridge.t_max)

    def drift(x: torch.Tensor, t: float, share: float) -> torch.Tensor:
        a, b, c = abc(bridge, t)
        n = base.node(t)
        pull = -(x - n.alpha / end.alpha * X_T) / (n.alpha**2 * (end.rho**2 - n.rho**2))
        score = -(x - a * X_T - b * net(x, t)) / c**2
        return base.f(t) * x - base.g2(t) * (share * score - pull)

    times = [bridge.t_max * u for u in (0.97, 0.8, 0.5, 0.2, 0.05)]
    x = X_T
    for i, (s, t) in enumerate(zip(times, times[1:], strict=False)):
        u = s + ratio * (t - s)
        if ratio:
            x = x + (u - s) * drift(x, s, 1.0) + math.sqrt(base.g2(s) * (s - u)) * draw(i, 0)
        d = drift(x, u, 0.5)
        x = x + (t - u) / 2 * (d + drift(x + (t - u) * d, t, 0.5))
    ours = run(plan("ddbm-heun", bridge, times, predicts="data", ratio=ratio), X_T)
    assert torch.allclose(ours, x, rtol=1e-9, atol=1e-9)  # the printed scores cancel by 1 / (1 - r)


def test_sampling_from_a_picture() -> None:
    """fd.sample with a shape: x_T is where it starts, so the noise is the solver's first draw alone."""
    denoiser = fd.Denoiser(lambda x, t: x * 0.3, VP, predicts="data")
    x_T = torch.randn(4, 3, dtype=torch.float64)
    consts = {"x_T": x_T}
    out = fd.sample(denoiser, (4, 3), solver="dbim", steps=6, seeds=1, dtype=torch.float64, consts=consts)
    same = fd.sample(denoiser, x_T, solver="dbim", steps=6, seeds=1, consts={"x_T": x_T})
    assert torch.equal(out, same)
    other = fd.sample(denoiser, x_T, solver="dbim", steps=6, seeds=2, consts={"x_T": x_T})
    assert not torch.equal(out, other)


def test_one_path_leads_finer_grids_to_one_sample() -> None:
    """The draw at the far end is an increment from lambda = -inf on, so of the same Brownian path."""
    denoiser, x_T = fd.Denoiser(lambda x, t: x * 0.3, VP, predicts="data"), torch.cos(X)[:, None]
    how: dict[str, Any] = {"solver": "ddpm", "consts": {"x_T": x_T}, "noise": "path"}
    coarse, fine = (fd.sample(denoiser, x_T, steps=n, seeds=1, **how) for n in (64, 128))
    other = fd.sample(denoiser, x_T, steps=128, seeds=2, **how)
    assert (coarse - fine).abs().max() < 0.2 * (other - fine).abs().max()
