"""FokkerPlanck: how far scores at neighbouring times are from belonging to one diffusion.

    R = ds/dt - grad_x [ (g^2 / 2)(div s + |s|^2) - f <x, s> ]          loss = E  weight(t) |R|^2 / n

R is 0 for the true score. As a loss beside `Denoising` it draws the laws of the ODE and of the SDE together.
It costs five to seven network evaluations, so give it a part of the batch.

Source: Lai et al. 2023, "FP-Diffusion", arXiv:2210.04296; Deveney et al. 2023, arXiv:2311.15996.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.predict import convert
from ..core.process import Process
from ..noise.seeds import Seeds, resolve
from ..noise.streams import PROBES
from ..ops.noise import noise
from ..ops.perturb import perturb
from ..runtime.denoiser import Denoiser
from ._loss import Loss, Net, Terms, begin, wide
from .times import Times

Score = Callable[[Tensor, Tensor], Tensor]
DT = ("jvp", "central")
NORMS = ("l2", "l1")


def fokker_planck_residual(
    score: Score,
    x: Tensor,
    t: Tensor,
    process: Process,
    *,
    probes: int | str = 1,
    dt: str = "jvp",
    eps_t: float = 1e-3,
    seeds: Any = None,
) -> Tensor:
    """R (B, *) of score(x, t) at x (B, *), t (B,); differentiable by the score's parameters.

    probes  sign vectors for the divergence (stream 4), or "exact"
    dt      "jvp", or "central": (s(t + eps_t) - s(t - eps_t)) / (2 eps_t), for networks without forward mode

    Raises ValueError that names the argument.
    """
    call = "fokker_planck_residual"
    if probes != "exact" and (type(probes) is not int or probes < 1):
        raise ValueError(f"{call}: probes must be a whole number >= 1 or 'exact', got {probes!r}")
    if dt not in DT:
        raise ValueError(f"{call}: dt must be 'jvp' or 'central', got {dt!r}")
    if t.shape != x.shape[:1]:
        raise ValueError(f"{call}: t must be ({x.shape[0]},), got {tuple(t.shape)}")
    t = t.contiguous()  # forward mode wants memory of its own for each number
    f, g2 = (torch.as_tensor(v).to(wide(x)) for v in (process.f(t), process.g2(t)))
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        s = score(x, t)

        def pull(e: Tensor) -> Tensor:
            (g,) = torch.autograd.grad(s, x, e, create_graph=True)
            return g

        if probes == "exact":
            flat = s.flatten(1)
            parts = []
            for i in range(flat.shape[1]):
                (g,) = torch.autograd.grad(flat[:, i].sum(), x, create_graph=True)
                parts.append(g.flatten(1)[:, i])
            div = torch.stack(parts).sum(0)
        else:
            rng = resolve(seeds, x.shape[0], x.device)
            signs = [
                noise("rademacher", tuple(x.shape), rng, k, PROBES, dtype=s.dtype) for k in range(int(probes))
            ]
            div = torch.stack([(pull(e) * e).flatten(1).sum(1) for e in signs]).mean(0)
        inner = g2 / 2 * (div + s.square().flatten(1).sum(1)) - f * (x * s).flatten(1).sum(1)
        (slope,) = torch.autograd.grad(inner.sum(), x, create_graph=True)
        if dt == "jvp":
            _, moved, *_ = torch.func.jvp(lambda t: score(x, t), (t,), (torch.ones_like(t),))
        else:
            moved = (score(x, t + eps_t) - score(x, t - eps_t)) / (2 * eps_t)
    return moved - slope


class FokkerPlanck(Loss):
    """E weight(t) |R|^2 / n or |R|_1 / n at noised data.

    process, predicts, time   as in `Denoising`
    weight                    callable(t) -> (B,); default 1
    norm                      "l2" | "l1"
    probes, dt, eps_t         of `fokker_planck_residual`
    t_min, t_max              default a hundredth of the way from both ends
    """

    key = "fokker-planck"

    def __init__(
        self,
        process: Process,
        predicts: str,
        weight: Callable[[Tensor], Tensor] | None = None,
        norm: str = "l2",
        *,
        probes: int | str = 1,
        dt: str = "jvp",
        eps_t: float = 1e-3,
        time: str | None = None,
        time_sampler: str | Times = "uniform",
        t_min: float | None = None,
        t_max: float | None = None,
    ):
        if norm not in NORMS:
            raise ValueError(f"FokkerPlanck: norm must be 'l2' or 'l1', got {norm!r}")
        if process.const is not None or process.train_steps is not None:
            raise ValueError(
                f"FokkerPlanck: {process!r} has a const or discrete times; its score has no such law"
            )
        self.model = Denoiser(lambda *_: None, process, predicts=predicts, time=time)
        self.process, self.weight, self.norm = process, weight, norm
        self.probes, self.dt, self.eps_t = probes, dt, float(eps_t)
        self.times = Times.of("FokkerPlanck", time_sampler)
        way = process.t_max - process.t_zero
        self.t_min = float(process.t_zero + 0.01 * way if t_min is None else t_min)
        self.t_max = float(process.t_max - 0.01 * way if t_max is None else t_max)
        if not process.t_zero < self.t_min < self.t_max <= process.t_max:
            raise ValueError(
                f"FokkerPlanck: t_min={self.t_min:g} and t_max={self.t_max:g} must be increasing in "
                f"({process.t_zero:g}, {process.t_max:g}]"
            )

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`; output is R. t (B,): times of your own instead of drawn ones."""
        given, rng = begin("FokkerPlanck", net, x0, cond, seeds)
        t, importance = self.times.at("FokkerPlanck", t, self.process, rng, self.t_min, self.t_max)
        dtype = wide(x0)
        a, s = (torch.as_tensor(v).to(dtype) for v in (self.process.alpha(t), self.process.sigma(t)))
        x_t = perturb(x0, a, s, rng)
        assert isinstance(x_t, Tensor)
        shape = (-1, *[1] * (x0.dim() - 1))

        def score(x: Tensor, t: Tensor) -> Tensor:
            p, q = convert(self.model.predicts, "score", self.process.node(t), check=False)
            raw = self.model.take(net(x, self.model.times_tensor(t, x), **given), x).to(dtype)
            p, q = (torch.as_tensor(v, dtype=torch.float64, device=x.device) for v in (p, q))
            return (
                p.to(dtype).expand(t.shape).reshape(shape) * x.to(dtype)
                + q.to(dtype).expand(t.shape).reshape(shape) * raw
            )

        R = fokker_planck_residual(
            score,
            x_t,
            t,
            self.process,
            probes=self.probes,
            dt=self.dt,
            eps_t=self.eps_t,
            seeds=Seeds(rng[:, 0], rng[:, 1]),
        )
        loss = (R.square() if self.norm == "l2" else R.abs()).flatten(1).mean(1)
        weight = torch.ones_like(t) if importance is None else importance
        weight = weight if self.weight is None else weight * self.weight(t)
        return Terms(loss, weight.to(dtype), t, x_t, R)
