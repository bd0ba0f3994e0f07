"""Elementary functions for whatever number a formula is run over: float, numpy array, Real, or a torch
scalar.

`math.expm1(torch_scalar)` gives a float and drops the gradient without a word, so formulas import these
instead.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from .number import PI, Real

Number = Any  # float | numpy array | Real | torch scalar
pi = math.pi


def _apply(name: str, x: Number) -> Number:
    method = getattr(x, name, None)  # Real and torch tensors carry their functions as methods
    if method is not None and not isinstance(x, (np.ndarray, np.generic)):
        return method()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = getattr(np, name)(x)
    return y if isinstance(x, np.ndarray) else float(y)


def exp(x: Number) -> Number:
    return _apply("exp", x)


def expm1(x: Number) -> Number:
    return _apply("expm1", x)


def log(x: Number) -> Number:
    """Natural logarithm; log(0) = -inf."""
    return _apply("log", x)


def log1p(x: Number) -> Number:
    return _apply("log1p", x)


def sqrt(x: Number) -> Number:
    return _apply("sqrt", x)


def sin(x: Number) -> Number:
    return _apply("sin", x)


def cos(x: Number) -> Number:
    return _apply("cos", x)


def lift(value: float, x: Number) -> Number:
    """`value` at the precision of x: a Real where x is one, so that 1 + value is not rounded to float64
    first."""
    return Real(value) if isinstance(x, Real) else value


def full_like(x: Number, value: float) -> Number:
    """`value` in the kind and shape of x, also where x is infinite (x * 0 would be NaN there)."""
    if hasattr(x, "new_full"):
        return x.new_full(x.shape, value)
    if isinstance(x, np.ndarray):
        return np.full(x.shape, value)
    return Real(value) if isinstance(x, Real) else float(value)


def divide(a: Number, b: Number) -> Number:
    """a / b that is infinite at b = 0 for floats too, as it is for arrays, tensors and Reals."""
    if isinstance(b, np.ndarray) or (isinstance(a, (int, float)) and isinstance(b, (int, float)) and b == 0):
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.divide(a, b)
        return y if isinstance(y, np.ndarray) else float(y)
    return a / b


def pi_like(x: Number) -> Number:
    return Real(PI) if isinstance(x, Real) else pi


def sinpi(x: Number) -> Number:
    """sin(pi x) for x in [0, 1/2]. cos(pi x) is sinpi(1/2 - x), which is exactly 0 at its zero."""
    return sin(x * pi_like(x))


def plain(x: Number) -> float:
    """A float to branch on (of an array, its largest)."""
    if hasattr(x, "detach"):
        x = x.detach()
    return float(x.max()) if getattr(x, "ndim", 0) else float(x)


def decided(x: Number, test: Callable[[float], bool]) -> bool:
    """test(x), to branch on: of an array the one answer of all its elements, for a plan is one for all
    samples."""
    values = x.reshape(-1).tolist() if getattr(x, "ndim", 0) else [plain(x)]
    answers = {test(v) for v in values}
    if len(answers) > 1:
        raise ValueError("the formula takes another form for some of the samples' times than for others "
                         f"({min(values):g} to {max(values):g}); make a plan for each form")
    return answers.pop()


def has_zero(x: Number) -> bool:
    """Whether x, or any element of it, is exactly 0."""
    return bool((x == 0).any()) if getattr(x, "ndim", 0) else plain(x) == 0


def phi(k: int, z: Number) -> Number:
    """phi_0(z) = e^z, phi_{k+1}(z) = (phi_k(z) - 1/k!) / z, phi_k(0) = 1/k!: by Taylor below |z| = 1/2, by
    recurrence above."""
    if isinstance(z, np.ndarray):
        small = np.abs(z) < 0.5
        safe = np.where(small, 1.0, z)
        return np.where(small, _phi_series(k, np.where(small, z, 0.0)), _phi_recurrence(k, safe))
    return _phi_series(k, z) if abs(plain(z)) < 0.5 else _phi_recurrence(k, z)


def _phi_series(k: int, z: Number) -> Number:
    term = _one_like(z) / math.factorial(k)
    total = term
    for n in range(1, 40 if isinstance(z, Real) else 18):
        term = term * z / (n + k)
        total = total + term
    return total


def _phi_recurrence(k: int, z: Number) -> Number:
    if k == 0:
        return exp(z)
    p, one = expm1(z) / z, _one_like(z)
    for i in range(1, k):
        p = (p - one / math.factorial(i)) / z
    return p


def _one_like(z: Number) -> Number:
    return z * 0 + 1


def exponential_integral(k: int, a: Number, h: Number) -> Number:
    """E_k(a, h) = int_0^h e^{-a (h - u)} u^k / k! du = h^{k+1} phi_{k+1}(-a h)."""
    return h ** (k + 1) * phi(k + 1, -a * h)


def lagrange(nodes: Sequence[Number]) -> list[list[Number]]:
    """W[j][k] = k-th derivative at 0 of the Lagrange polynomial of node j (1 at nodes[j], 0 at the others).
    """
    rows = []
    for j, uj in enumerate(nodes):
        c: list[Number] = [1]  # ascending powers
        for i, ui in enumerate(nodes):
            if i != j:
                d, n = uj - ui, len(c)
                c = [(c[m - 1] / d if m else 0) - (c[m] * ui / d if m < n else 0) for m in range(n + 1)]
        rows.append([ck * math.factorial(k) for k, ck in enumerate(c)])
    return rows


def polynomial_weights(moments: Sequence[Number], nodes: Sequence[Number]) -> list[Number]:
    """b_j = int w(u) L_j(u) du for the Lagrange polynomials L_j on `nodes`, from the moments
    M_k = int w(u) u^k / k! du of whatever weight; sum_j b_j = M_0."""
    return [sum(m * w for m, w in zip(moments, row, strict=True)) for row in lagrange(nodes)]


def divided_weights(moments: Sequence[Number], nodes: Sequence[Number]) -> list[Number]:
    """The same with Newton's divided differences [0 .. k] k! in place of the k-th derivative at nodes[0]."""
    total = [moments[0]] + [0] * (len(nodes) - 1)
    for k in range(1, len(nodes)):
        for j in range(k + 1):
            d: Number = 1
            for i in range(k + 1):
                d = d * (nodes[j] - nodes[i]) if i != j else d
            total[j] = total[j] + moments[k] * math.factorial(k) / d
    return total


def adams_weights(a: Number, h: Number, nodes: Sequence[Number]) -> list[Number]:
    """b_j = int_0^h e^{-a (h - u)} L_j(u) du for the Lagrange polynomials L_j on `nodes`; sum_j b_j =
    E_0(a, h)."""
    return polynomial_weights([exponential_integral(k, a, h) for k in range(len(nodes))], nodes)


def gauss_legendre(a: Number, b: Number, points: int) -> list[tuple[Number, Number]]:
    """(node, weight) of int_a^b, exact for polynomials of degree 2 points - 1. They are float64 numbers
    mapped to [a, b], so that 60 digits give float64's here."""
    middle, half = (a + b) / 2, (b - a) / 2
    nodes, weights = _legendre(points)
    return [(middle + half * x, half * w) for x, w in zip(nodes, weights, strict=True)]


@cache
def _legendre(points: int) -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return nodes.tolist(), weights.tolist()
