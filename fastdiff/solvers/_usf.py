"""The exponential step that an entry of a solver schedule asks for.

    data    x_t = (sigma_t / sigma_s) e^{-tau^2 h} x + (1 + tau^2) alpha_t sum_k E_k d_k
                  + sigma_t sqrt(1 - e^{-2 tau^2 h}) xi,                     E_k of a = 1 + tau^2
    noise   x_t = (alpha_t / alpha_s) x - (1 + tau^2) sigma_t sum_k E_k d_k
                  + tau sigma_t sqrt(e^{2h} - 1) xi,                         E_k of a = -1
    E_k = int_0^h e^{-a (h - u)} u^k / k! du,      d_k: the k-th derivative of the prediction, as estimated

Source: Liu et al. 2024, arXiv:2312.07243, section 3.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..core.math import Number, exp, expm1, exponential_integral, polynomial_weights, sqrt
from ..core.process import Node
from ..core.solver import Past
from ._step_choice import Step

Known = Sequence[tuple[Node, Any]]  # nodes and predictions there


def mean(x: Any, s: Node, t: Node, step: Step, known: Known) -> Any:
    """The step's deterministic part."""
    known = sorted(known, key=lambda k: k[0] is not s)  # differences are taken from s
    h, tau2, data = t.lam - s.lam, step.tau**2, step.prediction == "data"
    E = [exponential_integral(k, 1 + tau2 if data else -1, h) for k in range(len(known))]
    if len(known) == 2 and step.scaling != "exact":
        E[1] = h / 2 * (h if step.scaling == "bh1" else E[0])
    nodes = [n.lam - s.lam for n, _ in known]
    weights = differences(E, nodes) if step.estimator == "difference" else polynomial_weights(E, nodes)
    total = sum(w * m for w, (_, m) in zip(weights, known, strict=True))
    if data:
        return t.sigma / s.sigma * exp(-tau2 * h) * x + (1 + tau2) * t.alpha * total
    return t.alpha / s.alpha * x - (1 + tau2) * t.sigma * total


def differences(E: Sequence[Number], nodes: Sequence[Number]) -> list[Number]:
    """Weights where d_k = k! f[u_0, ..., u_k]."""
    def over(j: int, k: int) -> Number:
        return math.prod(nodes[j] - v for i, v in enumerate(nodes[: k + 1]) if i != j)

    orders = range(len(nodes))
    return [sum(E[k] * math.factorial(k) / over(j, k) for k in orders if k >= j) for j in orders]


def fresh(p: Any, s: Node, t: Node, step: Step) -> Any:
    """The step's noise."""
    tau2, h = step.tau**2, t.lam - s.lam
    if step.prediction == "data":
        return t.sigma * sqrt(-expm1(-2 * tau2 * h)) * p.noise(s, t, tau2)
    return step.tau * t.sigma * sqrt(expm1(2 * h)) * p.noise(s, t, -1)


def known_of(past: Past, step: Step) -> Known:
    """The history in the step's own prediction, newest first."""
    return [(n, m if step.prediction == "data" else e) for n, m, e in past[::-1]]
