"""DiffusionTS: w_x = alpha_ts sigma_t / (100 beta_t), of the absolute error of the data prediction.

alpha_ts = alpha_t / alpha_s and beta_t = sigma_t^2 - alpha_ts^2 sigma_s^2 are those of one step from s up to
t; of a variance preserving process alpha_ts^2 = 1 - beta_t.
Source: Yuan & Qiao 2024, Diffusion-TS, arXiv:2403.01742, and its published code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.process import Node
from ._weighting import Weighting

STEPS = 1000  # of a process that has none of its own


@dataclass(frozen=True)
class DiffusionTS(Weighting):
    """w_x = alpha_ts sigma_t / (100 beta_t) of a step; `steps` of them, by default the process's or 1000."""

    key = "diffusion-ts"
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise ValueError(f"weighting {self.key!r}: steps must be a whole number >= 1, got {self.steps!r}")

    def data(self, node: Node) -> Tensor:
        process = node.process
        zero, steps = process.t_zero, self.steps or process.train_steps or STEPS
        s = node.t - (process.t_max - zero) / steps
        first = s <= (process.t_max - zero) / steps * 1e-6 + zero  # from the data: beta_t = sigma_t^2
        inner = torch.where(first, node.t, s)
        lam = torch.log(node.alpha / node.sigma)
        fresh = torch.where(first, 1.0, -torch.expm1(2 * (lam - process.lam(inner))))
        alpha = torch.where(first, process.alpha(torch.full_like(s, zero)), process.alpha(inner))
        return node.alpha / (100 * alpha * node.sigma * fresh)
