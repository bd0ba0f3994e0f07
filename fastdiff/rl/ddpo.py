"""DDPO: policy gradient on the steps of a sampler.

    r_k  = p(x_{k+1} | x_k) now / then             loss = mean over samples and drawn steps of
                                                          max(-A r_k, -A clip(r_k, 1 - c, 1 + c))

While the network is the one that sampled, r_k is 1 to the last bit, and the slope of the loss is minus that
of E[R] over the number of drawn steps. Steps without noise, as the last one to sigma = 0, are no decisions
and stay out. With legacy=True log-probabilities are means over the elements instead of sums, as in the
published code, whose clip of 1e-4 belongs to that.

Source: Black et al. 2023, arXiv:2305.13301, section 4.3; Schulman et al. 2017, arXiv:1707.06347 (clipping).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import unknown
from ..runtime.log_prob import log_prob_path
from ..runtime.sampler import Sampler
from .collect import Rollout

KINDS = ("ppo", "reinforce")


class DDPO:
    """clip            c; None: no clipping. "auto": 0.2, with legacy 1e-4
    advantage_clip  advantages beyond +- it are on it; None: as they are
    kind            "ppo" | "reinforce": -A log p instead of -A r, for one update from a rollout
    kl              weight of (r - 1) - log r, r = p_reference / p, an unbiased and positive estimate of the
                    KL divergence to a reference
    legacy          log-probabilities as means over elements

    `loss(sampler, rollout, advantages, reference=None)`: the sampler that gave the rollout, its network as it
    is now; advantages (B,), of fd.rl.advantages; reference (B, N): log-probabilities of the same states under
    the network to stay close to. A scalar. `ratios(sampler, rollout)` are the r_k (B, drawn steps).
    """

    def __init__(
        self,
        clip: float | None | Literal["auto"] = "auto",
        *,
        advantage_clip: float | None = 5.0,
        kind: str = "ppo",
        kl: float = 0.0,
        legacy: bool = False,
        gradient: Any = "checkpoint",
    ):
        if clip == "auto":
            clip = 1e-4 if legacy else 0.2
        for name, value in (("clip", clip), ("advantage_clip", advantage_clip)):
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise ValueError(f"DDPO: {name} must be None or a number > 0, got {value!r}")
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
        if not 0 <= kl < math.inf:
            raise ValueError(f"DDPO: kl must be a number >= 0, got {kl!r}")
        self.clip: float | None = clip  # type: ignore[assignment]
        self.advantage_clip, self.kind = advantage_clip, kind
        self.kl, self.legacy, self.gradient = float(kl), legacy, gradient

    def log_prob(self, sampler: Sampler, rollout: Rollout) -> Tensor:
        """(B, N) of the rollout's steps under the network as it is now, float64, with a graph."""
        if not isinstance(rollout, Rollout):
            raise TypeError(f"DDPO: rollout must be of fd.rl.collect, got {type(rollout).__name__}")
        found = log_prob_path(
            sampler, states=rollout.states, cond=rollout.cond, gradient=self.gradient
        ).log_prob
        if found.shape != rollout.log_prob.shape:
            came, need = tuple(found.shape), tuple(rollout.log_prob.shape)
            raise ValueError(f"DDPO: the sampler takes {came[1]} steps, the rollout has {need[1]}")
        return found

    def ratios(self, sampler: Sampler, rollout: Rollout) -> Tensor:
        return self._change(self.log_prob(sampler, rollout), rollout.log_prob, rollout).exp()

    def __call__(
        self, sampler: Sampler, rollout: Rollout, advantages: Tensor, reference: Tensor | None = None
    ) -> Tensor:
        if not isinstance(advantages, Tensor) or advantages.shape != rollout.rewards.shape:
            came = tuple(advantages.shape) if isinstance(advantages, Tensor) else type(advantages).__name__
            raise ValueError(f"DDPO: advantages must be a tensor {tuple(rollout.rewards.shape)}, got {came}")
        if (reference is None) != (self.kl == 0):
            raise ValueError("DDPO: kl and reference belong together, one of them is missing")
        now = self.log_prob(sampler, rollout)
        A = advantages.detach().to(now)[:, None]
        if self.advantage_clip is not None:
            A = A.clamp(-self.advantage_clip, self.advantage_clip)
        if self.kind == "reinforce":
            loss = -A * self._scale(now, rollout)
        else:
            r = self._change(now, rollout.log_prob, rollout).exp()
            loss = -A * r
            if self.clip is not None:
                loss = torch.maximum(loss, -A * r.clamp(1 - self.clip, 1 + self.clip))
        if reference is not None:
            off = self._change(reference.detach().to(now), now, rollout)
            loss = loss + self.kl * (torch.expm1(off) - off)
        return loss.mean()

    def _scale(self, log_prob: Tensor, rollout: Rollout) -> Tensor:
        some = log_prob[:, rollout.drawn]
        return some / rollout.x[0].numel() if self.legacy else some

    def _change(self, now: Tensor, then: Tensor, rollout: Rollout) -> Tensor:
        return self._scale(now - then, rollout)
