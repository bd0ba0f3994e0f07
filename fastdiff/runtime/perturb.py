"""perturb: x_t = alpha(t) x0 + sigma(t) xi for a batch, each sample at its own time.

One linear_step with per-sample coefficients; xi comes from the training stream and is made again, not read.
"""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.process import Process
from ..noise.seeds import resolve
from ..noise.streams import TRAINING
from ..ops.linear_step import linear_step
from ..ops.normal import normal


def perturb(process: Process, x0: Tensor, t: Any, *, seeds: Any = None, draw: int = 0, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """(x_t, noise), both like x0 (B, *). t: a number or (B,) of them in [t_zero, t_max]. Differentiable in x0.

    Raises TypeError for x0 that is no floating point tensor, ValueError for t of another length or outside the process.
    """
    if not isinstance(x0, Tensor) or not x0.is_floating_point() or x0.dim() < 1:
        raise TypeError(f"perturb: x0 must be a floating point tensor (B, *), got {type(x0).__name__}")
    batch = x0.shape[0]
    times = np.asarray(t.detach().cpu().double() if isinstance(t, Tensor) else t, dtype=np.float64)
    if times.shape not in ((), (batch,)):
        raise ValueError(f"perturb: t has shape {times.shape}; need one number or ({batch},)")
    if times.size and not ((times >= process.t_zero) & (times <= process.t_max * (1 + 1e-12))).all():
        raise ValueError(f"perturb: t must lie in [{process.t_zero:g}, {process.t_max:g}], got {times.min():g} .. {times.max():g}")
    rng = resolve(seeds, batch, x0.device)
    columns = np.stack([np.broadcast_to(process.alpha(times), (batch,)), np.broadcast_to(process.sigma(times), (batch,))], -1)
    A = torch.as_tensor(columns).to(x0.device, torch.float64 if x0.dtype == torch.float64 else torch.float32)[:, None, :]
    (x_t,) = linear_step([x0], A.contiguous(), rng=rng, draws=[draw], streams=[TRAINING], backend=backend)
    return x_t, normal(x0.shape, rng, draw, TRAINING, dtype=x0.dtype, backend=backend)


Process._perturb = perturb
