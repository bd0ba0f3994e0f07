"""sample: from a network to pictures in one call."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import check_options, unknown
from ..core.grid import FINALS, check_times, grids
from ..core.hook import Hook
from ..core.plan import plan as make_plan
from ..core.process import Process
from ..core.solver import Solver, solvers
from ..noise.seeds import resolve
from ..noise.streams import INITIAL
from ..ops.normal import normal
from .denoiser import Denoiser
from .sampler import GRADIENTS, Callback, Sampler, check_x
from .state import Trajectory


def grid(key: str, process: Process, *, steps: int, final: str = "zero", **options: Any) -> np.ndarray:
    """The times of a grid: float64, steps + 1 of them, strictly decreasing from t_max.

    final  "zero": the last time is the process's zero; "sigma_min" and "denoise": it is t_min ("denoise" is followed by one more
           evaluation in `fd.sample`). Raises ValueError for unknown keys and options and for steps < 1.
    """
    if not isinstance(process, Process):
        raise TypeError(f"process must be a Process (see fd.processes), got {type(process).__name__}")
    return grids.make(key, **options).times(process, steps, final)


def sample(
    denoiser: Denoiser,
    shape_or_x: Sequence[int] | Tensor,
    *,
    solver: str | Solver = "dpmpp-2m",
    steps: int = 20,
    grid: str | None = None,
    grid_options: Mapping[str, Any] | None = None,
    times: Any = None,
    final: str = "zero",
    seeds: Any = None,
    noise: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    cond: Mapping[str, Any] | None = None,
    guidance: Hook | None = None,
    hooks: Sequence[Hook] = (),
    gradient: str | None = None,
    cond_grad: bool = False,
    trajectory: bool = False,
    callback: Callback | None = None,
    progress: bool = False,
    check_finite: bool = False,
    chunk: int | None = None,
    distributed: str | None = None,
    backend: str | None = None,
    **solver_options: Any,
) -> Tensor | Trajectory:
    """Sample from a denoiser.

    shape_or_x    a shape (B, *): x_T is drawn from the process's prior by the seeds; or the tensor x at times[0]
    solver        a key of `fd.solvers.names()`; its options follow as keywords (`eta=`, `order=`, ...)
    steps, grid, grid_options, final    how the times are made (see `fd.grid`); grid=None is the process's own
    times         the times themselves, strictly decreasing float64; then steps, grid and final do not count
    seeds         int s: sample i uses (s, i); a sequence: sample i uses (seeds[i], 0); fd.Seeds; a torch.Generator; None: torch's own.
                  A sample depends on its own (seed, id) alone: not on its batch, device or memory format
    cond          keyword arguments of the network; guidance, hooks: see fastdiff.guidance
    chunk         run that many samples at a time: the same samples, less memory
    device, dtype of x_T when a shape is given (default: the network's first parameter's device, torch's default dtype)
    The rest as in `fd.Sampler.__call__`.

    Returns x at times[-1], float dtype of x_T; with trajectory=True a Trajectory(x, times, states, data).
    Raises ValueError or TypeError, before anything runs, that names the argument, what came and what is allowed.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"denoiser must be a fd.Denoiser(net, process, predicts=...), got {type(denoiser).__name__}")
    process = denoiser.process
    if noise is not None:
        raise ValueError(f"noise={noise!r}; allowed: None (independent draws)")
    if distributed is not None:
        raise ValueError(f"distributed={distributed!r}; allowed: None")
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient={gradient!r}; allowed: {', '.join(map(repr, GRADIENTS))}")
    if final not in FINALS:
        raise unknown("final", final, FINALS)
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a positive int, got {chunk!r}")
    if isinstance(solver, str):
        solver = solvers.make(solver, **solver_options)
    else:
        check_options("sample (the solver is already made)", solver_options, ())
    if times is not None:
        if grid is not None or grid_options:
            raise ValueError("give times or a grid, not both")
        times = check_times(times.detach().cpu() if isinstance(times, Tensor) else times, process)
    else:
        key = process.default_grid if grid is None else grid
        times = grids.make(key, **dict(grid_options or {})).times(process, steps, final)
        if final == "denoise":
            times = np.append(times, process.t_zero)
    plan = make_plan(solver, process, times, predicts=denoiser.predicts, guidance=guidance, hooks=hooks)
    x, rng = _start(denoiser, shape_or_x, float(times[0]), seeds, device, dtype, backend)
    sampler = Sampler(denoiser, plan, backend=backend)
    options = (cond_grad, gradient, trajectory, callback, progress, check_finite)
    batch = x.shape[0]
    if chunk is None or chunk >= batch:
        return sampler._call(x, rng, None, cond, *options)
    if callback is not None:
        raise ValueError("callback sees the whole batch: it does not go with chunk")
    parts = []
    for i in range(0, batch, chunk):
        j = min(i + chunk, batch)
        piece = {k: v[i:j] if isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == batch else v for k, v in (cond or {}).items()}
        parts.append(sampler._call(x[i:j], rng[i:j], None, piece, *options))
    if trajectory:
        return Trajectory(torch.cat([p.x for p in parts]), parts[0].times, torch.cat([p.states for p in parts], 1),
                          torch.cat([p.data for p in parts], 1))
    return torch.cat(parts)


def _start(denoiser: Denoiser, shape_or_x: Any, t: float, seeds: Any, device: Any, dtype: Any, backend: str | None) -> tuple[Tensor, Tensor]:
    """x at the first time, and the random keys of the batch."""
    if isinstance(shape_or_x, Tensor):
        x = shape_or_x
        check_x(x, "shape_or_x")
        if dtype is not None and x.dtype != dtype:
            raise ValueError(f"dtype={dtype} but x is {x.dtype}; cast x, or leave dtype out")
        if device is not None and x.device != torch.empty(0, device=device).device:
            raise ValueError(f"device={device} but x is on {x.device}; move x, or leave device out")
        return x, resolve(seeds, x.shape[0], x.device)
    try:
        shape = torch.Size(shape_or_x)
    except TypeError as e:
        raise TypeError(f"shape_or_x must be a tensor or a shape like (16, 3, 32, 32), got {shape_or_x!r}") from e
    if len(shape) < 1 or any(n < 0 for n in shape):
        raise ValueError(f"shape_or_x must be (batch, ...) without negative sizes, got {tuple(shape)}")
    if device is None:
        first = next(denoiser.net.parameters(), None) if isinstance(denoiser.net, torch.nn.Module) else None
        device = first.device if first is not None else torch.get_default_device()
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise TypeError(f"dtype must be float32, float16, bfloat16 or float64, got {dtype!r}")
    rng = resolve(seeds, shape[0], torch.device(device))
    x = normal(shape, rng, 0, INITIAL, dtype=dtype, backend=backend)
    std = denoiser.process.prior_std(t)
    return (x if std == 1 else x.mul_(std)), rng


