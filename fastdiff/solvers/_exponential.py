"""Exponential integrators in half log-SNR: the step that solves the linear part exactly.

    data  (a = +1)   x_t = (sigma_t / sigma_s) x + alpha_t sum_j b_j m_j
    noise (a = -1)   x_t = (alpha_t / alpha_s) x - sigma_t sum_j b_j m_j
    b_j = int_0^h e^{-a (h - u)} L_j(u) du,      L_j: Lagrange polynomials on the nodes' lambda - lambda_s
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.math import Number, adams_weights, exponential_integral
from ..core.process import Node

Known = Sequence[tuple[Node, Any]]  # nodes and predictions there, newest first
SIGN = {"data": 1, "noise": -1}


def advance(x: Any, s: Node, t: Node, kind: str, weights: Sequence[Number], known: Known) -> Any:
    """From s to t with given weights of the known predictions."""
    total = sum(w * m for w, (_, m) in zip(weights, known, strict=True))
    if kind == "data":
        return t.sigma / s.sigma * x + t.alpha * total
    return t.alpha / s.alpha * x - t.sigma * total


def adams(x: Any, s: Node, t: Node, kind: str, known: Known) -> Any:
    """From s to t by the polynomial through the known predictions."""
    weights = adams_weights(SIGN[kind], t.lam - s.lam, [n.lam - s.lam for n, _ in known])
    return advance(x, s, t, kind, weights, known)


def midpoint(x: Any, s: Node, t: Node, kind: str, known: Known, B: Number = None) -> Any:
    """By the predictions at s and v: E_0 m_s + B / 2 (m_v - m_s) h / (lambda_v - lambda_s); B is E_0 by
    default."""
    v = next(n for n, _ in known if n is not s)
    h = t.lam - s.lam
    E = exponential_integral(0, SIGN[kind], h)
    w = (E if B is None else B) / 2 * (h / (v.lam - s.lam))
    return advance(x, s, t, kind, [E - w if n is s else w for n, _ in known], known)


def singlestep(p: Any, s: Node, t: Node, kind: str, m0: Any, order: int) -> Any:
    """DPM-Solver-2 (node 1/2) or -3 (nodes 1/3, 2/3) with Taylor weights from m0 at s; order - 1 calls more.

    Source: Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2; arXiv:2211.01095 for data predictions.
    """
    x, h, known = p.x, t.lam - s.lam, [(s, m0)]
    for i in range(1, order):
        u = s.at(s.lam + h * i / order)
        m = p.model(adams(x, s, u, kind, known), u, kind)
        known = [(u, m), (s, m0)]
    return adams(x, s, t, kind, known)
