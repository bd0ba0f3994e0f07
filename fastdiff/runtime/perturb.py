"""perturb: x_t = alpha(t) x0 + sigma(t) xi for a batch, each sample at its own time.

The op of the same name with the process's coefficients; xi comes from the training stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.process import Process
from ..noise.seeds import resolve
from ..ops.perturb import perturb as op
from .checks import check_x
from .denoiser import const_of


def perturb(
    process: Process,
    x0: Tensor,
    t: Any,
    *,
    seeds: Any = None,
    consts: Mapping[str, Tensor] | None = None,
    draw: int = 0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """(x_t, noise), both like x0 (B, *); t: a number or (B,) of them in [t_zero, t_max]; consts: what the
    process pulls to, by name, where it does.

    Differentiable in x0. Raises TypeError for x0 that is no dense floating point tensor or t that is no
    numbers, ValueError for t of another length or outside the process.
    """
    if not isinstance(x0, Tensor) or x0.dim() < 1:
        came = "a tensor of no axes" if isinstance(x0, Tensor) else type(x0).__name__
        raise TypeError(f"perturb: x0 must be a tensor (B, *), got {came}")
    check_x(x0, "perturb: x0")
    batch, times = x0.shape[0], _times(t)
    if times.shape not in ((), (batch,)):
        raise ValueError(f"perturb: t has shape {times.shape}; need one number or ({batch},)")
    low, high = process.t_zero, process.t_max
    if times.size and not ((times >= low) & (times <= high * (1 + 1e-12))).all():
        raise ValueError(
            f"perturb: t must lie in [{low:g}, {high:g}], got {times.min():g} .. {times.max():g}"
        )
    rng = resolve(seeds, batch, x0.device)
    weights = [process.alpha, process.sigma]
    if process.const is not None:
        weights.append(process.offset)
    table = np.stack([np.broadcast_to(f(times), (batch,)) for f in weights], -1)
    wide = torch.float64 if x0.dtype == torch.float64 else torch.float32
    a, s, *k = torch.as_tensor(table).to(x0.device, wide).unbind(-1)
    pull = {"mu": const_of(process, consts, "perturb"), "k": k[0]} if k else {}
    return op(x0, a, s, rng, **pull, draw=draw, noise=True, backend=backend)  # type: ignore[return-value]


def _times(t: Any) -> np.ndarray:
    values = t.tolist() if isinstance(t, Tensor) else t
    try:
        return np.array(values if values is not None else "None", dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise TypeError(f"perturb: t must be a number or one for each sample, got {type(t).__name__}") from e


Process._perturb = perturb
