"""log_prob_path: how likely each step of a stochastic sampler was, under the network as it is now.

The mean of a step is computed without its noise, and the noise is added to it. A rollout and its evaluation later therefore compare the same two tensors in the same arithmetic: while
the network gives the same bits their log-probabilities are equal bit for bit, and a ratio of them is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..core.densities import GaussianStep, gaussian_steps
from ..core.hook import Hook
from ..core.plan import Plan, plan
from ..noise.seeds import resolve
from .checks import check_consts, check_run, check_x
from .conditions import detached
from .context import Context
from .run import Run
from .sampler import Sampler


class LogProb(NamedTuple):
    """log_prob (B, N) float64: of each step, 0 for those that draw nothing; states (N+1, B, *)."""

    log_prob: Tensor
    states: Tensor


class _Between(Hook):
    """Takes the noise out of a step and adds it, or another end, to the mean."""

    adjoint = "stop"  # states are what was sampled, no function of the parameters

    def plan_key(self) -> Any:
        return _Between

    def noise(self, ctx: Context, xi: Tensor) -> Tensor:
        ctx.registers.setdefault("draws", []).append(xi)
        return torch.zeros_like(xi)

    def state(self, ctx: Context, x: Tensor) -> Tensor:
        held = ctx.registers
        i, mean = len(held["log"]), x
        step: GaussianStep = held["steps"][i]
        draws, held["draws"] = held.get("draws", []), []
        if held["states"] is not None:
            x = held["states"][i + 1]
        else:
            for scale, xi in zip(step.scales, draws, strict=True):
                x = x.detach() + scale * xi.to(x.dtype)
        if step.std:
            w, c = step.log_weights(mean[0].numel() if len(mean) else 0)
            off = (x.detach().double() - mean.double()).flatten(1)
            held["log"].append(w * (off * off).sum(1) + c)
        else:
            held["log"].append(mean.new_zeros(len(mean), dtype=torch.float64))
        held["ends"].append(x.detach())
        return x.detach()


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _prepared(sampler: Sampler) -> tuple[Sampler, tuple[GaussianStep, ...]]:
    found = _known.get(sampler)
    if found is None:
        made: Plan = sampler.plan
        if made.recipe is None:
            raise ValueError("log_prob_path: a loaded plan has no formula; compile it with fd.plan(...)")
        if not made.stochastic:
            raise ValueError(f"log_prob_path: {made.solver} draws no noise, so its steps have no density")
        r = made.recipe
        between = plan(r.solver, r.process, made.times, predicts=r.predicts, hooks=[*made.hooks, _Between()])
        inner = Sampler(sampler.denoiser, between, backend=sampler.backend)
        found = _known[sampler] = inner, gaussian_steps(between, len(made.hooks))
    return found


def log_prob_path(
    sampler: Sampler,
    x: Tensor | None = None,
    *,
    states: Tensor | None = None,
    seeds: Any = None,
    cond: Mapping[str, Any] | None = None,
    consts: Mapping[str, Tensor] | None = None,
    gradient: str | None = None,
    cond_grad: bool = False,
    noise: Any = None,
) -> LogProb:
    """The log-probability of every step, given the states before it.

    x         sample from x (B, *) by `seeds`: the states are those of sampler(x, seeds=seeds, ...), to rounding
    states    or: evaluate these (N+1, B, *), as a LogProb or a Trajectory has them
    gradient  None, "full" or "checkpoint": of the log-probabilities to the network's parameters (and cond,
    with
              cond_grad). The states are constants

    In float32 or float64. A step that draws nothing, as the last one to sigma = 0, has no density: 0 there.
    Raises ValueError for plans without noise, and those of which a step is no Gaussian given the states
    before it (churn, restarts, stages after a draw).
    """
    if (x is None) == (states is None):
        raise ValueError("log_prob_path: give x to sample from, or states to evaluate, and not both")
    if gradient not in (None, "full", "checkpoint"):
        raise ValueError(f"log_prob_path: gradient={gradient!r}; allowed: None, 'full', 'checkpoint'")
    if not isinstance(sampler, Sampler):
        raise TypeError(f"log_prob_path: sampler must be a fd.Sampler, got {type(sampler).__name__}")
    inner, steps = _prepared(sampler)
    if states is not None:
        check_x(states, "states")
        if states.dim() < 2 or states.shape[0] != len(steps) + 1:
            need = f"({len(steps) + 1}, B, ...)"
            raise ValueError(f"log_prob_path: states has shape {tuple(states.shape)}, need {need}")
    start = states[0] if states is not None else x
    check_x(start)
    assert start is not None
    if start.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"log_prob_path: states must be float32 or float64, got {start.dtype}")
    check_run(inner.plan, cond, gradient, None)
    start = start.detach().contiguous()
    executor = inner._executor(inner.plan, start)
    rng = resolve(0 if states is not None else seeds, start.shape[0], start.device)
    given = dict(cond or {}) if cond_grad or gradient is None else detached(cond or {})
    mine = len(inner.plan.hooks) - 1
    with torch.set_grad_enabled(gradient is not None and torch.is_grad_enabled()):
        registers = {0: start, **check_consts(inner.plan, consts, start)}
        run = Run(executor, registers, rng, given, gradient, cond_grad, noise=noise, kept=True)
        assert run.ctx is not None
        held: dict[str, Any] = {"steps": steps, "states": states, "log": [], "ends": [start]}
        run.ctx.memory[mine] = held
        run.go(0, len(inner.plan.stages))
    return LogProb(torch.stack(held["log"], 1), torch.stack(held["ends"]))
