"""perturb: x_t = alpha(t) x0 + sigma(t) xi for a batch, each sample at its own time.

The op of the same name with the process's coefficients; xi comes from the training stream. A linear process
gives all its registers, z_t = Phi z_0 + R xi, with a column of the training noise for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.linear import LinearProcess
from ..core.process import Process
from ..noise.seeds import resolve
from ..noise.streams import training_column_stream
from ..ops.linear_step import linear_step
from ..ops.normal import normal
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
) -> Any:
    """(x_t, noise), both like x0 (B, *); t: a number or (B,) of them in [t_zero, t_max]; consts: what the
    process pulls to, by name, where it does.

    Of a linear process ((x_t, v_t, ..), (xi_x, xi_v, ..)). Registers that the data fix besides x, as under
    conditioning="dsm", are taken from consts by their names, or drawn with their variance at t = 0.

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
    if isinstance(process, LinearProcess):
        return _registers(
            process, x0, np.broadcast_to(times, (batch,)), rng, dict(consts or {}), draw, backend
        )
    weights = [process.alpha, process.sigma]
    if process.const is not None:
        weights.append(process.offset)
    table = np.stack([np.broadcast_to(f(times), (batch,)) for f in weights], -1)
    wide = torch.float64 if x0.dtype == torch.float64 else torch.float32
    a, s, *k = torch.as_tensor(table).to(x0.device, wide).unbind(-1)
    pull = {"mu": const_of(process, consts, "perturb"), "k": k[0]} if k else {}
    return op(x0, a, s, rng, **pull, draw=draw, noise=True, backend=backend)  # type: ignore[return-value]


def _registers(
    process: LinearProcess, x0: Tensor, times: np.ndarray, rng: Tensor, given: dict[str, Tensor], draw: int,
    backend: str | None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # fmt: skip
    wide = torch.float64 if x0.dtype == torch.float64 else torch.float32
    count, data = len(process.registers), process.system.data

    def xi(column: int) -> Tensor:
        stream = training_column_stream(column)
        return normal(x0.shape, rng, draw, stream, dtype=wide, backend=backend)

    firsts = [x0]
    for k in data[1:]:
        name, spread = process.registers[k], float(process.system.start[k])
        if not isinstance(given.get(name), Tensor) and spread == 0:
            raise ValueError(f"perturb: {process!r} wants consts={{{name!r}: tensor like x0}}")
        firsts.append(given[name] if name in given else (xi(count + k) * spread**0.5).to(x0.dtype))
    each, where = np.unique(times, return_inverse=True)
    Phi = process.along(np.zeros_like(each), each).Phi[..., list(data)]
    table = np.concatenate([Phi, process.spread(each)], -1)[where]
    noise = [xi(k) for k in range(count)]
    A = torch.as_tensor(table).to(x0.device, wide).contiguous()
    made: list[Tensor] = []
    for k in range(count):  # a launch gives four outputs at most
        made += linear_step([*firsts, *noise], A[:, k : k + 1].contiguous(), dtype=x0.dtype, backend=backend)
    return tuple(made), tuple(n.to(x0.dtype) for n in noise)


def _times(t: Any) -> np.ndarray:
    values = t.tolist() if isinstance(t, Tensor) else t
    try:
        return np.array(values if values is not None else "None", dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise TypeError(f"perturb: t must be a number or one for each sample, got {type(t).__name__}") from e


Process._perturb = perturb
