"""Interpolant: regression on a path between two ends with a latent noise, a stochastic interpolant.

    x_t = a(t) x0 + b(t) x1 + gamma(t) z          loss = E  w(t) |net(x_t, t) - target|^2

with data x0 at t = 0 and the base x1 at t = 1.

    predicts     the network gives                      target
    "flow"       E[dx_t/dt | x_t], what an ODE follows  a' x0 + b' x1 + gamma' z
    "transport"  its part without the latent            a' x0 + b' x1
    "noise"      eta = E[z | x_t]                       z
    "score"      s = -eta / gamma                       -z / gamma, its error times gamma

    flow = transport - gamma gamma' score. With it and the score any noise level samples (`flow-sde`).

The base comes as x1=, or is normal and coupled (`couplings`). Data-dependent ends are x1=m(x0) + noise, with
what m kept as a condition; where they leave elements as they are, `mask` takes those out of the loss.

Source: Albergo & Vanden-Eijnden 2023, arXiv:2209.15571; Albergo, Boffi & Vanden-Eijnden 2023,
arXiv:2303.08797; Albergo et al. 2023, arXiv:2310.03725.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, pi
from typing import Any

import torch
from torch import Tensor

from ..core.errors import unknown
from ..noise.streams import training_column_stream
from ..ops.normal import normal
from ..ops.perturb import perturb
from ..ops.regression_loss import regression_loss
from ..processes.flow_matching import FlowMatching as Straight
from ..runtime.denoiser import Denoiser
from ._loss import Loss, Net, Terms, begin, wide
from .couplings import Coupling
from .times import Times

BASE_COLUMN = 1  # of the training noise; the latent has column 0
PREDICTIONS = ("flow", "transport", "noise", "score")
KINDS = ("linear", "trig", "encoding-decoding", "one-sided-linear", "one-sided-trig", "mirror")
ALONE = ("one-sided-linear", "one-sided-trig", "mirror")  # there is no x1
OWN = ("one-sided-linear", "one-sided-trig")  # the latent is the base: gamma is the kind's


def _sigmoid_bump(t: Tensor, f: float) -> tuple[Tensor, Tensor]:
    s = torch.sigmoid
    up, down = s(f * (t - 0.5) + 1), s(f * (t - 0.5) - 1)
    at_ends = s(t.new_tensor(1 - f / 2)) - s(t.new_tensor(-1 - f / 2))
    return up - down - at_ends, f * (up * (1 - up) - down * (1 - down))


def _brownian(t: Tensor, c: float) -> tuple[Tensor, Tensor]:
    g = (c * t * (1 - t)).clamp(min=0).sqrt()
    return g, c * (0.5 - t) / g


GAMMAS: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {  # gamma and its slope
    "brownian": _brownian,  # sqrt(c t (1 - t))
    "parabola": lambda t, c: (c * t * (1 - t), c * (1 - 2 * t)),
    "sine-squared": lambda t, c: (c * torch.sin(pi * t) ** 2, c * pi * torch.sin(2 * pi * t)),
    "sigmoid": _sigmoid_bump,  # S(c (t - 1/2) + 1) - S(c (t - 1/2) - 1), less what it is at the ends
    "zero": lambda t, c: (torch.zeros_like(t), torch.zeros_like(t)),
}


class Interpolant(Loss):
    """E w(t) |net(x_t, t, **cond) - target|^2, the mean over elements and samples.

    kind          "linear" 1 - t, t; "trig" cos, sin of pi t / 2, times sqrt(1 - gamma^2);
                  "encoding-decoding" cos^2(pi t), the data's half and the base's; without x1:
                  "one-sided-linear", "one-sided-trig" (the latent is the base), "mirror" x0 + gamma z
    gamma         "brownian" | "parabola" | "sine-squared" | "sigmoid" | "zero"; c is its scale, of the
    sigmoid
                  its steepness. A one-sided kind has its own
    predicts      "flow" | "transport" | "noise" | "score"
    coupling      of drawn base normals with the data: a key of fd.losses.couplings.names(), a Coupling, or a
                  callable(x0, rng) -> x1
    antithetic    the mean over z and -z, two network calls: with "flow" it takes away the variance that
                  gamma' has at the ends
    weight        callable(t) -> (B,); default 1
    time_sampler  a key of fd.losses.times.names(), or a Times; between t_min and t_max, by default the ends,
                  or 1e-3 from them where gamma' or 1 / gamma is infinite

    `loss(net, x0, x1=None, cond=None, seeds=None, mask=None)`.
    """

    key = "interpolant"

    def __init__(
        self,
        kind: str = "linear",
        gamma: str = "brownian",
        predicts: str = "flow",
        coupling: str | Coupling | Callable[[Tensor, Tensor], Tensor] = "independent",
        *,
        c: float | None = None,
        antithetic: bool = False,
        weight: Callable[[Tensor], Tensor] | None = None,
        time_sampler: str | Times = "uniform",
        t_min: float | None = None,
        t_max: float | None = None,
    ):
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
        if gamma not in GAMMAS:
            raise unknown("gamma", gamma, GAMMAS)
        if predicts not in PREDICTIONS:
            raise unknown("prediction (predicts)", predicts, PREDICTIONS)
        c = (10.0 if gamma == "sigmoid" else 1.0) if c is None else c
        if not 0 < c < inf:
            raise ValueError(f"Interpolant: c must be > 0, got {c!r}")
        silent = gamma == "zero" and kind not in OWN
        if silent and (predicts in ("noise", "score") or kind == "mirror"):
            raise ValueError(f"Interpolant: gamma='zero' leaves nothing to learn for {kind!r}, {predicts!r}")
        self.kind, self.gamma, self.predicts, self.c = kind, gamma, predicts, float(c)
        self.coupling = Coupling.of("Interpolant", coupling)
        self.times = Times.of("Interpolant", time_sampler)
        singular = gamma == "brownian" and predicts == "flow" and kind not in OWN
        self.t_min = (1e-3 if singular else 0.0) if t_min is None else float(t_min)
        self.t_max = (1 - 1e-3 if singular else 1.0) if t_max is None else float(t_max)
        if not 0 <= self.t_min < self.t_max <= 1:
            raise ValueError(
                f"Interpolant: t_min={self.t_min:g} and t_max={self.t_max:g} must be increasing in [0, 1]"
            )
        self.antithetic, self.weight = antithetic, weight
        self.model = Denoiser(lambda *_: None, Straight(), predicts="flow")  # how networks are called

    def path(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """a, b, gamma, a', b', gamma' at times t."""
        half = pi / 2
        if self.kind in OWN:
            if self.kind == "one-sided-linear":
                a, g, da, dg = 1 - t, t, -torch.ones_like(t), torch.ones_like(t)
            else:
                a, g = torch.cos(half * t), torch.sin(half * t)
                da, dg = -half * g, half * a
            return a, torch.zeros_like(t), g, da, torch.zeros_like(t), dg
        g, dg = GAMMAS[self.gamma](t, self.c)
        if self.kind == "linear":
            a, b, da, db = 1 - t, t, -torch.ones_like(t), torch.ones_like(t)
        elif self.kind == "mirror":
            a, b, da, db = torch.ones_like(t), torch.zeros_like(t), torch.zeros_like(t), torch.zeros_like(t)
        elif self.kind == "trig":
            r = (1 - g * g).sqrt()
            turn, cos, sin = -g * dg / r, torch.cos(half * t), torch.sin(half * t)
            a, b = r * cos, r * sin
            da, db = turn * cos - half * b, turn * sin + half * a
        else:
            bell, slope = torch.cos(pi * t) ** 2, -pi * torch.sin(2 * pi * t)
            first = (t <= 0.5).to(t.dtype)
            a, b, da, db = bell * first, bell * (1 - first), slope * first, slope * (1 - first)
        return a, b, g, da, db, dg

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        x1: Tensor | None = None,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        mask: Tensor | None = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`, of both signs of z where antithetic; x_t and output are those of z."""
        given, rng = begin("Interpolant", net, x0, cond, seeds)
        t, importance = self.times.at("Interpolant", t, Straight(), rng, self.t_min, self.t_max)
        a, b, g, da, db, dg = self.path(t)
        weight = torch.ones_like(t) if importance is None else importance
        if self.weight is not None:
            weight = weight * self.weight(t)
        seen, target = {"a": a, "s": g}, {"p": da, "q": dg}
        if self.predicts in ("noise", "score"):
            target = {"q": torch.ones_like(t) if self.predicts == "noise" else -torch.ones_like(t)}
        elif self.predicts == "transport":
            del target["q"]
        ends = self._base(x0, x1, rng)
        if ends is not None:
            seen["e"] = b
            if "p" in target:
                target["e"] = db
        dtype, stored = wide(x0), not x0.is_cuda
        extra = ends if "e" in target else None
        total, first = None, None
        for sign in (1, -1) if self.antithetic else (1,):
            path: dict[str, Any]
            slope: dict[str, Any]
            path, slope = (
                {k: (v * sign if k in "sq" else v).to(dtype) for k, v in row.items()}
                for row in (seen, target)
            )
            made = perturb(x0, rng=rng, endpoint=ends, noise=stored, **path)
            x_t, xi = made if isinstance(made, tuple) else (made, None)
            output = net(x_t, self.model.times_tensor(t, x0), **given)
            pred = self.model.take(output, x_t)
            if self.predicts == "score":
                pred = pred * g.to(dtype).reshape(-1, *[1] * (pred.dim() - 1))
            has_noise = "q" in target
            loss = regression_loss(
                pred,
                x0 if "p" in target else None,
                extra=extra,
                noise=xi if has_noise else None,
                rng=rng if has_noise and xi is None else None,
                mask=mask,
                **slope,
            )
            total = loss if total is None else (total + loss) / 2
            first = (x_t, output) if first is None else first
        assert total is not None and first is not None
        return Terms(total, weight.to(dtype), t, *first)

    def __call__(
        self,
        net: Net,
        x0: Tensor,
        x1: Tensor | None = None,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The mean over the batch, a scalar."""
        return self.per_sample(net, x0, x1, cond=cond, seeds=seeds, mask=mask).weighted.mean()

    def _base(self, x0: Tensor, x1: Any, rng: Tensor) -> Tensor | None:
        if self.kind in ALONE:
            if x1 is not None:
                raise ValueError(f"Interpolant: kind {self.kind!r} has no x1; leave it out")
            return None
        if x1 is None and isinstance(self.coupling, Coupling):
            stream = training_column_stream(BASE_COLUMN)
            x1 = self.coupling.pair(x0, normal(x0.shape, rng, 0, stream, dtype=x0.dtype), rng)
        elif x1 is None and callable(self.coupling):
            x1 = self.coupling(x0, rng)
        if not isinstance(x1, Tensor) or x1.shape != x0.shape:
            came = tuple(x1.shape) if isinstance(x1, Tensor) else type(x1).__name__
            raise ValueError(f"Interpolant: x1 must be a tensor {tuple(x0.shape)} like x0, got {came}")
        return x1

    def __repr__(self) -> str:
        return f"Interpolant({self.kind!r}, gamma={self.gamma!r}, predicts={self.predicts!r})"
