"""Steps with arguments of their own: Karras' churn, and tokens that stand at noise levels of their own.

    churn    x_hat = x + sqrt(s_hat^2 - s^2) s_noise xi        s_hat = (1 + gamma) s
             x_t   = x_hat + (t - s_hat) (x_hat - x0) / s_hat

The network has seen x at s, not x_hat at s_hat: an epsilon or a raw EDM output is converted at s_hat and a v
at s, as diffusers does.

    tokens   x_t = x + (u - v) out,        u the token's own level, v the next one of the schedule below it

The sign is diffusers' (its pipelines hand over the negative of the output).

Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...noise.seeds import resolve
from ...ops.linear_step import linear_step
from .configs import PEERS
from .legs import Legs
from .output import FastSchedulerOutput

CHURNED = ("EulerDiscreteScheduler", "EDMEulerScheduler")
TOKENS = ("FlowMatchEulerDiscreteScheduler",)
Row = tuple[float, ...]


class Churning:
    peer: str
    config: Any
    seeds: Any
    noise: str | None
    _legs: Legs | None
    _offset: int
    _step_index: int | None
    _plan_schedule: Any
    _enter: Any
    _normal: Any

    def _own(self, name: str, peers: tuple[str, ...]) -> None:
        if self.config.solver is not None or self.peer not in peers:
            what = f"solver={self.config.solver!r}" if self.config.solver else self.peer
            raise ValueError(f"step: {name} is for {' and '.join(peers)}, and this is {what}")

    def _churned(
        self, timestep: Any, settings: Any, churn: float, low: float, high: float, s_noise: float
    ) -> tuple[Row, Row] | None:
        """Weights of sample, output and draw in the next sample and in x0; None where this level gets no
        churn."""
        self._own("s_churn", CHURNED)
        if isinstance(timestep, Tensor) and timestep.numel() != 1:
            raise ValueError(
                f"step: with s_churn all samples are at one timestep, got {tuple(timestep.shape)}"
            )
        if not (math.isfinite(churn) and churn > 0 and math.isfinite(s_noise)):
            raise ValueError(
                f"step: s_churn must be 0 or more and s_noise finite, got {churn!r} and {s_noise!r}"
            )
        index, schedule = self._enter(timestep, settings), self._plan_schedule
        legs, s, t = self._legs, float(schedule.times[index]), float(schedule.ends[index])
        gamma = min(churn / len(schedule.ends), 2**0.5 - 1) if low <= s <= high else 0.0
        if gamma == 0:
            return None
        assert legs is not None
        hat = s * (1 + gamma)
        a, b = legs.units.x0(schedule.process.node(s if schedule.predicts == "velocity" else hat))
        more, far = s_noise * (hat * hat - s * s) ** 0.5, (t - hat) / hat
        kept = 1 + far - far * a
        return (kept, -far * b, kept * more), (a, b, a * more)

    def _step_churned(
        self,
        weights: tuple[Row, Row],
        output: Tensor,
        timestep: Any,
        sample: Tensor,
        settings: Any,
        generator: Any,
        seeds: Any,
        given: Tensor | None,
        return_dict: bool,
    ) -> Any:
        _alike(output, sample)
        index = self._enter(timestep, settings)
        dtype = output.dtype if PEERS[self.peer].cast else sample.dtype
        wide = torch.float64 if torch.float64 in (sample.dtype, output.dtype) else torch.float32
        A = self._legs.table(weights, wide, sample.device)  # type: ignore[union-attr]
        T, options = self._noised([sample, output], index, generator, seeds, given)
        result, x0 = linear_step(T, A, dtype=dtype, **options)
        self._step_index = index + 1
        if not return_dict:
            return result, x0
        return FastSchedulerOutput(result, lambda jump: x0, ("pred_original_sample",))

    def _step_tokens(
        self,
        levels: Tensor,
        output: Tensor,
        timestep: Any,
        sample: Tensor,
        settings: Any,
        generator: Any,
        seeds: Any,
        given: Tensor | None,
        return_dict: bool,
    ) -> Any:
        self._own("per_token_timesteps", TOKENS)
        if not isinstance(levels, Tensor) or sample.dim() != 3 or levels.shape != sample.shape[:2]:
            came = tuple(levels.shape) if isinstance(levels, Tensor) else type(levels).__name__
            raise ValueError(
                "step: per_token_timesteps must be (B, tokens) for a sample (B, tokens, channels), got "
                f"{came} for {tuple(sample.shape)}"
            )
        _alike(output, sample)
        index, schedule = self._enter(timestep, settings), self._plan_schedule
        wide = torch.float64 if torch.float64 in (sample.dtype, output.dtype) else torch.float32
        known = self._sigmas_of(schedule, wide, sample.device)
        u = levels.to(sample.device, wide) / schedule.train_steps
        v = torch.where(known < u[..., None] - 1e-6, known, 0.0).amax(-1)
        T, options, dtype = [sample, output], {}, wide
        if self.config.stochastic_sampling:
            T, options = self._noised(T, index, generator, seeds, given)
            row = torch.stack([1 - v, (v - 1) * u, v], -1)
        else:
            row = torch.stack([torch.ones_like(u), u - v], -1)
        each = torch.arange(u.numel(), dtype=torch.int32, device=sample.device).view(u.shape)
        result = linear_step(T, row.flatten(0, 1)[:, None], index=each, dtype=dtype, **options)[0]
        self._step_index = index + 1
        return FastSchedulerOutput(result, lambda jump: result) if return_dict else (result,)

    def _sigmas_of(self, schedule: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
        assert self._legs is not None
        own = schedule.sigmas if self.config.grid is None and schedule.sigmas is not None else schedule.times
        row = tuple(float(v) for v in own)
        return self._legs.table((row,), dtype, device)[0]

    def _noised(
        self, T: list[Tensor], index: int, generator: Any, seeds: Any, given: Tensor | None
    ) -> tuple[list[Tensor], dict[str, Any]]:
        """T with a draw behind it, or what makes linear_step draw."""
        seeds = self.seeds if seeds is None else seeds
        if sum(v is not None for v in (generator, seeds, given)) > 1:
            raise ValueError("step: give one of generator, seeds and variance_noise")
        if self.noise == "path":
            raise ValueError("step: noise='path' has no increments for s_churn or tokens; leave it out")
        if seeds is not None:
            rng = resolve(seeds, T[0].shape[0], T[0].device)
            return T, {"rng": rng, "draws": [index], "streams": [0]}
        return [*T, self._normal(T[1], generator) if given is None else given], {}


def _alike(output: Tensor, sample: Tensor) -> None:
    came, want = tuple(output.shape), tuple(sample.shape)
    if came != want:
        raise ValueError(f"step: model_output has shape {came}, the sample {want}; they must agree")
