"""Linear processes against the moment equations, densities differentiated by autograd, and published
formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import fastdiff as fd
from fastdiff.core.gaussian_path import root
from fastdiff.core.linear import LinearProcess
from fastdiff.core.matrix import Vector
from fastdiff.core.process import processes
from fastdiff.testing import GaussianMixture
from fastdiff.testing.phase_space import PhaseMixture

P = fd.processes
KEYS = processes.names(kind="linear")
SWINGING = P.LinearSDE(
    drift=lambda t: [[0.0, 4 + t], [-4 * t, -1 - 3 * t * t]],
    noise=lambda t: [[0.3 * t, 0.0], [0.0, 1 + t]],
    start=(0.0, 0.1),
    prior=((1.0, 0.2), (0.2, 0.5)),
)
MADE: dict[str, Any] = {
    "psld": P.PSLD(),
    "psld by beta(t)": P.PSLD(nu=3.75, gamma=0.25, beta_min=0.1, beta_max=8.0),
    "psld, noise on x": P.PSLD(nu=0.0, gamma=4.0),
    "psld, dsm": P.PSLD(conditioning="dsm"),
    "psld, upper": P.PSLD(root="upper"),
    "cld": P.CLD(),
    "malda": P.MALDA(),
    "alda": P.ALDA(),
    "one register": P.LinearSDE(beta_min=0.1, beta_max=20.0),
    "spatial": P.LinearSDE.spatial([[1.0, 0.3], [0.3, 2.0]], [[0.0, 0.7], [-0.7, 0.0]], start=(0.0, 0.4)),
    "varying": SWINGING,
}
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
EVERY = pytest.mark.parametrize("name", MADE)


def entries(got: Any, want: Any, tolerance: float) -> None:
    """Of two covariances, entry by entry in units of the deviations."""
    scale = np.sqrt(np.outer(np.diag(want), np.diag(want)))
    assert np.abs((got - want) / scale).max() <= tolerance


def test_every_key_is_here() -> None:
    assert {made.key for made in MADE.values()} == set(KEYS)


@EVERY
def test_marginal_solves_the_moment_equations(name: str) -> None:
    """dPhi = F Phi, dSigma = F Sigma + Sigma F^T + G G^T by DOP853 at 1e-12, in the coefficients that solvers
    read."""
    p: LinearProcess = MADE[name]
    K = len(p.registers)

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        F, N, (Phi, S) = p.f(t).array(), p.g2(t).array(), y.reshape(2, K, K)
        return np.stack([F @ Phi, F @ S + S @ F.T + N]).reshape(-1)

    start = np.diag([v * (k not in p.system.data) for k, v in enumerate(p.system.start)])
    y = np.stack([np.eye(K), start]).reshape(-1)
    for t in (0.03, 0.4, 1.0):
        exact = solve_ivp(slope, (0, t), y, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1].reshape(2, K, K)
        Phi, Sigma = p.marginal(t)
        assert np.abs(Phi - exact[0]).max() <= 1e-9
        entries(Sigma, exact[1], 1e-9)


@EVERY
def test_transitions_compose(name: str) -> None:
    p = MADE[name]
    (A, Q), (B, R), (C, S) = p.transition(0.1, 0.35), p.transition(0.35, 0.8), p.transition(0.1, 0.8)
    assert np.abs(B @ A - C).max() <= 1e-11
    entries(B @ Q @ B.T + R, S, 1e-11)


@EVERY
def test_the_posterior_gives_the_marginal_back(name: str) -> None:
    """z_t of its posterior, z_s of its marginal: the marginal at t, for one and the same data."""
    p = MADE[name]
    for s, t in ((1.0, 0.5), (0.3, 0.1), (0.05, 0.001)):
        (far, far_cov), (near, near_cov) = (p.marginal(v) for v in (s, t))
        keep, data, R = p.posterior(s, t)
        some = list(p.system.data)
        assert np.abs(keep @ far[:, some] + data - near[:, some]).max() <= 1e-9
        entries(keep @ far_cov @ keep.T + R @ R.T, near_cov, 1e-9)


@pytest.mark.parametrize("name", [n for n, p in MADE.items() if p.key != "linear-sde" or n == "one register"])
def test_the_prior_is_at_rest(name: str) -> None:
    F, N, _, rest, _ = MADE[name].system
    assert np.abs(F @ rest + rest @ F.T + N).max() <= 1e-14 * np.abs(N).max()


def test_perturbed_data_have_the_marginal() -> None:
    """2e5 samples: each entry of mean and covariance within 5 standard errors; times differ by sample."""
    for name in ("psld", "cld", "malda", "psld, dsm", "spatial", "varying"):
        p = MADE[name]
        K, n, mean = len(p.registers), 200_000, 0.8
        x0 = torch.full((n,), mean, dtype=torch.float64)
        more = {"x1": 0 * x0 - 0.5} if name == "spatial" else {}
        z, noise = p.perturb(x0, 0.37, seeds=3, consts=more)
        first = np.array([mean, *([-0.5] if more else [0.0] * (K - 1))])
        Phi, Q = p.along(0.0, 0.37)
        start = np.diag([0.0] * K if more else p.system.start)
        m, C = Phi @ first, Phi @ start @ Phi.T + Q
        got = np.stack([a.numpy() for a in z])
        assert (np.abs(got.mean(1) - m) <= 5 * np.sqrt(np.diag(C) / n)).all(), name
        error = np.sqrt((np.outer(np.diag(C), np.diag(C)) + C * C) / n)
        assert (np.abs(np.cov(got) - C) <= 5 * error).all(), name
        assert all(
            abs(float(e.mean())) <= 5 / n**0.5 and abs(float(e.std()) - 1) <= 5 / n**0.5 for e in noise
        )


def test_perturb_is_what_it_says() -> None:
    """z = Phi x_0 + R eps with the noise it returns, each sample at its own time; whatever the batch."""
    p, x0 = P.PSLD(), torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(4, 3)
    t = np.array([0.1, 0.9, 0.5, 1e-3])
    z, noise = p.perturb(x0, t, seeds=fd.Seeds(7, ids=[5, 1, 0, 2]))
    for i, v in enumerate(t):
        Phi, Sigma = p.marginal(float(v))
        R = np.linalg.cholesky(Sigma)
        for k in range(2):
            want = Phi[k, 0] * x0[i] + sum(R[k, j] * noise[j][i] for j in range(2))
            torch.testing.assert_close(z[k][i], want, rtol=1e-12, atol=1e-14)
    alone, _ = p.perturb(x0[1:2], t[1], seeds=fd.Seeds(7, ids=[1]))
    assert torch.equal(alone[1], z[1][1:2])
    half, _ = p.perturb(x0.bfloat16(), 0.5, seeds=0)
    assert half[1].dtype == torch.bfloat16 and half[1].shape == x0.shape
    kept = torch.randn(4, 3, dtype=torch.float64)
    (x, v), (a, b) = P.PSLD(conditioning="dsm").perturb(x0, 0.2, seeds=0, consts={"v": kept})
    Phi, Q = p.along(0.0, 0.2)
    torch.testing.assert_close(
        x, Phi[0, 0] * x0 + Phi[0, 1] * kept + math.sqrt(Q[0, 0]) * a, rtol=1e-12, atol=1e-14
    )
    with pytest.raises(ValueError, match="consts=.'x1'"):
        MADE["spatial"].__class__.spatial([1.0, 1.0], [[0, 0], [0, 0]]).perturb(x0, 0.2)


# predictions


def log_density(p: LinearProcess, z: list[torch.Tensor], t: float) -> torch.Tensor:
    """Of the mixture's law, as a sum over elements."""
    K = len(p.registers)
    Phi, Q = motion_by_ode(p, t)
    parts = []
    for w, mu, s in zip(MIXTURE.weights, MIXTURE.means, MIXTURE.stds, strict=True):
        C = Phi @ np.diag([float(s) ** 2, *p.system.start[1:]]) @ Phi.T + Q
        law = torch.distributions.MultivariateNormal(
            torch.from_numpy(Phi[:, 0] * float(mu)), torch.from_numpy((C + C.T) / 2)
        )
        parts.append(w.log() + law.log_prob(torch.stack(z, -1)))
    assert K == len(z)
    return torch.stack(parts).logsumexp(0).sum()


def motion_by_ode(p: LinearProcess, t: float) -> tuple[np.ndarray, np.ndarray]:
    K = len(p.registers)

    def slope(u: float, y: np.ndarray) -> np.ndarray:
        F, N, (Phi, S) = p.f(u).array(), p.g2(u).array(), y.reshape(2, K, K)
        return np.stack([F @ Phi, F @ S + S @ F.T + N]).reshape(-1)

    y = np.stack([np.eye(K), np.zeros((K, K))]).reshape(-1)
    Phi, Q = solve_ivp(slope, (0, t), y, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1].reshape(2, K, K)
    return Phi, Q


@EVERY
def test_the_oracle_is_the_gradient_of_the_density(name: str) -> None:
    p = MADE[name]
    z = [torch.randn(9, dtype=torch.float64).requires_grad_() for _ in p.registers]
    for t in (0.1, 0.6):
        grads = torch.autograd.grad(log_density(p, z, t), z)
        got, _ = PhaseMixture(MIXTURE, p).expectations([a.detach() for a in z], t)
        for g, want in zip(got, grads, strict=True):
            torch.testing.assert_close(
                g, want, rtol=1e-7, atol=1e-7
            )  # what 1e-9 of Sigma makes of its inverse


@EVERY
@pytest.mark.parametrize("raw", ["noise", "score", "data"])
def test_every_prediction_from_every_other(name: str, raw: str) -> None:
    p = MADE[name]
    if raw == "data" and len(p.system.data) > 1:
        return  # E[v_0 | z] too: not one of the oracle's
    oracle = PhaseMixture(MIXTURE, p)
    z = [torch.randn(9, dtype=torch.float64) for _ in p.registers]
    for t in (0.01, 0.3, 1.0):
        score, data = oracle.expectations(z, t)
        node, given = p.node(t), Vector(oracle.outputs(z, t, raw))
        R = root(p.marginal(t).Q, p.is_upper)
        F, N = p.f(t).array(), p.g2(t).array()
        wanted = {
            "score": score,
            "noise": [-sum(R[j, k] * score[j] for j in range(len(z))) for k in range(len(z))],
            "flow": [
                sum(F[k, j] * z[j] - N[k, j] / 2 * score[j] for j in range(len(z))) for k in range(len(z))
            ],
        }
        if len(p.scored) == len(z) or raw == "data":
            wanted["data"] = [data]
        for kind, want in wanted.items():
            a, b = node.convert(raw, kind)
            got = given if isinstance(b, int) else b * given
            got = got if isinstance(a, int) else a * Vector(z) + got
            for k, w in enumerate(want):
                unknown = kind in ("score", "noise") and raw != "data" and k not in p.scored
                assert (got[k] is None) == unknown
                if not unknown and not (kind == "data" and len(got) > 1 and k):
                    size = max(1.0, float(w.abs().max()), float(np.abs(np.linalg.inv(R)).max()))
                    assert float((got[k] - w).abs().max()) <= 1e-9 * size, (kind, t, k)


def test_what_no_network_says() -> None:
    cld, psld = P.CLD(), P.PSLD()
    with pytest.raises(ValueError, match="without x gives no data prediction"):
        cld.node(0.5).convert("noise", "data")
    for p in (cld, psld):
        with pytest.raises(ValueError, match="no noise is"):
            p.node(0.0).convert("noise", "score")
        with pytest.raises(ValueError, match="velocity"):
            p.node(0.5).convert("noise", "velocity")
        for ask in (lambda n: n.alpha, lambda n: n.lam, lambda n: n.rho, lambda n: n.at(1.0)):
            with pytest.raises(ValueError, match="no alpha, sigma or lambda"):
                ask(p.node(0.5))
        for ask in (p.lam, p.time_of, p.prior_std):
            with pytest.raises(ValueError, match=p.key.upper()):
                ask(0.5)
        with pytest.raises(ValueError, match="plain numbers"):
            p.node(torch.tensor(0.5)).convert("noise", "score")


@EVERY
def test_noise_held_is_a_linear_flow(name: str) -> None:
    """hold() against DOP853 on dz = F z - N score(eps) / 2, in sqrt(t), down to t = 0 too."""
    p, K = MADE[name], len(MADE[name].registers)
    if name == "varying":
        return  # Magnus at every slope is slow
    z, eps = np.random.default_rng(1).standard_normal((2, K))
    eps *= [k in p.scored for k in range(K)]
    # what ALDA's chain of integrals leaves of v2 beside x and v1 is lost in rounding before t = 0
    for s, t in ((1.0, 0.7), (0.2, 0.05), (0.05, 1e-3 if name == "alda" else 0.0)):

        def slope(u: float, y: np.ndarray) -> np.ndarray:
            r = max(u * u, 1e-18)
            return 2 * u * (p.f(r).array() @ y - p.g2(r).array() @ p.score_of_noise(r) @ eps / 2)

        exact = solve_ivp(slope, (s**0.5, t**0.5), z, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
        A, W = p.hold(s, t)
        assert np.abs(A @ z + W @ eps - exact).max() <= 1e-9 * np.abs(exact).max()


# published formulas


@pytest.mark.parametrize("nu, gamma, kappa", [(4.01, 0.01, 0.04), (4.0, 0.0, 0.04), (1.0, 3.0, 0.3)])
def test_psld_as_published(nu: float, gamma: float, kappa: float) -> None:
    """Mean and covariance of the released code (models/sde/psld.py of mandt-lab/PSLD), b = int beta."""
    p, Mi = P.PSLD(nu=nu, gamma=gamma, kappa=kappa), (gamma - nu) ** 2 / 4
    M, d = 1 / Mi, nu - gamma
    for b in (0.5, 2.0, 8.0):
        e, up = math.exp(-(nu + gamma) * b / 4), math.expm1((nu + gamma) * b / 2)
        mean = e * np.array([[1 + d * b / 4, d * d * b / 8], [-b / 2, 1 - d * b / 4]])
        mm = kappa * M
        xx = Mi**2 / 4 * b * b * mm - Mi / 2 * b * b - d / 2 * b + up
        xm = -Mi * d / 8 * b * b * mm + Mi / 2 * b * mm + d / 4 * b * b
        vv = Mi / 4 * b * b * mm - d / 2 * b * mm - b * b / 2 + M * d / 2 * b + M * up + mm
        Phi, Sigma = p.marginal(b / 8)
        assert np.abs(Phi - mean).max() <= 1e-12
        entries(Sigma, e * e * np.array([[xx, xm], [xm, vv]]), 1e-12 * (1 + up))  # theirs cancels against up


def test_cld_as_published() -> None:
    """The half step of the released SSCS (sampling.py of nv-tlabs/CLD-SGM) at mass 1/4, friction 1: f = g =
    1."""
    cld, H = P.CLD(), np.diag([1.0, 4.0])
    for dt in (0.01, 0.1):
        B = -4.0 * dt
        c, d = math.exp(2 * B), math.exp(4 * B)
        mean = c * np.array([[1 - 2 * B, 4 * B], [-B, 1 + 2 * B]])
        xx, xv = d * (1 / d - 1 + 4 * B - 8 * B * B), -d * 4 * B * B
        vv = d * (-(1 - 1 / d) / 4 - B - 2 * B * B)
        Phi, Q = cld.along(0.5, 0.5 - dt, lambda F, N: (-F - N @ H, N))
        np.testing.assert_allclose(Phi, mean, rtol=1e-12, atol=1e-15)
        entries(Q, np.array([[xx, xv], [xv, vv]]), 1e-9)  # theirs cancels: xx is of order dt^3


def test_jitter_is_added_to_the_variances() -> None:
    """As released code does; its networks mean their noise by that root."""
    for t in (0.0, 0.3):
        more, plain = P.PSLD(jitter=1e-3).marginal(t), P.PSLD().marginal(t)
        np.testing.assert_allclose(more.Q - plain.Q, 1e-3 * np.eye(2), rtol=1e-12, atol=1e-15)
        assert np.array_equal(more.Phi, plain.Phi)


def test_the_same_process_by_other_names() -> None:
    """PSLD with noise on v alone is CLD with twice its beta, and so are two registers of MALDA and ALDA."""
    twins = [P.CLD(), P.PSLD(nu=4.0, gamma=0.0), P.MALDA(count=2), P.ALDA(count=2)]
    for p in twins:
        assert (
            p.scored == (1,)
            and p.registers == ("x", "v")
            and np.array_equal(p.prior_root(), np.diag([1, 0.5]))
        )
        for t in (0.0, 0.3):
            np.testing.assert_allclose(p.f(t).array(), twins[0].f(t).array(), rtol=1e-15)
            np.testing.assert_allclose(p.g2(t).array(), twins[0].g2(t).array(), rtol=1e-15)
        np.testing.assert_allclose(p.marginal(0.6).Q, twins[0].marginal(0.6).Q, rtol=1e-12)
    assert P.CLD().beta(0.5) == P.PSLD().beta(0.5) == 8.0


def test_one_register_is_vp() -> None:
    p, vp = MADE["one register"], P.VP()
    for t in (1e-3, 0.2, 1.0):
        Phi, Sigma = p.marginal(t)
        assert Phi.item() == pytest.approx(vp.alpha(t), rel=1e-13)
        assert Sigma.item() == pytest.approx(vp.sigma(t) ** 2, rel=1e-13)


def test_rotation_does_not_show_in_isotropic_data() -> None:
    """R = I: omega turns the registers among themselves, so that the law of N(0, c^2 I) is that of VP."""
    vp, c = P.VP(), 0.3
    for omega in (0.0, 1.7):
        p = P.LinearSDE.spatial([1.0, 1.0], [[0.0, omega], [-omega, 0.0]])
        assert p.registers == ("x", "x1") and p.system.data == (0, 1)
        Phi, Q = p.marginal(0.4)
        want = (vp.alpha(0.4) * c) ** 2 + vp.sigma(0.4) ** 2
        np.testing.assert_allclose(Phi @ Phi.T * c * c + Q, want * np.eye(2), rtol=1e-12, atol=1e-14)
        turned = vp.alpha(0.4) * np.array(
            [[math.cos(b := omega * vp_clock(0.4)), -math.sin(b)], [math.sin(b), math.cos(b)]]
        )
        np.testing.assert_allclose(Phi, turned, rtol=1e-11, atol=1e-13)


def vp_clock(t: float) -> float:
    return 0.1 * t + 19.9 * t * t / 2


def test_from_dqh() -> None:
    """Any D and Q leave N(0, H^{-1}) at rest."""
    rng = np.random.default_rng(2)
    L, Q, S = rng.standard_normal((3, 4, 4))
    p = P.LinearSDE.from_dqh(L @ L.T, Q - Q.T, S @ S.T + np.eye(4), beta_min=0.5, beta_max=2.0)
    F, N, _, rest, _ = p.system
    np.testing.assert_allclose(rest @ (S @ S.T + np.eye(4)), np.eye(4), atol=1e-12)
    assert np.abs(F @ rest + rest @ F.T + N).max() <= 1e-12 * np.abs(N).max()
    assert P.LinearSDE.from_dqh([0, 1], [[0, -1], [1, 0]], [1, 4], beta_min=4.0, beta_max=4.0).scored == (1,)


def test_parts_that_a_network_gives() -> None:
    full = P.LinearSDE(
        drift=[[-1, 0, 0], [0, -1, 1], [0, -1, -1]], noise=[[0.0], [1.0], [0.0]], prior=[1, 1, 1]
    )
    assert full.scored == (0, 1, 2), "noise in the middle: no triangular root does without the others"
    assert P.PSLD(nu=0.0, gamma=4.0).is_upper and P.PSLD(nu=0.0, gamma=4.0).scored == (0,)
    assert P.PSLD(nu=0.0, gamma=4.0, root="lower").scored == (0, 1)
    assert P.CLD(root="upper").scored == (0, 1) and P.MALDA().scored == (1, 2) and P.ALDA().scored == (2,)
    assert P.PSLD(root="upper").scored == (0, 1) and P.PSLD(conditioning="dsm").outputs("data") == 2


BAD: list[tuple[Any, str]] = [
    (lambda: P.PSLD(nu=1.0, gamma=1.0), "nu != gamma"),
    (lambda: P.PSLD(nu=-1.0), "nu >= 0"),
    (lambda: P.PSLD(kappa=-1.0), "kappa"),
    (lambda: P.PSLD(beta_min=-1.0), "beta_min"),
    (lambda: P.PSLD(conditioning="hmm"), "conditioning.*hsm"),
    (lambda: P.PSLD(root="left"), "root.*lower"),
    (lambda: P.PSLD(jitter=-1.0), "jitter"),
    (lambda: P.CLD(gamma=0.0), "gamma > 0"),
    (lambda: P.CLD(mass=0.0), "mass > 0"),
    (lambda: P.MALDA(count=1), "count"),
    (lambda: P.ALDA(count=2.0), "count"),
    (lambda: P.ALDA(count=5), "from 2 to 4"),
    (lambda: P.MALDA(mass=0.0), "mass > 0"),
    (lambda: P.LinearSDE(drift=[[1.0, 0.0]], noise=[[1.0]]), "K x K"),
    (lambda: P.LinearSDE(drift=[[-1.0]], noise=[[1.0], [1.0]]), "K x K"),
    (lambda: P.LinearSDE(drift=[[1.0]]), "at rest; give prior"),
    (lambda: P.LinearSDE(drift=[[-1.0]], noise=lambda t: [[1.0]]), "both"),
    (lambda: P.LinearSDE(drift=lambda t: [[-1.0]], noise=lambda t: [[1.0]]), "give prior"),
    (
        lambda: P.LinearSDE(drift=lambda t: [[-1.0]], noise=lambda t: [[1.0]], prior=[1.0], beta_max=2.0),
        "beta = 1",
    ),
    (lambda: P.LinearSDE(prior=[-1.0]), "prior"),
    (lambda: P.LinearSDE(registers=("x", "x")), "registers"),
    (lambda: P.LinearSDE(start=(-1.0,)), "start"),
    (lambda: P.LinearSDE(drift=[["a"]]), "rows of numbers"),
    (lambda: P.LinearSDE(drift=[[float("nan")]]), "finite"),
    (lambda: P.LinearSDE.from_dqh([1, 1], [[0, 1], [1, 0]], [1, 1]), "antisymmetric"),
    (lambda: P.LinearSDE.from_dqh([-1, 1], [[0, 1], [-1, 0]], [1, 1]), "semidefinite"),
]


@pytest.mark.parametrize("make, match", BAD)
def test_what_is_refused(make: Any, match: str) -> None:
    with pytest.raises((ValueError, TypeError), match=match):
        make()


def test_a_process_is_a_key() -> None:
    """Equal ones are equal and hash alike; by name, by class, and with options."""
    for key in KEYS:
        made = processes.make(key)
        assert (
            made == processes.make(key) and hash(made) == hash(processes.make(key)) and made.kind == "linear"
        )
        assert made.default_grid == "uniform-t" and (made.t_zero, made.t_max) == (0.0, 1.0)
        assert eval(repr(made), vars(P) | {type(made).__name__: type(made)}) == made
    assert P.LinearSDE(drift=[[-0.5]]) == P.LinearSDE() and hash(SWINGING) == hash(SWINGING)
