"""collect: samples with every state on the way, how likely each step was, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..noise.seeds import resolve
from ..runtime.log_prob import log_prob_path
from ..runtime.sampler import Sampler
from ..runtime.train import start


@dataclass(frozen=True)
class Rollout:
    """A batch of trajectories, without graphs.

    states    (N + 1, B, *): x_T first, the sample last
    log_prob  (B, N) float64, of each step under the network that took it
    drawn     (N,) bool: the steps that drew noise. The others are no decisions
    rewards   (B,) float64
    cond      the network's keyword arguments
    """

    states: Tensor
    log_prob: Tensor
    drawn: Tensor
    rewards: Tensor
    cond: Mapping[str, Any] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        """The samples."""
        return self.states[-1]

    def rows(self, index: Tensor) -> Rollout:
        """Some of the samples, by their numbers (n,): a minibatch."""
        if not isinstance(index, Tensor) or index.dim() != 1 or index.dtype not in (torch.int64, torch.int32):
            came = (
                f"{tuple(index.shape)} {index.dtype}" if isinstance(index, Tensor) else type(index).__name__
            )
            raise TypeError(f"Rollout.rows: index must be a tensor (n,) of integers, got {came}")
        batch = len(self.rewards)

        def pick(v: Any) -> Any:
            if isinstance(v, Mapping):
                return {k: pick(w) for k, w in v.items()}
            return v[index] if isinstance(v, Tensor) and v.dim() and v.shape[0] == batch else v

        return Rollout(
            self.states[:, index], self.log_prob[index], self.drawn, self.rewards[index], pick(self.cond)
        )


def collect(
    sampler: Sampler,
    shape_or_x: Sequence[int] | Tensor,
    reward: Callable[[Tensor], Any],
    *,
    seeds: Any = None,
    cond: Mapping[str, Any] | None = None,
    consts: Mapping[str, Tensor] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Rollout:
    """Sample by a stochastic plan and ask what the samples are worth.

    sampler     a fd.Sampler of a stochastic solver: "ddpm", "ddim" with eta, "euler-a", "em", ...
    shape_or_x  a shape (B, *): x_T from the prior by the seeds; or x_T
    reward      callable(x (B, *)) -> (B,) numbers, of any kind: no gradient is asked of it

    The samples are those of sampler(x_T, seeds=seeds), to rounding. Raises ValueError and TypeError before
    anything runs, and where the reward does not give one number for each sample.
    """
    if not isinstance(sampler, Sampler):
        raise TypeError(f"collect: sampler must be a fd.Sampler, got {type(sampler).__name__}")
    if not callable(reward):
        raise TypeError(f"collect: reward must be callable as reward(x), got {type(reward).__name__}")
    if isinstance(shape_or_x, Tensor):
        x = shape_or_x
    else:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        where = torch.get_default_device() if device is None else torch.device(device)
        x = start(sampler, shape_or_x, resolve(seeds, shape_or_x[0], where), dtype)
    path = log_prob_path(sampler, x, seeds=seeds, cond=cond, consts=consts)
    with torch.no_grad():
        worth = torch.as_tensor(reward(path.states[-1]), dtype=torch.float64, device=x.device)
    if worth.shape != (x.shape[0],):
        raise ValueError(f"collect: reward must give ({x.shape[0]},) numbers, got shape {tuple(worth.shape)}")
    drawn = path.log_prob.ne(0).any(0)  # a density is never 1 in all samples at once
    return Rollout(path.states, path.log_prob, drawn, worth, dict(cond or {}))
