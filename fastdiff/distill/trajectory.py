"""Trajectory: a network that gives a whole path of the flow in one call, taught by a solver's.

    loss = E sum_k w_k rho( F(x_T, t_1 .. t_K)_k - x_{t_k} )          x_{t_k}: the teacher's states

Source: Zheng et al. 2023, arXiv:2211.13449 (DSNO), equation 7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import unknown
from ..ops.regression_loss import RHO, regression_loss
from ..runtime.sampler import Sampler
from ..runtime.train import Net, begin, wide


class Trajectory:
    """teacher  a fd.Sampler; its plan's times but the first, every `every`-th and the last, are the path's
    every    teacher steps from one taught state to the next; divides the plan's steps
    weights  w_k, one for each taught state; default 1 / K
    rho, c   of fd.ops.regression_loss: "l1" (default), "l2", "huber", "pseudo_huber" with their c

    `loss(net, x_T, cond=None, seeds=None)`: net(x_T (B, *), t (K,), **cond) -> (B, K, *). `states(x_T)` are
    the targets (B, K, *), to be stored where a teacher is slow: `loss(..., states=stored)`.
    """

    def __init__(
        self,
        teacher: Sampler,
        *,
        every: int = 1,
        weights: Sequence[float] | None = None,
        rho: str = "l1",
        c: float | None = None,
    ):
        if not isinstance(teacher, Sampler):
            raise TypeError(f"Trajectory: teacher must be a fd.Sampler, got {type(teacher).__name__}")
        steps = teacher.plan.steps
        if type(every) is not int or every < 1 or steps % every:
            raise ValueError(f"Trajectory: every must divide the plan's {steps} steps, got {every!r}")
        if rho not in RHO:
            raise unknown("rho", rho, RHO)
        count = steps // every
        self.weights = [1 / count] * count if weights is None else [float(w) for w in weights]
        if len(self.weights) != count or not all(0 <= w < math.inf for w in self.weights):
            raise ValueError(f"Trajectory: weights must be {count} numbers >= 0, got {weights!r}")
        self.teacher, self.every, self.rho, self.c = teacher, every, rho, c
        self.times = teacher.plan.times[every::every]

    def states(self, x_T: Tensor, *, cond: Mapping[str, Any] | None = None, seeds: Any = None) -> Tensor:
        """The teacher's states (B, K, *) at `times`."""
        made = self.teacher(x_T, seeds=seeds, cond=cond, trajectory=True)
        return made.states[self.every :: self.every].transpose(0, 1)

    def __call__(
        self,
        net: Net,
        x_T: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        states: Tensor | None = None,
    ) -> Tensor:
        given, _ = begin("Trajectory", net, x_T, cond, 0)
        need = (x_T.shape[0], len(self.times), *x_T.shape[1:])
        if states is None:
            states = self.states(x_T, cond=cond, seeds=seeds)
        said = net(x_T, torch.tensor(self.times, dtype=wide(x_T), device=x_T.device), **given)
        for name, y in (("net's output", said), ("states", states)):
            if not isinstance(y, Tensor) or tuple(y.shape) != need:
                came = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
                raise ValueError(f"Trajectory: {name} must be a tensor {need}, got {came}")
        weight = torch.tensor(self.weights, dtype=wide(said), device=x_T.device).repeat(x_T.shape[0])
        how = "sum" if self.rho == "pseudo_huber" else "mean"
        flat = said.flatten(0, 1), states.flatten(0, 1).contiguous()
        each = regression_loss(
            flat[0], flat[1], p=1.0, w=weight / x_T.shape[0], rho=self.rho, c=self.c, reduction=how
        )
        return each.sum()
