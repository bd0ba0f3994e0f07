"""CFG++: data from the guided output, noise from the one without guidance; ComfyUI's forms of six samplers.

    x0 = the guided data prediction,      u = the unguided one,      eps = (x_s - alpha_s u) / sigma_s

    euler(-a)    x_t = alpha_t x0 + alpha_t down eps + s_noise alpha_t up xi
    ge           x_t = alpha_t x0 + sigma_t eps + (sigma_t - (alpha_t / alpha_s) sigma_s) (gamma - 1) (eps -
    eps_1) dpmpp-2m     x_t / alpha_t = x0 + e^{-h} (x_s / alpha_s - u) + (1 - e^{-h}) / (2 r) (x0 - u_1)
    res-2m(-a)   the step of `res-2m-a` on u and u_1, from x_s + alpha_s (x0 - u)
    dpmpp-2s-a   the step of `dpmpp-2s-a` (of DPMpp2SRF) on u, then + alpha_t (x0 - u)

The network gives both: x0, then u (`p.further`). The last step to sigma = 0 is x0.

Source: Chung et al. 2024, arXiv:2406.08070; the forms of ComfyUI (comfy/k_diffusion/sampling.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...core.math import exp, expm1
from ...core.process import Node
from ...core.solver import Past, Solver, check_range
from ...solvers._exponential import Noisy, adams, below
from .formulas import DPMpp2SRF, lowered, toward


def outputs(p: Any, x: Any, s: Node) -> tuple[Any, Any]:
    """(x0, u)."""
    data = p.model(x, s, "data")
    return data, p.further()


@dataclass(frozen=True)
class CFGpp(Noisy):
    """Base: an ancestral step with two outputs."""

    predicts = "data"
    eta_max = 1.0

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """rho_s = inf: up = eta rho_t, and eps is x_s over its scale."""
        data, _ = outputs(p, p.x, s)
        p.x = t.alpha * data + (1 - self.eta**2) ** 0.5 * (t.sigma / s.sigma) * p.x
        if self.eta:
            p.x = p.x + self.s_noise * self.eta * t.sigma * p.noise(s, t)
        return []

    def up(self, p: Any, s: Node, t: Node, x: Any, up: Any) -> Any:
        return x + self.s_noise * up * t.sigma * p.noise(s, t) if self.eta else x


@dataclass(frozen=True)
class Euler(CFGpp):
    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        k, up = below(s, t, self.eta)
        data, u = outputs(p, p.x, s)
        x = t.alpha * (data + exp(-k) * (p.x / s.alpha - u))  # down eps = e^{-k} rho_s eps
        p.x = self.up(p, s, t, x, up)
        return []


@dataclass(frozen=True)
class GE(Solver):
    predicts = "data"
    memory = 1

    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "gamma", 0, 10)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        data, u = outputs(p, p.x, s)
        eps = (p.x / s.alpha - u) / s.rho
        x = data + t.rho * eps
        if past:
            x = x + (self.gamma - 1) * (t.rho - s.rho) * (eps - past[-1])
        p.x = t.alpha * x
        return [eps]


@dataclass(frozen=True)
class DPMpp2M(Solver):
    predicts = "data"
    memory = 1

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        h = t.lam - s.lam
        data, u = outputs(p, p.x, s)
        x = data + exp(-h) * (p.x / s.alpha - u)
        if past:
            before, u1 = past[-1]
            x = x - expm1(-h) * (h / (2 * (s.lam - before.lam))) * (data - u1)
        p.x = t.alpha * x
        return [(s, u)]


@dataclass(frozen=True)
class RES2M(CFGpp):
    memory = 1

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        k, up = below(s, t, self.eta)
        data, u = outputs(p, p.x, s)
        x = p.x / s.alpha
        if past:
            before, u1 = past[-1]
            x = exp(-k) * (x + data - u) - expm1(-k) * u + (1 + expm1(-k) / k) * (k / before) * (u - u1)
        else:
            x = data + exp(-k) * (x - u)
        p.x = self.up(p, s, t, t.alpha * x, up)
        return [(k, u)]


@dataclass(frozen=True)
class DPMpp2SA(CFGpp):
    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        k, up = below(s, t, self.eta)
        middle = s.at(s.lam + k / 2)
        x = p.x
        data, u = outputs(p, x, s)
        _, u2 = outputs(p, adams(x, s, middle, "data", [(s, u)]), middle)
        x = t.alpha * (exp(-k) / s.alpha * x - expm1(-k) * u2 + data - u)
        p.x = self.up(p, s, t, x, up)
        return []


@dataclass(frozen=True)
class DPMpp2SRFpp(DPMpp2SRF):
    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        d, shrink, up = lowered(s, t, self.eta)
        x, middle = p.x, self.middle(s, d)
        data, u = outputs(p, x, s)
        _, u2 = outputs(p, toward(x, s, middle, u), middle)
        p.x = self.up(p, s, t, toward(x, s, d, u2), shrink, up) + t.alpha * (data - u)
        return []
