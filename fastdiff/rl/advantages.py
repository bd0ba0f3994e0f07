"""advantages: rewards about their mean, in their deviation; of the batch, of groups, or of each prompt's
past.

    A = (R - mean) / (std + 1e-6)

Sources: Black et al. 2023, arXiv:2305.13301, section 4 (per prompt); Shao et al. 2024, arXiv:2402.03300
(groups: GRPO).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

FLOOR = 1e-6  # of a deviation: all rewards of a prompt may be equal


def advantages(rewards: Tensor, groups: Tensor | None = None, *, scaled: bool = True) -> Tensor:
    """(B,) float64; groups (B,) integers: each group by its own mean and deviation. scaled=False: the mean is
    taken off, nothing more."""
    r = _rewards("advantages", rewards)
    if groups is None:
        groups = torch.zeros(len(r), dtype=torch.int64, device=r.device)
    elif not isinstance(groups, Tensor) or groups.shape != r.shape or groups.dtype.is_floating_point:
        raise TypeError(f"advantages: groups must be a tensor {tuple(r.shape)} of integers, got {groups!r}")
    _, which, count = groups.unique(return_inverse=True, return_counts=True)
    mean = r.new_zeros(len(count)).index_add(0, which, r) / count
    off = r - mean[which]
    if not scaled:
        return off
    var = r.new_zeros(len(count)).index_add(0, which, off * off) / count
    return off / (var.sqrt()[which] + FLOOR)


class PromptStatistics:
    """Advantages by the last `size` rewards of each prompt; before `least` of them are known, by the batch.

    `statistics(prompts, rewards)` -> (B,) float64; prompts: one hashable for each sample.
    """

    def __init__(self, size: int = 32, least: int = 16):
        if type(size) is not int or type(least) is not int or not 1 <= least <= size:
            raise ValueError(f"PromptStatistics: need 1 <= least <= size, got {least!r}, {size!r}")
        self.size, self.least = size, least
        self.seen: dict[Hashable, deque[float]] = {}

    def __call__(self, prompts: Sequence[Hashable], rewards: Tensor) -> Tensor:
        r = _rewards("PromptStatistics", rewards)
        if len(prompts) != len(r):
            raise ValueError(f"PromptStatistics: got {len(prompts)} prompts for {len(r)} rewards")
        for prompt, value in zip(prompts, r.tolist(), strict=True):
            self.seen.setdefault(prompt, deque(maxlen=self.size)).append(value)
        known = {p: torch.tensor(self.seen[p], dtype=torch.float64) for p in dict.fromkeys(prompts)}
        whole = r.mean(), r.std(correction=0)
        found = [
            (v.mean(), v.std(correction=0)) if len(v) >= self.least else whole
            for v in (known[p] for p in prompts)
        ]
        mean, std = (torch.stack([f[i].to(r.device) for f in found]) for i in (0, 1))
        return (r - mean) / (std + FLOOR)


def _rewards(what: str, rewards: Tensor) -> Tensor:
    if not isinstance(rewards, Tensor) or rewards.dim() != 1 or not len(rewards):
        came = tuple(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
        raise TypeError(f"{what}: rewards must be a tensor (B,), got {came}")
    return rewards.detach().double()
