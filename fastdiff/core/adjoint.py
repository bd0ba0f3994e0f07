"""AdjointDEIS: exponential multistep for the continuous adjoint equations, in lambda = log(alpha / sigma).

    a = dL/dx_t,   V_j = a_j^T d m / dx at node j,   kappa = 1 + tau^2         from t to the noisier s, h > 0:

    noise   a_s = alpha_t / alpha_s a_t - sum_j kappa alpha_j^2 / alpha_s e^{-lambda_s} b_j(1) V_j
    data    a_s = c_t / c_s a_t + sum_j kappa c_j^2 / c_s e^{kappa lambda_s} b_j(-kappa) V_j,    c = sigma
    e^{-tau^2 lambda} b_j(r) = int_0^h e^{-r (h - u)} L_j(u) du,      L_j on lambda_t - lambda_j: t and the
    nodes visited before it

Parameters get the same sums of a_j^T d m / dtheta, less the last factor alpha_j / alpha_s or c_j / c_s. tau
is the noise level of the reverse SDE, 0 for the probability flow: the diffusion does not depend on x, so
along a given path the derivative has no stochastic integral, and noise enters through the states alone.

Where sigma > alpha a step takes the data form, else the noise form: there d m / dx is small, whatever the
data's scale of order one. The first step is explicit, then corrected with s among its nodes: a start of order
2, so that order 3 holds. Beside sigma = 0 and alpha = 0 a step of order 1 is transposed as it stands.

Source: Blasingame & Liu 2024, arXiv:2405.15020, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .math import adams_weights, exp, expm1
from .plan import Plan
from .predict import convert
from .process import Node


@dataclass(frozen=True)
class AdjointStep:
    """To node `end`: sum_j own[j] a_j + products[j] R_j with R_j = a_j^T d net / dx at node j; thetas[j] is
    what the step adds to the weight of node j's product with the parameters."""

    end: int
    own: dict[int, float]
    products: dict[int, float]
    thetas: dict[int, float]


@dataclass(frozen=True)
class Transposed:
    """To node `end`: own a + product a^T d net / dx at `end`, a being that of the node before; parameters get
    `theta` times their product."""

    end: int
    own: float
    product: float
    theta: float


Step = AdjointStep | Transposed


def adjoint_steps(
    nodes: Sequence[Node], tau2: Sequence[float], order: int, predicts: str
) -> list[tuple[Step, AdjointStep | None]]:
    """(step, its correction) from the last node to node 0. tau2[i] belongs to the step from node i to the
    next."""
    last = len(nodes) - 1
    made: list[tuple[Step, AdjointStep | None]] = []
    first = last
    if nodes[last].clean:
        made.append((_transposed(nodes, last, tau2, predicts), None))
        first = last - 1
    for i in range(first - 1, -1, -1):
        if nodes[i].pure:
            made.append((_transposed(nodes, i + 1, tau2, predicts), None))
            continue
        step = _adams(nodes, i, tau2[i], range(i + 1, min(i + 1 + order, first + 1)), predicts)
        corrected = order > 1 and i == first - 1
        made.append((step, _adams(nodes, i, tau2[i], (i, i + 1), predicts) if corrected else None))
    return made


def _adams(nodes: Sequence[Node], s: int, tau2: float, used: Sequence[int], predicts: str) -> AdjointStep:
    t, lam, kappa = s + 1, [float(n.lam) for n in nodes[s : max(used) + 1]], 1 + tau2
    kind = "data" if lam[0] + lam[1] < 0 else "noise"
    at = {j: lam[j - s] for j in (s, *used)}
    if kind == "noise":
        c, rate, front = {j: float(nodes[j].alpha) for j in at}, 1.0, -kappa * np.exp(-at[s])
    else:
        c = {j: float(nodes[j].sigma) * np.exp(-tau2 * at[j]) for j in at}
        rate, front = -kappa, kappa * np.exp(kappa * at[s])
    b = adams_weights(rate, at[t] - at[s], [at[t] - at[j] for j in used])
    own, products, thetas = {t: c[t] / c[s]}, {}, {}
    for j, w in zip(used, b, strict=True):
        p, q = (float(v) for v in convert(predicts, kind, nodes[j]))
        thetas[j] = float(front * c[j] * w * q)
        products[j] = thetas[j] * c[j] / c[s]
        own[j] = own.get(j, 0.0) + float(front * c[j] * w * p) * c[j] / c[s]
    return AdjointStep(s, own, products, thetas)


def _transposed(nodes: Sequence[Node], t: int, tau2: Sequence[float], predicts: str) -> Transposed:
    """x_t = sigma_t / sigma_s e^{-tau^2 h} x + alpha_t (1 - e^{-(1 + tau^2) h}) x0(x), as it is at its
    ends."""
    here, there, k = nodes[t], nodes[t - 1], tau2[t - 1]
    p, q = (float(v) for v in convert(predicts, "data", there))
    if here.clean or there.pure:
        kept = 0.0 if here.clean or k else float(here.sigma / there.sigma)
        gain = float(here.alpha)
    else:
        h = here.lam - there.lam
        kept = float(here.sigma / there.sigma * exp(-k * h))
        gain = float(-here.alpha * expm1(-(1 + k) * h))
    return Transposed(t - 1, kept + gain * p, gain * q, gain * q)


def noise_levels(
    plan: Plan, nodes: Sequence[Node], cuts: Sequence[int], scales: Sequence[float]
) -> list[float]:
    """tau^2 of each step: the noise that reaches the next node, cuts[i + 1] being the stage that calls the
    network there and scales[i + 1] what its argument is multiplied by, as sigma^2 (1 - e^{-2 tau^2 h})."""
    forms: dict[int, dict[tuple[int, int], float]] = {}
    std2: dict[int, float] = {}
    wanted = {k: i for i, k in enumerate(cuts)}
    end = len(plan.stages) - 1
    for k, s in enumerate(plan.stages):
        sources = [forms.get(r, {}) for r in s.inputs] + [{d: 1.0} for d in s.draws]
        rows = {}
        for r, row in zip(s.outputs, s.coeffs, strict=True):
            total: dict[tuple[int, int], float] = {}
            for w, source in zip(row, sources, strict=True):
                for d, v in source.items():
                    total[d] = total.get(d, 0.0) + float(w) * v
            rows[r] = total
        forms.update(rows)
        if k in wanted and s.call is not None:
            i = wanted[k]
            own = {d: v / scales[i] for d, v in forms.get(s.call.args[0], {}).items() if d[0] == i - 1}
            std2[i] = float(np.sum(np.square([*own.values()])))
        if s.call is not None:
            forms.update((r, {}) for r in s.call.outs)
        if k == end:
            std2[len(cuts)] = float(
                np.sum([v * v for d, v in forms.get(plan.out, {}).items() if d[0] == len(cuts) - 1])
            )
    return [_level(std2.get(i, 0.0), nodes[i - 1], nodes[i]) for i in range(1, len(nodes))]


def _level(variance: float, s: Node, t: Node) -> float:
    if not variance:
        return 0.0
    if s.pure:
        return 1.0
    h, part = float(t.lam - s.lam), variance / float(t.sigma) ** 2
    if part < 0.99:
        return float(-np.log1p(-part) / (2 * h))
    return float(part / np.expm1(2 * h))  # as a noise prediction's step has it
