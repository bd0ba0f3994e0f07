"""Linear SDEs of small matrices against scipy, mpmath and conditioning by hand."""

from __future__ import annotations

import numpy as np
import pytest
from mpmath import mp
from scipy.integrate import solve_ivp
from scipy.linalg import expm, solve_continuous_lyapunov

from fastdiff.core import gaussian_path
from fastdiff.core.gaussian_path import Motion, exponential, motion, posterior, root, stationary, varying
from fastdiff.core.matrix import Matrix, Vector

RNG = np.random.default_rng(0)
SIZES = [1, 2, 3, 5]


def system(K: int) -> tuple[np.ndarray, np.ndarray]:
    A, G = RNG.standard_normal((2, K, K))
    return A - (2 + K) * np.eye(K), G @ G.T


def van_loan(A: np.ndarray, N: np.ndarray, h: float, digits: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Van Loan's formula in many digits: what cancels in it does not matter there."""
    K = len(A)
    with mp.workdps(digits):
        E = mp.expm(mp.matrix(np.block([[-A, N], [np.zeros((K, K)), A.T]]).tolist()) * mp.mpf(h))
        Phi = E[K:, K:].T
        Q = Phi * E[:K, K:]
        return tuple(np.array([[float(m[i, j]) for j in range(K)] for i in range(K)]) for m in (Phi, Q))


@pytest.mark.parametrize("K", SIZES)
def test_exponential(K: int) -> None:
    A, h = system(K)[0], np.array([0.0, 1e-3, 0.4, 2.0])
    for got, length in zip(exponential(A, h), h, strict=True):
        np.testing.assert_allclose(got, expm(A * length), rtol=0, atol=1e-13)  # norms are at most 1
    np.testing.assert_allclose(exponential(-A, 0.1), expm(-A * 0.1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("K", SIZES)
@pytest.mark.parametrize("h", [1e-7, 1e-2, 0.5, 3.0])
def test_motion(K: int, h: float) -> None:
    """Every entry to 1e-12 of its row and column, by doublings of 2^-53 errors each."""
    A, N = system(K)
    Phi, Q = motion(A, N, h)
    exact = van_loan(A, N, h)
    assert np.abs(Phi - exact[0]).max() <= 1e-13
    scale = np.sqrt(np.outer(np.diag(exact[1]), np.diag(exact[1])))
    assert np.abs((Q - exact[1]) / scale).max() <= 1e-12


def test_small_variances_keep_their_digits() -> None:
    """A velocity's noise reaches x as h^3 / 3: float64 Van Loan has lost all of it at h = 1e-6."""
    A, N = np.array([[0.0, 4.0], [-1.0, -4.0]]), np.diag([0.0, 2.0])
    for h in (1e-6, 1e-4, 1e-2):
        _, Q = motion(A, N, h)
        np.testing.assert_allclose(Q, van_loan(A, N, h)[1], rtol=1e-13)


def test_lengths_in_a_row() -> None:
    A, N = system(3)
    h = np.array([[0.1, 0.2], [2.0, 0.0]])
    Phi, Q = motion(A, N, h)
    for i, j in np.ndindex(2, 2):
        one = motion(A, N, h[i, j])
        np.testing.assert_allclose(Phi[i, j], one.Phi, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(Q[i, j], one.Q, rtol=1e-12, atol=1e-14)
    assert np.array_equal(Phi[1, 1], np.eye(3)) and not Q[1, 1].any()


def test_varying_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against DOP853 on dPhi = A Phi and the Lyapunov equation dQ = A Q + Q A^T + N."""
    B, C = RNG.standard_normal((2, 2, 2))

    def path(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u = np.asarray(u)[..., None, None]
        G = np.eye(2) + u * C
        return B * np.sin(3 * u) - u * u * C, G @ G.swapaxes(-1, -2)

    def slope(u: float, y: np.ndarray) -> np.ndarray:
        (A, N), (Phi, Q) = path(np.array(u)), y.reshape(2, 2, 2)
        return np.stack([A @ Phi, A @ Q + Q @ A.T + N]).reshape(-1)

    start = np.stack([np.eye(2), np.zeros((2, 2))]).reshape(-1)
    exact = (
        solve_ivp(slope, (0, 1.3), start, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1].reshape(2, 2, 2)
    )
    for got, want in zip(varying(path, 1.3), exact, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-11)
    A, N = system(2)
    constant = varying(
        lambda u: (np.broadcast_to(A, (len(u), 2, 2)), np.broadcast_to(N, (len(u), 2, 2))), 0.7
    )
    for got, want in zip(constant, motion(A, N, 0.7), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
    monkeypatch.setattr(gaussian_path, "PIECES", 64)
    with pytest.raises(ValueError, match="vary too much"):
        varying(lambda u: (np.sin(1e7 * u)[:, None, None] * A, np.broadcast_to(N, (len(u), 2, 2))), 1.0)


@pytest.mark.parametrize("K", SIZES)
def test_stationary(K: int) -> None:
    A, N = system(K)
    np.testing.assert_allclose(stationary(A, N), solve_continuous_lyapunov(A, -N), rtol=1e-11, atol=1e-13)
    assert stationary(A + 100 * np.eye(K), N) is None


@pytest.mark.parametrize("upper", [False, True])
def test_root(upper: bool) -> None:
    G = RNG.standard_normal((7, 4, 4))
    S = G @ G.swapaxes(-1, -2)
    R = root(S, upper)
    np.testing.assert_allclose(R @ R.swapaxes(-1, -2), S, rtol=1e-12, atol=1e-13)
    assert not (np.tril(R, -1) if upper else np.triu(R, 1)).any()
    assert np.array_equal(R[3], root(S[3], upper))
    if not upper:
        np.testing.assert_allclose(R, np.linalg.cholesky(S), rtol=1e-10, atol=1e-12)


def test_root_of_what_is_not_there() -> None:
    """No noise in a register, or two that are one: columns of 0, and the root is still a root."""
    some = np.diag([0.0, 4.0, 0.0])
    assert np.array_equal(root(some), np.diag([0.0, 2.0, 0.0]))
    twin = np.array([[2.0, 2.0], [2.0, 2.0]])
    np.testing.assert_allclose(root(twin) @ root(twin).T, twin, rtol=1e-15)
    assert not root(twin)[:, 1].any()
    tiny = np.diag([1.0, 1e-300])
    np.testing.assert_allclose(root(tiny) ** 2, tiny, rtol=1e-14)


@pytest.mark.parametrize("K", [1, 2, 3])
def test_posterior(K: int) -> None:
    """Against conditioning in the joint covariance of (z_t, z_s), and the marginal that it must give back."""
    A, N = system(K)
    near, step = motion(A, N, 0.4), motion(A, N, 0.3)
    near = Motion(near.Phi[:, :1], near.Q + np.diag([0.0, *[0.1] * (K - 1)]))
    keep, data, R = posterior(near, step)
    joint = np.block(
        [[near.Q, near.Q @ step.Phi.T], [step.Phi @ near.Q, step.Phi @ near.Q @ step.Phi.T + step.Q]]
    )
    far = joint[K:, K:]
    np.testing.assert_allclose(keep, joint[:K, K:] @ np.linalg.inv(far), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(keep @ step.Phi @ near.Phi + data, near.Phi, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(keep @ far @ keep.T + R @ R.T, near.Q, rtol=1e-11, atol=1e-13)


def test_matrices_and_vectors() -> None:
    A, B = RNG.standard_normal((2, 3, 3))
    v = RNG.standard_normal(3)
    M, V = Matrix(A), Vector(v.tolist())
    np.testing.assert_allclose(((1 - M * 0.3) * Matrix(B) - M / 2).array(), (np.eye(3) - 0.3 * A) @ B - A / 2)
    np.testing.assert_allclose(list(M * V + 2 * V - V / 4), A @ v + 1.75 * v)
    np.testing.assert_allclose(list(Matrix(A @ A.T).sqrt() * V), np.linalg.cholesky(A @ A.T) @ v, rtol=1e-10)
    lost = Vector([None, 2.0, 3.0])
    assert list(Matrix(np.diag([0.0, 1.0, 2.0])) * lost) == [0, 2.0, 6.0]
    assert list(Matrix(np.eye(3)) * lost + V)[0] is None and list(lost * 2)[1] == 4.0
    assert list(Matrix([None, (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)]) * V) == [None, v[0], 0]
    with pytest.raises(TypeError):
        V + 1.0
