"""ComfyUI's further samplers against their published formulas, written out in numpy over alpha and sigma.

alpha = 1 and sigma as it comes (EDM), or alpha = 1 - sigma (flow models, where ComfyUI knows them). Both
sides compute in float64; agreement to 1e-9 of the larger of 1 and the result.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from fastdiff.integrations import kdiffusion as K
from fastdiff.testing import GaussianMixture

MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
X = np.linspace(-2.2, 2.2, 12).reshape(3, 4)
EDM = np.append(np.linspace(14.6 ** (1 / 7), 0.03 ** (1 / 7), 9) ** 7, 0.0)
FLOW = np.linspace(1.0, 0.0, 9) ** 0.8
Model = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]


class CONST:
    """ComfyUI's name for the sampling of a flow model, and the part of it that samplers ask."""

    def percent_to_sigma(self, part: float) -> float:
        return 1 - part


class Holder:
    def __init__(self, **parts: Any):
        self.__dict__.update(parts)


class Flow:
    """A flow model as KSAMPLER hands it to a sampler."""

    def __init__(self) -> None:
        sampling = CONST()
        patcher = Holder(get_model_object=lambda name: sampling)
        self.inner_model = Holder(model_patcher=patcher, inner_model=Holder(model_sampling=sampling))

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **extra: Any) -> Any:
        level = float(sigma[0])
        return both(lambda s: 1 - s, x, level)[0]


def both(alpha: Any, x: Any, sigma: float) -> Any:
    """The data prediction with guidance and without."""
    data = MIXTURE.expectations(x, alpha(sigma), sigma)[0]
    return data, 0.9 * data + 0.05


def edm(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return both(lambda s: 1.0, x, float(sigma[0]))[0]


def noise(s: Any, t: Any) -> np.ndarray:
    key = [round(float(v) * 1e7) for v in (s, t)]
    return np.random.default_rng(key).standard_normal(X.shape)


def model(flow: bool) -> Model:
    def call(x: np.ndarray, s: float) -> Any:
        out = both((lambda v: 1 - v) if flow else (lambda v: 1.0), torch.from_numpy(x), float(s))
        return tuple(o.numpy() for o in out)

    return call


def alpha_of(flow: bool) -> Callable[[float], float]:
    return (lambda s: 1 - s) if flow else (lambda s: 1.0)


def ancestral(s: float, t: float, eta: float) -> tuple[float, float]:
    up = min(t, eta * math.sqrt(t * t * (s * s - t * t) / (s * s)))
    return math.sqrt(t * t - up * up), up


# the formulas: f(model, x, sigmas, flow, **options)


def heunpp2(D: Model, x: Any, sig: Any, flow: bool) -> Any:
    def slope(y: Any, s: float) -> Any:
        return (y - D(y, s)[0]) / s

    for i, (s, t) in enumerate(pairwise(sig)):
        d, mean = slope(x, s), None
        left = len(sig) - 2 - i
        if left == 0:
            mean = d
        else:
            x2 = x + (t - s) * d
            d2 = slope(x2, t)
            if left == 1:
                w = t / (2 * sig[0])
                mean = (1 - w) * d + w * d2
            else:
                after = sig[i + 2]
                d3 = slope(x2 + (after - t) * d2, after)
                w2, w3 = t / (3 * sig[0]), after / (3 * sig[0])
                mean = (1 - w2 - w3) * d + w2 * d2 + w3 * d3
        x = x + (t - s) * mean
    return x


def lagrange_integrals(nodes: Any, a: float, b: float, weight: Callable[[float], float]) -> list[float]:
    """int_a^b weight L_j, L_j on the nodes."""

    def basis(j: int, u: float) -> float:
        return math.prod((u - n) / (nodes[j] - n) for k, n in enumerate(nodes) if k != j)

    return [
        quad(lambda u, j=j: weight(u) * basis(j, u), a, b, epsabs=1e-13, epsrel=1e-13)[0]  # type: ignore[misc]
        for j in range(len(nodes))
    ]


def multistep(weights: Callable[[Any, int, int], list[float]], order: int) -> Any:
    """x + sum w_j eps_j; the last step to 0 is the data prediction."""

    def run(D: Model, x: Any, sig: Any, flow: bool) -> Any:
        slopes: list[Any] = []
        for i, (s, t) in enumerate(pairwise(sig)):
            m = D(x, s)[0]
            slopes.insert(0, (x - m) / s)
            q = min(order, i + 1)
            if t == 0:
                x = m
            else:
                x = x + sum(w * d for w, d in zip(weights(sig, i, q), slopes, strict=False))
        return x

    return run


def equal(sig: Any, i: int, q: int) -> list[float]:
    rows = {
        1: [1.0],
        2: [3 / 2, -1 / 2],
        3: [23 / 12, -16 / 12, 5 / 12],
        4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    }
    return [(sig[i + 1] - sig[i]) * w for w in rows[q]]


def varied(sig: Any, i: int, q: int) -> list[float]:
    return lagrange_integrals([sig[i - k] for k in range(q)], sig[i], sig[i + 1], lambda u: 1.0)


# VP with sigma = 0.002 at t = 0.001 and 80 at t = 1, as the DEIS code of ComfyUI has it
TOP, LOW = math.log(80.0**2 + 1), math.log(0.002**2 + 1)
RISE = 2 * (LOW / 1e-3 - TOP) / (1e-3 - 1)
START = TOP - RISE / 2


def vp_time(sigma: float) -> float:
    return (math.sqrt(START**2 + 2 * RISE * math.log(sigma**2 + 1)) - START) / RISE


def vp_rate(t: Any) -> Any:
    """d sigma / dt."""
    B = RISE * t * t / 2 + START * t
    return (RISE * t + START) * np.exp(B) / (2 * np.sqrt(np.expm1(B)))


def tab(points: int | None) -> Callable[[Any, int, int], list[float]]:
    """points: of the sum that public code takes for the integral."""

    def weights(sig: Any, i: int, q: int) -> list[float]:
        if q == 1:
            return [sig[i + 1] - sig[i]]
        nodes = [vp_time(sig[i - k]) for k in range(q)]
        a, b = nodes[0], vp_time(sig[i + 1])
        if points is None:
            return lagrange_integrals(nodes, a, b, vp_rate)
        u = np.linspace(a, b, points)
        basis = [np.prod([(u - n) / (m - n) for n in nodes if n != m], axis=0) for m in nodes]
        return [float((vp_rate(u) * L).sum() * (b - a) / points) for L in basis]

    return weights


def ddpm(D: Model, x: Any, sig: Any, flow: bool) -> Any:
    """The posterior of the VP process with abar = 1 / (1 + sigma^2)."""
    for s, t in pairwise(sig):
        eps, a, b = (x - D(x, s)[0]) / s, 1 / (1 + s * s), 1 / (1 + t * t)
        x = (x * math.sqrt(a) - (1 - a / b) / math.sqrt(1 - a) * eps) / math.sqrt(a / b)
        if t > 0:
            x = x + math.sqrt((1 - a / b) * (1 - b) / (1 - a)) * noise(s, t)
        x = x / math.sqrt(b)
    return x


def lcm(
    D: Model, x: Any, sig: Any, flow: bool, first: float = 1.0, last: float = 1.0, clip: float = 0.0
) -> Any:
    steps = len(sig) - 1
    for i, (s, t) in enumerate(pairwise(sig)):
        x = D(x, s)[0]
        if t > 0:
            xi = noise(s, t)
            if clip:
                bound = clip * xi.std(ddof=1)
                xi = xi.clip(-bound, bound)
            x = alpha_of(flow)(t) * x + t * (first + (last - first) * i / (steps - 1)) * xi
    return x


def ge(D: Model, x: Any, sig: Any, flow: bool, gamma: float = 2.0, pp: bool = False) -> Any:
    old = None
    for s, t in pairwise(sig):
        m, u = D(x, s)
        d = (x - (u if pp else m)) / s
        if t == 0:
            x = m
        else:
            x = m + t * d if pp else x + (t - s) * d
            if old is not None:
                x = x + (gamma - 1) * (d - old) * (t - s)
        old = d
    return x


def res(
    D: Model, x: Any, sig: Any, flow: bool, eta: float = 1.0, s_noise: float = 1.0, pp: bool = False
) -> Any:
    old = down_before = None
    for i, (s, t) in enumerate(pairwise(sig)):
        m, u = D(x, s)
        u = u if pp else m
        down, up = ancestral(s, t, eta)
        if down == 0 or old is None:
            x = m + down * (x - u) / s
        else:
            h = math.log(s / down)
            c = math.log(down_before / sig[i - 1]) / h
            phi1 = -math.expm1(-h) / h
            phi2 = (1 - phi1) / h
            x = math.exp(-h) * (x + m - u) + h * ((phi1 - phi2 / c) * u + phi2 / c * old)
        x = x + up * s_noise * noise(s, t) if t > 0 else x
        old, down_before = u, down
    return x


def lam(s: float, flow: bool) -> float:
    return math.log(alpha_of(flow)(s) / s)


def sigma_at(v: float, flow: bool) -> float:
    return 1 / (1 + math.exp(v)) if flow else math.exp(-v)


def er_sde(
    D: Model, x: Any, sig: Any, flow: bool, s_noise: float = 1.0, phi: Any = None, order: int = 3
) -> Any:
    phi = phi or (lambda k: k * (np.exp(k**0.3) + 10))
    alpha, ms, ds = alpha_of(flow), [], []
    rho = [s / alpha(s) for s in sig]
    for i, (s, t) in enumerate(pairwise(sig)):
        ms.append(D(x, s)[0])
        if t == 0:
            return ms[-1]
        a, b = rho[i], rho[i + 1]
        r = phi(b) / phi(a)
        y = r * x / alpha(s) + (1 - r) * ms[-1]
        k = b + (a - b) / 200 * np.arange(200)
        if min(order, i + 1) > 1:
            d = (ms[-1] - ms[-2]) / (a - rho[i - 1])
            y = y + (b - a + phi(b) * np.sum(1 / phi(k)) * (a - b) / 200) * d
            if min(order, i + 1) > 2:
                curve = (d - ds[-1]) / ((a - rho[i - 2]) / 2)
                y = y + ((b - a) ** 2 / 2 + phi(b) * np.sum((k - a) / phi(k)) * (a - b) / 200) * curve
            ds.append(d)
        x = alpha(t) * y
        if s_noise:
            x = x + alpha(t) * s_noise * math.sqrt(max(b * b - (r * a) ** 2, 0)) * noise(s, t)
    return x


def seeds(
    D: Model,
    x: Any,
    sig: Any,
    flow: bool,
    rs: Any = (0.5,),
    kind: str = "phi_1",
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Any:
    """Each stage from x_s; its noise is that of the stage before, grown, and the increment since."""
    alpha, k = alpha_of(flow), 1 + eta
    for s, t in pairwise(sig):
        m0 = D(x, s)[0]
        if t == 0:
            return m0
        start, h = lam(s, flow), lam(t, flow) - lam(s, flow)
        wave, v, z_before, newest = np.zeros_like(x), s, 0.0, None
        for r in (*rs, None):
            z = h if r is None else r * h
            u = t if z == h else sigma_at(start + z, flow)
            if z > z_before:
                gap = eta * (z - z_before)
                wave = math.exp(-gap) * wave + math.sqrt(-math.expm1(-2 * gap)) * noise(v, u)
            mean = -math.expm1(-k * z) * m0
            if newest is not None and r is None and kind == "phi_1":
                mean = mean - math.expm1(-k * z) * h / (2 * z_before) * (newest - m0)
            elif newest is not None:
                mean = mean + (1 + math.expm1(-k * z) / (k * z)) * z / z_before * (newest - m0)
            y = u / s * math.exp(-eta * z) * x + alpha(u) * mean + s_noise * u * wave
            if r is None:
                x = y
            else:
                newest, v, z_before = D(y, u)[0], u, z
    return x


def dpmpp_sde(
    D: Model, x: Any, sig: Any, flow: bool, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5
) -> Any:
    alpha = alpha_of(flow)
    for s, t in pairwise(sig):
        m = D(x, s)[0]
        if t == 0:
            return m
        u = sigma_at(lam(s, flow) + r * (lam(t, flow) - lam(s, flow)), flow)
        rs, ru, rt = (v / alpha(v) for v in (s, u, t))
        down, up = ancestral(rs, ru, eta)
        y = alpha(u) * (down / rs * x / alpha(s) + (1 - down / rs) * m + s_noise * up * noise(s, u))
        m = (1 - 1 / (2 * r)) * m + D(y, u)[0] / (2 * r)
        down, up = ancestral(rs, rt, eta)
        x = alpha(t) * (down / rs * x / alpha(s) + (1 - down / rs) * m + s_noise * up * noise(s, t))
    return x


def sde(order: int, kind: str = "heun") -> Any:
    """SDE-DPM-Solver++ (2M), (3M)."""

    def run(D: Model, x: Any, sig: Any, flow: bool, eta: float = 1.0, s_noise: float = 1.0) -> Any:
        alpha, ms, hs = alpha_of(flow), [], []
        for s, t in pairwise(sig):
            ms.insert(0, D(x, s)[0])
            if t == 0:
                return ms[0]
            h = lam(t, flow) - lam(s, flow)
            k = (1 + eta) * h
            phi2 = math.expm1(-k) / k + 1
            y = alpha(t) * -math.expm1(-k) * ms[0]
            if len(ms) > 1:
                d = (ms[0] - ms[1]) * h / hs[0]
                if len(ms) > 2 and order == 3:
                    older = (ms[1] - ms[2]) * h / hs[1]
                    r0, r1 = hs[0] / h, hs[1] / h
                    curve = (d - older) / (r0 + r1)
                    y = y + alpha(t) * (phi2 * (d + curve * r0) - (phi2 / k - 0.5) * curve)
                else:
                    y = y + alpha(t) * (phi2 if kind == "heun" else -math.expm1(-k) / 2) * d
            hs.insert(0, h)
            x = t / s * math.exp(-eta * h) * x + y
            x = x + s_noise * t * math.sqrt(-math.expm1(-2 * eta * h)) * noise(s, t)
        return x

    return run


def sa_solver(
    D: Model,
    x: Any,
    sig: Any,
    flow: bool,
    tau: Any = None,
    p: int = 3,
    c: int = 4,
    pece: bool = False,
    simple: bool = False,
) -> Any:
    """Each rule an integral of the polynomial through the predictions, by quadrature."""
    alpha, N = alpha_of(flow), len(sig) - 1
    lams = [lam(s, flow) if s else math.inf for s in sig]
    tau = tau or (lambda s: 1.0 if 0.2 <= s <= 0.8 else 0.0)
    ms: list[Any] = []
    y, done = x, (0.0, 0.0, 0.0)

    def step(x: Any, i: int, nodes: list[int], level: float) -> Any:
        """From sig[i] to sig[i + 1] by the predictions at `nodes`, newest first."""
        k, a, b = 1 + level**2, lams[i], lams[i + 1]
        ws = lagrange_integrals([lams[n] for n in nodes], a, b, lambda v: k * math.exp(-k * (b - v)))
        if simple and len(nodes) == 2:
            other = next(n for n in nodes if n != i)
            w = k * (b - a) ** 2 / 2 / (lams[other] - a)
            ws = [-math.expm1(-k * (b - a)) - w if n == i else w for n in nodes]
        out = sig[i + 1] / sig[i] * math.exp(-(level**2) * (b - a)) * x
        return out + alpha(sig[i + 1]) * sum(w * ms[n] for w, n in zip(ws, nodes, strict=True))

    for i in range(N):
        ms.append(D(y, sig[i])[0])
        q = min(p, i + 1, N - 1 - i)
        e = 0 if i == 0 or (i == N - 1 and not pece) else min(c, i + 1, N - i)
        if e:
            x = step(x, i - 1, [i - n for n in range(e)], done[0]) + done[2]
            if pece:
                ms[-1] = D(x, sig[i])[0]
        else:
            x = y
        if i == N - 1:
            return ms[-1]
        level, h = tau(sig[i + 1]), lams[i + 1] - lams[i]
        xi = (
            sig[i + 1] * math.sqrt(-math.expm1(-2 * level**2 * h)) * noise(sig[i], sig[i + 1])
            if level
            else 0.0
        )
        y, done = step(x, i, [i - n for n in range(q)], level) + xi, (level, h, xi)
    return x


def unipc(D: Model, x: Any, sig: Any, flow: bool, variant: str = "bh1") -> Any:
    """The paper's systems R a = b for the differences over h, in the frame of VP; ends at sigma = 0.001."""
    sig = np.append(sig[:-1], 1e-3)
    lams, N = [-math.log(s) for s in sig], len(sig) - 1
    order = min(3, N - 1)
    m = [D(x, sig[0])[0]]
    for i in range(1, N + 1):
        q, s, t = min(order, i, N + 1 - i), sig[i - 1], sig[i]
        h = lams[i] - lams[i - 1]
        B = -h if variant == "bh1" else math.expm1(-h)
        ratios = [(lams[i - 1 - j] - lams[i - 1]) / h for j in range(1, q)] + [1.0]
        phi, b = math.expm1(-h) / -h - 1, []
        for j in range(1, q + 1):
            b.append(phi * math.factorial(j) / B)
            phi = phi / -h - 1 / math.factorial(j + 1)
        R = np.array([[r ** (j - 1) for r in ratios] for j in range(1, q + 1)])
        diffs = [(m[-1 - j] - m[-1]) / ratios[j - 1] for j in range(1, q)]
        base = t / s * x - math.expm1(-h) * m[-1]
        ws = [0.5] if q == 2 else np.linalg.solve(R[:-1, :-1], b[:-1]) if q > 2 else []
        y = base - B * sum(w * d for w, d in zip(ws, diffs, strict=True))
        if i == N:
            return y
        m_new = D(y, t)[0]
        ws = [0.5] if q == 1 else np.linalg.solve(R, b)
        x = base - B * sum(w * d for w, d in zip(ws, [*diffs, m_new - m[-1]], strict=True))
        m.append(m_new)
    return x


def rf(kind: str, pp: bool = False) -> Any:
    """Ancestral steps of flow models."""

    def run(D: Model, x: Any, sig: Any, flow: bool, eta: float = 1.0, s_noise: float = 1.0) -> Any:
        for s, t in pairwise(sig):
            m, u = D(x, s)
            guide, m = m - u, u if pp else m
            down = t * (1 + (t / s - 1) * eta)
            if t == 0:
                x = m + (guide if pp else 0)
                continue
            if kind == "euler":
                y = down / s * x + (1 - down / s) * m
            else:
                if kind == "dpm_2":
                    v = math.sqrt(s * down)
                else:
                    v = 0.9999 if s == 1 else sigma_at((lam(s, True) + lam(down, True)) / 2, True)
                m = D(v / s * x + (1 - v / s) * m, v)[1 if pp else 0]
                if kind == "dpm_2":
                    mid = v / s * x + (1 - v / s) * D(x, s)[0]
                    y = x + (down - s) * (mid - m) / v
                else:
                    y = down / s * x + (1 - down / s) * m
            shrink = (1 - t) / (1 - down)
            x = shrink * y + s_noise * math.sqrt(t * t - (down * shrink) ** 2) * noise(s, t)
            x = x + (1 - t) * guide if pp else x
        return x

    return run


def euler_pp(D: Model, x: Any, sig: Any, flow: bool, eta: float = 1.0, s_noise: float = 1.0) -> Any:
    alpha = alpha_of(flow)
    for s, t in pairwise(sig):
        m, u = D(x, s)
        if t == 0:
            return m
        down, up = (
            ancestral(s / alpha(s), t / alpha(t), eta)
            if alpha(s)
            else (math.sqrt(1 - eta**2) * t / alpha(t), eta * t / alpha(t))
        )
        x = alpha(t) * (m + down * (x - alpha(s) * u) / s + s_noise * up * noise(s, t))
    return x


def dpmpp_2m_pp(D: Model, x: Any, sig: Any, flow: bool) -> Any:
    old = h_old = None
    for s, t in pairwise(sig):
        m, u = D(x, s)
        if t == 0:
            return m
        h = math.log(s / t)
        y = m + math.exp(-h) * (x - u)
        x = y if old is None else y - math.expm1(-h) * h / (2 * h_old) * (m - old)
        old, h_old = u, h
    return x


def dpmpp_2s_pp(D: Model, x: Any, sig: Any, flow: bool, eta: float = 1.0, s_noise: float = 1.0) -> Any:
    for s, t in pairwise(sig):
        m, u = D(x, s)
        down, up = ancestral(s, t, eta)
        if down == 0:
            x = u + m - u
            continue
        v = math.sqrt(s * down)
        u2 = D(v / s * x + (1 - v / s) * u, v)[1]
        x = down / s * x + (1 - down / s) * u2 + s_noise * up * noise(s, t) + m - u
    return x


def shape(k: Any) -> Any:
    return k**1.7


def level(s: float) -> float:
    return 0.8 if 0.05 < s < 5 else 0.0


ETA = {"eta": 0.6, "s_noise": 1.1}
CASES: list[tuple[str, dict[str, Any], Any, dict[str, Any]]] = [
    ("heunpp2", {}, heunpp2, {}),
    ("ipndm", {}, multistep(equal, 4), {}),
    ("ipndm", {"max_order": 2}, multistep(equal, 2), {}),
    ("ipndm_v", {}, multistep(varied, 4), {}),
    ("lms", {"legacy": False}, multistep(varied, 4), {}),  # which is ComfyUI's
    ("deis", {}, multistep(tab(10000), 3), {}),
    ("deis", {"max_order": 4}, multistep(tab(10000), 4), {}),
    ("deis", {"max_order": 4, "legacy": False}, multistep(tab(None), 4), {}),
    ("deis", {"deis_mode": "rhoab"}, multistep(varied, 3), {}),
    ("ddpm", {}, ddpm, {}),
    ("lcm", {}, lcm, {}),
    ("lcm", {"s_noise": 1.1, "s_noise_end": 0.7, "noise_clip_std": 0.8},
     lcm, {"first": 1.1, "last": 0.7, "clip": 0.8}),
    ("gradient_estimation", {"ge_gamma": 1.7}, ge, {"gamma": 1.7}),
    ("res_multistep", {}, res, {"eta": 0.0}),
    ("res_multistep_ancestral", ETA, res, ETA),
    ("er_sde", {}, er_sde, {}),
    ("er_sde", {"max_stage": 2, "s_noise": 0.9}, er_sde, {"order": 2, "s_noise": 0.9}),
    ("er_sde", {"noise_scaler": shape}, er_sde, {"phi": shape}),
    ("seeds_2", {}, seeds, {}),
    ("seeds_2", {"r": 0.4, "solver_type": "phi_2", **ETA}, seeds, {"rs": (0.4,), "kind": "phi_2", **ETA}),
    ("seeds_3", {}, seeds, {"rs": (1 / 3, 2 / 3), "kind": "phi_2"}),
    ("seeds_3", {"r_1": 0.2, "r_2": 0.7, **ETA}, seeds, {"rs": (0.2, 0.7), "kind": "phi_2", **ETA}),
    ("exp_heun_2_x0_sde", ETA, seeds, {"rs": (1.0,), "kind": "phi_2", **ETA}),
    ("dpmpp_2m_sde_heun", ETA, sde(2), ETA),
    ("dpmpp_2m_sde_gpu", ETA, sde(2, "midpoint"), ETA),
    ("dpmpp_sde_gpu", ETA, dpmpp_sde, ETA),
    ("dpmpp_3m_sde_gpu", ETA, sde(3), ETA),
    ("sa_solver", {"tau_func": level}, sa_solver, {"tau": level}),
    ("sa_solver", {"tau_func": level, "predictor_order": 2, "corrector_order": 2, "simple_order_2": True},
     sa_solver, {"tau": level, "p": 2, "c": 2, "simple": True}),
    ("sa_solver", {"tau_func": level, "corrector_order": 0}, sa_solver, {"tau": level, "c": 0}),
    ("sa_solver_pece", {"tau_func": level}, sa_solver, {"tau": level, "pece": True}),
    ("unipc", {}, unipc, {}),
    ("unipc_bh2", {}, unipc, {"variant": "bh2"}),
    ("euler_cfg_pp", {}, euler_pp, {"eta": 0.0}),
    ("euler_ancestral_cfg_pp", ETA, euler_pp, ETA),
    ("dpmpp_2m_cfg_pp", {}, dpmpp_2m_pp, {}),
    ("dpmpp_2s_ancestral_cfg_pp", ETA, dpmpp_2s_pp, ETA),
    ("res_multistep_cfg_pp", {}, res, {"eta": 0.0, "pp": True}),
    ("res_multistep_ancestral_cfg_pp", ETA, res, {"pp": True, **ETA}),
    ("gradient_estimation_cfg_pp", {}, ge, {"pp": True}),
]  # fmt: skip


def given(name: str, options: dict[str, Any]) -> dict[str, Any]:
    f = getattr(K, f"sample_{name}")
    wants = "noise_sampler" in inspect.signature(f).parameters
    return {**options, "disable": True, **({"noise_sampler": torch_noise} if wants else {})}


def torch_noise(s: Any, t: Any) -> torch.Tensor:
    return torch.from_numpy(noise(s, t))


def assert_close(ours: torch.Tensor, expected: np.ndarray) -> None:
    assert np.abs(ours.numpy() - expected).max() <= 1e-9 * max(1.0, np.abs(expected).max())


def pair(alpha: Any) -> Any:
    return lambda x, sigma: both(alpha, x, float(sigma[0]))


@pytest.mark.parametrize("name, options, formula, its", CASES)
def test_sampler(name: str, options: Any, formula: Any, its: Any) -> None:
    net = pair(lambda s: 1.0) if "cfg_pp" in name else edm
    x = X * EDM[0]
    ours = getattr(K, f"sample_{name}")(
        net, torch.from_numpy(x), torch.from_numpy(EDM), **given(name, options)
    )
    assert_close(ours, formula(model(False), x, EDM, False, **its))


FLOWS: list[tuple[str, dict[str, Any], Any, dict[str, Any]]] = [
    ("euler_ancestral", ETA, rf("euler"), ETA),
    ("euler_ancestral_RF", ETA, rf("euler"), ETA),
    ("dpm_2_ancestral", ETA, rf("dpm_2"), ETA),
    ("dpmpp_2s_ancestral", ETA, rf("2s"), ETA),
    ("lcm", {}, lcm, {}),
    ("dpmpp_2m_sde", ETA, sde(2, "midpoint"), ETA),
    ("dpmpp_3m_sde", ETA, sde(3), ETA),
    ("dpmpp_sde", ETA, dpmpp_sde, ETA),
    ("seeds_2", ETA, seeds, ETA),
    ("seeds_3", ETA, seeds, {"rs": (1 / 3, 2 / 3), "kind": "phi_2", **ETA}),
    ("er_sde", {}, er_sde, {}),
    ("sa_solver", {}, sa_solver, {}),
    ("sa_solver_pece", {}, sa_solver, {"pece": True}),
    ("res_multistep", {}, res, {"eta": 0.0}),
    ("unipc", {}, unipc, {}),
    ("ddpm", {}, ddpm, {}),
]


@pytest.mark.parametrize("name, options, formula, its", FLOWS)
def test_flow_models_go_as_comfyui_sends_them(name: str, options: Any, formula: Any, its: Any) -> None:
    """Some samplers know them, and some of those start at 1 - 1e-4 where sigma is 1; others do EDM's steps on
    their sigma. The model says what it is."""
    aware = name not in ("res_multistep", "unipc", "ddpm")
    offset = aware and not name.startswith(("lcm", "euler", "dpm_2", "dpmpp_2s"))
    sig = np.array([1 - 1e-4, *FLOW[1:]]) if offset else FLOW
    net = model(True)
    ours = getattr(K, f"sample_{name}")(
        Flow(), torch.from_numpy(X), torch.from_numpy(FLOW), **given(name, options)
    )
    assert_close(ours, formula(net, X, sig, aware, **its))


@pytest.mark.parametrize(
    "name, formula", [("euler_ancestral_cfg_pp", euler_pp), ("dpmpp_2s_ancestral_RF_cfg_pp", rf("2s", True))]
)
def test_flow_models_with_cfg_pp(name: str, formula: Any) -> None:
    f = getattr(K, f"sample_{name}")
    net = pair(lambda s: 1 - s)
    ours = f(net, torch.from_numpy(X), torch.from_numpy(FLOW), flow=True, **given(name, ETA))
    assert_close(ours, formula(model(True), X, FLOW, True, **ETA))


def test_cfg_pp_asks_comfyui_for_the_output_without_guidance() -> None:
    """By a function among model_options' own, which stay as they were."""
    seen: list[str] = []
    options = {"sampler_post_cfg_function": [lambda a: seen.append("theirs") or a["denoised"]], "other": 1}

    def net(x: torch.Tensor, sigma: torch.Tensor, model_options: Any, seed: int) -> torch.Tensor:
        assert model_options["other"] == 1 and model_options["disable_cfg1_optimization"] and seed == 5
        data, free = both(lambda s: 1.0, x, float(sigma[0]))
        for f in model_options["sampler_post_cfg_function"]:
            data = f({"denoised": data, "uncond_denoised": free})
        return data

    x, sig = torch.from_numpy(X * EDM[0]), torch.from_numpy(EDM)
    got = K.sample_dpmpp_2m_cfg_pp(net, x, sig, {"model_options": options, "seed": 5}, disable=True)
    assert torch.equal(got, K.sample_dpmpp_2m_cfg_pp(pair(lambda s: 1.0), x, sig, disable=True))
    assert len(options["sampler_post_cfg_function"]) == 1 and len(seen) == len(EDM) - 1
    with pytest.raises(TypeError, match="without guidance"):
        K.sample_euler_cfg_pp(edm, x, sig, disable=True)


def test_none_is_missing() -> None:
    """The samplers that ComfyUI has beyond k-diffusion's; ddim there is euler, ar_video no sampler of
    ours."""
    names = (
        "euler_cfg_pp euler_ancestral_cfg_pp heunpp2 dpmpp_2s_ancestral_cfg_pp dpmpp_sde_gpu dpmpp_2m_cfg_pp "
        "dpmpp_2m_sde_gpu dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu dpmpp_3m_sde_gpu ddpm lcm ipndm ipndm_v "
        "res_multistep res_multistep_cfg_pp res_multistep_ancestral res_multistep_ancestral_cfg_pp deis "
        "gradient_estimation gradient_estimation_cfg_pp er_sde seeds_2 seeds_3 exp_heun_2_x0 "
        "exp_heun_2_x0_sde sa_solver sa_solver_pece euler_ancestral_RF dpm_2_ancestral_RF "
        "dpmpp_2s_ancestral_RF unipc unipc_bh2"
    )
    assert [n for n in names.split() if not callable(getattr(K, f"sample_{n}", None))] == []
    tested = {c[0] for c in [*CASES, *FLOWS]}
    left = {"exp_heun_2_x0", "dpmpp_2m_sde_heun_gpu", "dpm_2_ancestral_RF", "dpmpp_2s_ancestral_RF"}
    assert set(names.split()) - tested == left, "those are others by another name, or with eta = 0"
