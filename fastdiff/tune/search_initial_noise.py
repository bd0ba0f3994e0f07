"""One x_T for all inputs: the candidate from which a deterministic sampler serves a reference set best.

Source: Ma et al. 2023, arXiv:2305.15357.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..noise.seeds import resolve
from ..noise.streams import INITIAL
from ..ops.normal import normal
from ..runtime.denoiser import Denoiser
from ..runtime.sample import sample


class Found(NamedTuple):
    """x (1, *): the best start. scores (K,): the mean distance of each candidate."""

    x: Tensor
    scores: Tensor


def search_initial_noise(
    denoiser: Denoiser,
    targets: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    candidates: int = 1000,
    metric: Callable[[Tensor, Tensor], Tensor] | None = None,
    seeds: Any = 0,
    chunk: int = 16,
    **options: Any,
) -> Found:
    """Try `candidates` starts on every reference pair.

    targets  (R, *): what the samples should be
    cond     the network's keyword arguments, per-sample tensors of R rows
    metric   distance(samples, targets) -> (R,); default: the mean square of the difference
    seeds    candidate k is sample k of these seeds
    chunk    candidates run together
    options  of `fd.sample` (solver, steps, ...)

    Costs candidates * R samples. Raises ValueError for fewer than 1 candidate.
    """
    if candidates < 1 or chunk < 1:
        raise ValueError(
            f"search_initial_noise: candidates={candidates}, chunk={chunk}; at least 1 is allowed"
        )
    if targets.dim() < 1 or targets.shape[0] < 1:
        raise ValueError(
            f"search_initial_noise: targets is {tuple(targets.shape)}; at least 1 row is allowed"
        )
    many, shape = targets.shape[0], targets.shape[1:]
    rng = resolve(seeds, candidates, targets.device)
    std = denoiser.process.prior_std(float(denoiser.process.t_max))
    scores = []

    def start(first: int, last: int) -> Tensor:
        return normal((last - first, *shape), rng[first:last], 0, INITIAL, dtype=targets.dtype) * std

    def spread(v: Any, k: int) -> Any:
        if isinstance(v, Mapping):
            return {name: spread(w, k) for name, w in v.items()}
        per_sample = isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == many
        return torch.cat([v] * k) if per_sample else v

    for first in range(0, candidates, chunk):
        last = min(first + chunk, candidates)
        k = last - first
        x = start(first, last).repeat_interleave(many, 0)
        made = sample(denoiser, x, cond=spread(dict(cond or {}), k), seeds=seeds, **options)
        assert isinstance(made, Tensor)
        wanted = torch.cat([targets] * k)
        away = metric(made, wanted) if metric else (made - wanted).float().square().flatten(1).mean(1)
        scores.append(away.reshape(k, many).mean(1))
    found = torch.cat(scores)
    best = int(found.argmin())
    return Found(start(best, best + 1), found)
