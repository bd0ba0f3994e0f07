"""DiffusionDPO: of two samples the network is to denoise the better one better than a reference does.

    h = -1/2 [ (e_w - e_l) - (e_w^ref - e_l^ref) ]       e = mean over elements of |net(x_t, t) - target|^2

    "dpo"  -log sigmoid(beta h)       "ipo"  (h - 1 / (2 beta))^2       "hinge"  max(0, 1 - beta h)

Winner and loser of a pair have one time and one noise, which belong to the pair, not to a row of the batch.
Equal networks: log 2. Both samples go through the network in one batch.

Source: Wallace et al. 2023, arXiv:2311.12908, equation 14; Azar et al. 2023, arXiv:2310.12036 (ipo).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.predict import input_scale, row
from ..core.process import Process
from ..ops.perturb import perturb
from ..ops.regression_loss import regression_loss
from ..runtime.conditions import stack
from ..runtime.denoiser import Denoiser
from ..runtime.train import Net, begin, check_process, uniform_times, wide

KINDS = ("dpo", "ipo", "hinge")


class DiffusionDPO:
    """process       a Process
    predicts      "noise" | "data" | "velocity" | "flow" | "score": in which space e is measured
    time          what the network is given, as in fd.Denoiser
    beta          how far from the reference; 2000 .. 5000 for noise predictions of images
    kind          "dpo" | "ipo" | "hinge"
    t_min, t_max  between which times are drawn, uniformly; default 1e-5 of the way (a discrete process: its
                  steps) and the process's end

    `loss(net, reference, winner, loser, cond=None, seeds=None)`: winner and loser (B, *), pair by pair, one
    cond for both; reference: a network like net, no gradient reaches it. A scalar; `margins(...)` are the h
    (B,). Raises ValueError and TypeError before anything runs.
    """

    def __init__(
        self,
        process: Process,
        predicts: str,
        *,
        time: str | tuple[str, int] | None = None,
        beta: float = 5000.0,
        kind: str = "dpo",
        t_min: float | None = None,
        t_max: float | None = None,
        x_dtype: torch.dtype | None = None,
    ):
        check_process("DiffusionDPO", process)
        self.model = Denoiser(_nothing, process, predicts=predicts, time=time, x_dtype=x_dtype)
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
        if not 0 < beta < math.inf:
            raise ValueError(f"DiffusionDPO: beta must be a number > 0, got {beta!r}")
        self.process, self.beta, self.kind = process, float(beta), kind
        self.steps = self.model.time[1] if isinstance(self.model.time, tuple) else process.train_steps
        zero, end = process.t_zero, process.t_max
        near = zero if self.steps else zero + 1e-5 * (end - zero)
        self.t_min, self.t_max = (
            float(near if t_min is None else t_min),
            float(end if t_max is None else t_max),
        )
        if not zero <= self.t_min < self.t_max <= end * (1 + 1e-12):
            raise ValueError(
                f"DiffusionDPO: t_min={self.t_min:g} and t_max={self.t_max:g} must be increasing in "
                f"[{zero:g}, {end:g}]"
            )

    def __call__(
        self,
        net: Net,
        reference: Net,
        winner: Tensor,
        loser: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
    ) -> Tensor:
        h = self.margins(net, reference, winner, loser, cond=cond, seeds=seeds)
        if self.kind == "ipo":
            return (h - 1 / (2 * self.beta)).square().mean()
        if self.kind == "hinge":
            return (1 - self.beta * h).clamp(min=0).mean()
        return -torch.nn.functional.logsigmoid(self.beta * h).mean()

    def margins(
        self,
        net: Net,
        reference: Net,
        winner: Tensor,
        loser: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
    ) -> Tensor:
        """h (B,): above 0 where the network prefers the winner more than the reference does."""
        given, rng = begin("DiffusionDPO", net, winner, cond, seeds)
        if not callable(reference):
            raise TypeError(f"DiffusionDPO: reference must be callable, got {type(reference).__name__}")
        if not isinstance(loser, Tensor) or (loser.shape, loser.dtype, loser.device) != (
            winner.shape,
            winner.dtype,
            winner.device,
        ):
            came = (
                f"{tuple(loser.shape)} {loser.dtype}" if isinstance(loser, Tensor) else type(loser).__name__
            )
            raise ValueError(
                f"DiffusionDPO: loser must be like winner, {tuple(winner.shape)} {winner.dtype}, got {came}"
            )
        batch, dtype = winner.shape[0], wide(winner)
        t = uniform_times(rng, self.t_min, self.t_max, self.steps).repeat(2)
        rng, x0 = rng.repeat(2, 1), torch.cat([winner, loser])
        node = self.process.node(t)
        a, b = (
            torch.as_tensor(v, device=t.device).to(dtype).expand(2 * batch)
            for v in row(self.model.predicts, node)
        )
        scale = input_scale(self.model.predicts, node)
        stored = not x0.is_cuda  # to read the noise back is quicker on a CPU
        made = perturb(x0, (node.alpha * scale).to(dtype), (node.sigma * scale).to(dtype), rng, noise=stored)
        x_t, xi = made if stored else (made, None)
        seen: Tensor = x_t if self.model.x_dtype is None else x_t.to(self.model.x_dtype)  # type: ignore[union-attr, assignment]
        told = self.model.times_tensor(t, x0)
        both = stack([given, given], batch) if given else {}

        def errors(f: Net) -> Tensor:
            if both is not None:
                raw = self.model.take(f(seen, told, **both), seen)
            else:  # conditions that do not stack
                halves = zip(seen.chunk(2), told.chunk(2), strict=True)
                raw = torch.cat([self.model.take(f(x, s, **given), x) for x, s in halves])
            e = regression_loss(raw, x0, p=a, q=b, noise=xi, rng=None if stored else rng)
            return e[:batch] - e[batch:]

        with torch.no_grad():
            before = errors(reference)
        return -0.5 * (errors(net) - before)


def _nothing(*_: Any) -> None:
    """A Denoiser is used here for how networks are called; the network itself comes with each call."""
