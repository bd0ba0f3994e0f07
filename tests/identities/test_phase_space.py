"""The solvers of phase space against their papers' formulas written out, exact cases, and published
numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad_vec
from scipy.linalg import expm

import fastdiff as fd
from fastdiff.core.direct import Direct
from fastdiff.core.interpret import interpret
from fastdiff.core.matrix import Vector
from fastdiff.core.plan import plan
from fastdiff.core.solver import solvers
from fastdiff.testing import order_of
from fastdiff.testing.phase_space import phase_law

P = fd.processes
PSLD = P.PSLD(nu=3.75, gamma=0.25, beta_min=0.1, beta_max=8.0)
CLD, VP = P.CLD(), P.VP()
ONE = P.LinearSDE(beta_min=0.1, beta_max=20.0)  # VP as one register
RNG = np.random.default_rng(0)
S, T = 0.7, 0.62  # a step
X, V = RNG.standard_normal((2, 5))


def one_step(solver: Any, process: Any, net: Any, noise: Any = None, predicts: str = "score") -> Vector:
    """(x, v) after a step from S to T; net(x, v, t) -> a list."""
    run = Direct(
        lambda z, n: Vector(net(*z, float(n.t))),
        Vector([X, V]),
        predicts,
        wanted=solver.predicts,
        noise=noise,
    )
    solver.record(run, [process.node(S), process.node(T)])
    return run.x


def some_score(x: Any, v: Any, t: float) -> list[Any]:
    return [-np.sin(x + 2 * v) - t * x, -np.cos(x) - 3 * v * t]


def beta(t: float) -> float:
    return 0.1 + 7.9 * t


GA, NU, MI = 0.25, 3.75, (0.25 - 3.75) ** 2 / 4
M = 1 / MI


def close(z: Vector, *want: Any) -> None:
    for a, b in zip(z, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


# the formulas of Pandey et al. with b = beta / 2, h > 0 down in time


def test_rse() -> None:
    h, b = S - T, beta(S) / 2
    sx, sv = some_score(X, V, S)
    v = V + h * b * (X + NU * V + M * NU * sv)
    x = X + h * b * (GA * X - MI * v + GA * sx)
    close(one_step(solvers.make("rse"), PSLD, some_score), x, v)


def test_rvv() -> None:
    h, b, c = S - T, beta(S) / 2, beta(T) / 2
    sx, sv = some_score(X, V, S)
    half = V + h / 2 * b * (X + NU * V + M * NU * sv)
    x = X + h * b * (GA * X - MI * half + GA * sx)
    _, sv = some_score(x, half, T)
    close(
        one_step(solvers.make("rvv"), PSLD, some_score), x, half + h / 2 * c * (x + NU * half + M * NU * sv)
    )


def test_strang() -> None:
    h, t = S - T, (S + T) / 2
    b = beta(t) / 2

    def of_v(x: Any, v: Any) -> Any:
        return b * (x + NU * v + M * NU * some_score(x, v, t)[1])

    def of_x(x: Any, v: Any) -> Any:
        return b * (GA * x - MI * v + GA * some_score(x, v, t)[0])

    def heun(f: Any, y: Any, h: float) -> Any:
        k = f(y)
        return y + h / 2 * (k + f(y + h * k))

    v = heun(lambda v: of_v(X, v), V, h / 2)
    x = heun(lambda x: of_x(x, v), X, h)
    close(one_step(solvers.make("strang"), PSLD, some_score), x, heun(lambda v: of_v(x, v), v, h / 2))


def xi(step: int, column: int) -> Any:
    return np.random.default_rng([step, column]).standard_normal(5)


@pytest.mark.parametrize("splitting", ["oba", "bao"])
@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("slow", [1.0, 0.3])
def test_oba(splitting: str, reduced: bool, slow: float) -> None:
    h, b = S - T, beta(S) / 2
    B = 0.1 * (S - T) + 7.9 * (S * S - T * T) / 2

    def O(x: Any, v: Any) -> Any:  # noqa: E743 - the paper's letter
        x = math.exp(-B * GA / 2) * x + math.sqrt(-math.expm1(-B * slow * GA)) * xi(0, 0)
        return x, math.exp(-B * NU / 2) * v + math.sqrt(M * -math.expm1(-B * NU)) * xi(0, 1)

    x, v = O(X, V) if splitting == "oba" else (X, V)
    sx, sv = some_score(x, v, S)
    v = v + h * b * (x + 2 * NU * v + 2 * M * NU * sv)
    if not reduced:
        sx, _ = some_score(x, v, S)
    x = x + h * b * (2 * GA * x - MI * v + 2 * GA * sx)
    x, v = (x, v) if splitting == "oba" else O(x, v)
    made = solvers.make("oba", splitting=splitting, reduced=reduced, position_noise=slow)
    close(one_step(made, PSLD, some_score, xi), x, v)
    assert solvers.make("roba") == solvers.make("oba", reduced=True)


@pytest.mark.parametrize("legacy", [False, True])
def test_sscs_on_cld(legacy: bool) -> None:
    """Half steps as Van Loan's exponential has them; the kick is v += 2 h beta Gamma (s_v + v / M)."""
    half = (S - T) / 2
    A, N = 4.0 * np.array([[0.0, -4.0], [1.0, -4.0]]), np.diag([0.0, 8.0])
    E = expm(np.block([[-A, N], [np.zeros((2, 2)), A.T]]) * half)
    Phi = E[2:, 2:].T
    L = np.linalg.cholesky(Phi @ E[:2, 2:])
    z = Phi @ np.stack([X, V]) + L @ np.stack([xi(0, 0), xi(0, 1)])
    at = S if legacy else (S + T) / 2
    z[1] += 2 * (S - T) * 4.0 * (some_score(*z, at)[1] + 4 * z[1])
    z = Phi @ z + L @ np.stack([xi(0, 2), xi(0, 3)])
    got = one_step(solvers.make("sscs", legacy=legacy), CLD, lambda x, v, t: some_score(x, v, t)[1:], xi)
    for a, b in zip(got, z, strict=True):  # float64 Van Loan has lost some digits of x's h^3
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("strength, matrix", [(0.0, "ones"), (0.05, "ones"), (0.05, "identity")])
def test_conjugate(strength: float, matrix: str) -> None:
    """z_u = A_u^{-1} ((I - h B) z + (Phi_u - Phi_t) eps), A_u = exp(int (B - F)), Phi' = A G G^T L^{-T} / 2,
    by expm and adaptive quadrature; at constant beta = 8, where h beta is the clock."""
    p = P.PSLD()
    B = 8 * strength * (np.eye(2) if matrix == "identity" else np.ones((2, 2)))
    F, N = p.f(0.5).array(), p.g2(0.5).array()

    def integrand(r: float) -> np.ndarray:
        L = np.linalg.cholesky(p.marginal(r).Q)
        return expm((B - F) * (r - S)) @ N @ np.linalg.inv(L).T / 2

    Phi, _ = quad_vec(integrand, S, T, epsabs=1e-13, epsrel=1e-13)
    eps = RNG.standard_normal((2, 5))
    want = np.linalg.inv(expm((B - F) * (T - S))) @ ((np.eye(2) - (S - T) * B) @ np.stack([X, V]) + Phi @ eps)
    made = solvers.make("conjugate", strength=strength, matrix=matrix)
    close(one_step(made, p, lambda x, v, t: list(eps), predicts="noise"), *want)


# equalities


SAME = [
    ("conjugate", {}, "ddim", {}),
    ("em", {}, "em", {}),
    ("ddim", {}, "ddim", {}),
    ("ddim", {"root": "pf"}, "ddim", {}),
    ("ddpm", {}, "ddpm", {}),
    ("euler", {}, "pf-ode", {"method": "euler", "coordinates": "time"}),
    ("heun", {}, "pf-ode", {"method": "heun", "coordinates": "time"}),
    ("pf-ode", {"method": "rk4"}, "pf-ode", {"method": "rk4", "coordinates": "time"}),
]


@pytest.mark.parametrize("ours, options, theirs, others", SAME)
@pytest.mark.parametrize("predicts", ["noise", "data", "score"])
def test_one_register_is_vp(ours: str, options: Any, theirs: str, others: Any, predicts: str) -> None:
    """K = 1 with F = -1/2, G = 1: the solver of VP, what its network is asked included."""
    times = np.array([1.0, 0.7, 0.45, 0.2, 0.0 if ours in ("conjugate", "ddim", "ddpm") else 0.05])
    seen: list[Any] = []

    def net(x: Any, call: Any, branch: int) -> Any:
        seen.append(x)
        return np.cos(np.arange(5) + len(seen) % 9)

    ends = []
    for key, some, process in ((ours, options, ONE), (theirs, others, VP)):
        seen.clear()
        made = plan(key, process, times, predicts=predicts, **some)
        ends.append([interpret(made, net, X, noise=xi), *seen])
    tolerance = 1e-9 if options.get("root") == "pf" else 1e-11  # Magnus to 1e-10; 1 / alpha amplifies to 100
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


def test_two_registers_of_three_processes_are_one() -> None:
    """CLD, PSLD at gamma = 0 and MALDA, ALDA of two registers: the same plans."""
    times = np.linspace(1, 0, 9)
    for key in ("em", "sscs", "strang", "conjugate"):
        plans = [
            plan(key, p, times) for p in (CLD, P.PSLD(nu=4.0, gamma=0.0), P.MALDA(count=2), P.ALDA(count=2))
        ]
        for other in plans[1:]:
            for a, b in zip(plans[0].coeffs, other.coeffs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("process", [P.PSLD(kappa=1.0), P.CLD(kappa=1.0), P.MALDA(kappa=1.0)])
def test_sscs_is_exact_where_the_data_are_the_prior(process: Any) -> None:
    law = phase_law(plan("sscs", process, np.linspace(1, 0.1, 8)), process, std=1.0, whole=True)
    np.testing.assert_allclose(law.cov, process.system.rest, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("process", [PSLD, P.PSLD(), P.MALDA()])
def test_an_ancestral_step_from_the_data_themselves_is_exact(process: Any) -> None:
    """Data at one point: E[x_0 | z] is that point, and every step draws from the true posterior."""
    law = phase_law(
        plan("ddpm", process, np.linspace(1, 0.1, 5), predicts="data"), process, mean=0.7, std=0.0, whole=True
    )
    Phi, Sigma = process.marginal(0.1)
    np.testing.assert_allclose(law.cov, Sigma, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(law.mean, 0.7 * Phi[:, 0], rtol=1e-10, atol=1e-12)


def test_ddim_by_the_flows_root_is_exact_for_a_point() -> None:
    """As the noise prediction of VP is constant there: any steps lead to one place, and to the data at t =
    0."""
    ends = []
    for n in (1, 7):
        made = plan("ddim", PSLD, np.linspace(1, 0.05, n + 1), predicts="data", root="pf")
        ends.append(phase_law(made, PSLD, mean=0.7, std=0.0, whole=True).rows)
    np.testing.assert_allclose(*ends, rtol=1e-8, atol=1e-8)
    to_zero = plan("ddim", PSLD, np.linspace(1, 0, 4), predicts="data")
    assert phase_law(to_zero, PSLD, mean=0.7, std=0.0).rows == pytest.approx(
        np.eye(1, 3)[:, :3] * 0.7, abs=1e-12
    )


# numbers


@pytest.mark.parametrize(
    "options, steps, known",
    [({}, 100, 0.470), ({"root": "pf"}, 100, 0.428), ({}, 20, 0.362), ({"root": "pf"}, 20, 0.273)],
)
def test_known_variances_of_ddim(options: dict[str, Any], steps: int, known: float) -> None:
    """CLD, data N(0, 1/2), linear grid from 1 to 1e-3: variances of x by independent code (specification,
    section 1.3), which starts at the prior; 0.002 is what the prior's distance from the marginal makes of
    it."""
    made = plan("ddim", CLD, np.linspace(1, 1e-3, steps + 1), predicts="data", **options)
    assert phase_law(made, CLD, std=0.5**0.5).cov[0, 0] == pytest.approx(known, abs=0.002)


def test_velocity_verlet_has_the_smaller_constant() -> None:
    """3.6 times smaller than Euler's in the specification's measurement, by the variance of Gaussian data
    here."""
    errors = {}
    (_, C) = PSLD.marginal(0.05)
    Phi = PSLD.along(0.0, 0.05).Phi
    exact = (Phi[0, 0] * 0.4) ** 2 + C[0, 0]
    for key in ("euler", "rse", "rvv"):
        made = plan(key, PSLD, np.linspace(1, 0.05, 161))
        errors[key] = abs(phase_law(made, PSLD, mean=0.7, std=0.4).cov[0, 0] - exact)
    assert errors["rvv"] < errors["rse"] < errors["euler"]


@pytest.mark.parametrize("process", [PSLD, P.CLD(beta_min=1.0, beta_max=1.0)])
def test_em_is_of_strong_order_1(process: Any) -> None:
    """The noise is additive. Coarse draws are sums of fine ones; on Gaussian data the distance of two runs on
    one path is a norm of rows, no Monte Carlo."""
    fine, rows = 256, {}
    for n in (16, 32, 64, 256):
        parts = fine // n

        def sums(unit: Any, step: int, column: int, parts: int = parts) -> Any:
            every = {(k, c): unit((k, c)) for k in range(fine) for c in (0, 1)}  # the same axes for all
            return sum(every[step * parts + k, column] for k in range(parts)) / parts**0.5

        made = plan("em", process, np.linspace(1.0, 0.05, n + 1))
        rows[n] = phase_law(made, process, mean=0.7, std=0.4, draws=2 * fine, noise=sums).rows
    errors = [float(np.linalg.norm(rows[n] - rows[256])) for n in (16, 32, 64)]
    # against 256 steps instead of the limit: an error c / n shows as c (1 / n - 1 / 256)
    corrected = [e / (1 - n / 256) for e, n in zip(errors, (16, 32, 64), strict=True)]
    assert abs(order_of(corrected, (16, 32, 64)) - 1) <= 0.15
