"""What a linear SDE of a few registers does to a Gaussian: small matrices in float64 on the host.

    dz = A z dt + N^{1/2} dw          z_t = Phi z_s + Q^{1/2} xi
    Phi = e^{A h}                     Q = int_0^h e^{A u} N e^{A^T u} du

For constant A and N both come from their Taylor series over a short stretch, then by doubling

    Q <- Phi Q Phi^T + Q,             Phi <- Phi Phi

All that is added to Q is positive semidefinite, so that nothing cancels, however long the stretch or small a
variance. Van Loan's exponential of [[A, N], [0, -A^T]], which does cancel, serves short pieces of
coefficients that vary, by the fourth-order Magnus exponent.

Source: Van Loan 1978, doi:10.1109/TAC.1978.1101743; Magnus exponent: Blanes et al. 2009, arXiv:0810.5488.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

TERMS = 18  # of a series in a number of at most 1/2: the next is below 1e-22
PIECES = 2**14  # at most, for coefficients that vary
TOLERANCE = 1e-12

Path = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # A and N, (n, K, K), at n times


class Motion(NamedTuple):
    """Phi and Q, each (..., K, K)."""

    Phi: np.ndarray
    Q: np.ndarray


def _halvings(A: np.ndarray, h: Any) -> int:
    size = 4 * float(np.abs(A).sum(-1).max(initial=0) * np.abs(h).max(initial=0))
    return max(0, int(np.ceil(np.log2(size)))) if size > 0 else 0


def exponential(A: np.ndarray, h: Any = 1.0) -> np.ndarray:
    """e^{A h}; A and h may have leading axes."""
    h = np.asarray(h, dtype=np.float64)[..., None, None]
    n = _halvings(A, h)
    step, one = A * (h / 2**n), np.eye(A.shape[-1])
    total = term = np.broadcast_to(one, step.shape)
    for k in range(1, TERMS):
        term = step @ term / k
        total = total + term
    for _ in range(n):
        total = total @ total
    return total


def motion(A: np.ndarray, N: np.ndarray, h: Any) -> Motion:
    """Of constant A and N over each length h >= 0."""
    h = np.asarray(h, dtype=np.float64)[..., None, None]
    n = _halvings(A, h)
    h = h / 2**n
    Phi = term = np.broadcast_to(np.eye(len(A)), h.shape[:-2] + A.shape)
    Q = spread = N * h
    for k in range(1, TERMS):
        term = A @ term * (h / k)
        spread = (A @ spread + spread @ A.T) * (h / (k + 1))
        Phi, Q = Phi + term, Q + spread
    for _ in range(n):
        Phi, Q = Phi @ Phi, Phi @ Q @ Phi.swapaxes(-1, -2) + Q
    return Motion(Phi, (Q + Q.swapaxes(-1, -2)) / 2)


def varying(path: Path, length: float, tolerance: float = TOLERANCE) -> Motion:
    """Of A and N that vary over [0, length]: pieces are halved until Phi and Q stand still."""
    pieces, last = 0, None
    while pieces < PIECES:
        pieces = 2 * pieces or 1
        with np.errstate(over="ignore", invalid="ignore"):  # of too few
            new = _pieces(path, length, pieces)
        if last and all(
            np.abs(a - b).max() <= tolerance * np.abs(a).max() for a, b in zip(new, last, strict=True)
        ):
            return new
        last = new
    raise ValueError(f"drift or noise vary too much over {length:g}: {PIECES} pieces do not resolve them")


def _pieces(path: Path, length: float, pieces: int) -> Motion:
    h, shift = length / pieces, 3**0.5 / 6
    middles = h * (np.arange(pieces) + 0.5)
    first, second = (_block(*path(middles + w * h)) for w in (-shift, shift))
    omega = h / 2 * (first + second) + 3**0.5 / 12 * h * h * (second @ first - first @ second)
    K = omega.shape[-1] // 2
    E = exponential(omega)
    Phi, Q = np.eye(K), np.zeros((K, K))
    for e in E:
        step = e[:K, :K]
        Phi, Q = step @ Phi, step @ Q @ step.T + e[:K, K:] @ step.T
    return Motion(Phi, (Q + Q.T) / 2)


def _block(A: np.ndarray, N: np.ndarray) -> np.ndarray:
    return np.block([[A, N], [np.zeros_like(A), -A.swapaxes(-1, -2)]])


def root(S: np.ndarray, upper: bool = False) -> np.ndarray:
    """Triangular R with R R^T = S, of a positive semidefinite S (..., K, K). A pivot that is nothing but
    rounding leaves a column of 0."""
    if upper:
        return np.ascontiguousarray(root(S[..., ::-1, ::-1])[..., ::-1, ::-1])
    R, K = np.zeros_like(S), S.shape[-1]
    for j in range(K):
        rest = S[..., j:, j] - (R[..., j:, :j] @ R[..., j, :j, None])[..., 0]
        pivot = np.where(rest[..., 0] > 8 * np.finfo(float).eps * S[..., j, j], rest[..., 0], np.inf)
        R[..., j:, j] = rest / np.sqrt(pivot)[..., None]
    return R


def root_of_sum(*parts: np.ndarray, upper: bool = False) -> np.ndarray:
    """Triangular R with R R^T = sum_i A_i A_i^T of parts A_i (..., K, n_i), without a square: what is left of
    one row beside the others keeps half as many more digits than in `root` of the sum."""
    A = np.concatenate(parts, -1)
    A = A[..., ::-1, :] if upper else A
    R = np.asarray(np.linalg.qr(A.swapaxes(-1, -2), mode="r")).swapaxes(-1, -2)
    diagonal = np.einsum("...ii->...i", R)
    R = np.where(diagonal < 0, -1.0, 1.0)[..., None, :] * R
    return np.ascontiguousarray(R[..., ::-1, ::-1]) if upper else R


def stationary(A: np.ndarray, N: np.ndarray) -> np.ndarray | None:
    """S with A S + S A^T + N = 0; None where nothing is stationary."""
    if not (np.linalg.eigvals(A).real < 0).all():
        return None
    one = np.eye(len(A))
    S = np.linalg.solve(np.kron(A, one) + np.kron(one, A), -N.reshape(-1)).reshape(N.shape)
    return (S + S.T) / 2


class Posterior(NamedTuple):
    """z_t = keep z_s + data m + root xi, of a z_t between the data m and z_s."""

    keep: np.ndarray
    data: np.ndarray
    root: np.ndarray


def posterior(near: Motion, step: Motion) -> Posterior:
    """near: from the data to t (Q with what spread the start has); step: from t on to s."""
    cross = near.Q @ step.Phi.T
    gain = np.linalg.solve(step.Phi @ cross + step.Q, cross.T).T
    rest = np.eye(len(gain)) - gain @ step.Phi
    # Joseph's form: a sum of squares
    left = rest @ near.Q @ rest.T + gain @ step.Q @ gain.T
    return Posterior(gain, rest @ near.Phi, root(left))
