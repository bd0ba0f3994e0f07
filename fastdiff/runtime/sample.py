"""sample: from a network to pictures in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.adaptive import Adaptive
from ..core.errors import check_options, unknown
from ..core.grid import FINALS, check_times, grids
from ..core.hook import Hook
from ..core.linear import LinearProcess
from ..core.plan import plan as make_plan
from ..core.process import Process
from ..core.solver import Solver, solvers
from ..noise.seeds import resolve
from ..noise.streams import INITIAL
from ..ops.linear_step import linear_step
from ..ops.normal import normal
from .adaptive import AdaptiveSampler
from .checks import check_run, check_x, eagerly
from .conditions import rows
from .denoiser import DTYPES, Denoiser
from .distributed import agreed, check_distributed, share
from .gradients import mode_of
from .noise import check_noise
from .run import Callback
from .sampler import Sampler
from .state import Trajectory

STEPS = 20


def grid(key: str, process: Process, *, steps: int, final: str = "zero", **options: Any) -> np.ndarray:
    """The times of a grid: float64, steps + 1 of them, strictly decreasing from t_max.

    final  "zero": the last time is the process's zero; "sigma_min" and "denoise": it is t_min ("denoise" is
           followed by one more evaluation in `fd.sample`)

    Raises ValueError for unknown keys and options and for steps < 1.
    """
    if not isinstance(process, Process):
        raise TypeError(f"process must be a Process (see fd.processes), got {type(process).__name__}")
    return grids.make(key, **options).times(process, steps, final)


def sample(
    denoiser: Denoiser,
    shape_or_x: Sequence[int] | Tensor,
    *,
    solver: str | Solver = "dpmpp-2m",
    steps: int = STEPS,
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
    gradient: Any = None,
    every: int | None = None,
    memory: int | None = None,
    cond_grad: bool = False,
    consts: Mapping[str, Tensor] | None = None,
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

    shape_or_x    a shape (B, *): x_T is drawn from the process's prior by the seeds; or x at times[0]
    solver        a key of `fd.solvers.names()`; its options follow as keywords (`eta=`, `order=`, ...)
    steps, grid, grid_options, final    how the times are made (see `fd.grid`); grid=None is the process's own
    times         the times themselves, strictly decreasing float64; then steps, grid and final do not count.
                  An adaptive solver takes where to start and where to end; it chooses the steps by its
                  options rtol and atol, for each sample its own
    seeds         int s: sample i uses (s, i); a sequence: sample i uses (seeds[i], 0); fd.Seeds; a
                  torch.Generator; None: torch's own. A sample depends on its own (seed, id) alone: not on its
                  batch, device or memory format
    cond          keyword arguments of the network (a tensor whose first size is the batch is per sample);
                  guidance, hooks: see fastdiff.guidance
    consts        tensors like x that the process or the solver wants, by name (`mu` of MeanReverting); the
                  other registers of a linear process (`v` of CLD and PSLD) at times[0], which are drawn from
                  its prior where a shape is given and they are not
    chunk         run that many samples at a time: the same samples, less memory
    distributed   "batch": this rank of torch.distributed's group runs its slice of the batch and returns it;
                  `fd.gather` puts the slices together, equal bit for bit to what one process gives
    noise         None: independent draws; "path": increments of one Brownian path per sample; or a callable
    device, dtype    of x_T where a shape is given (default: the device of the network's first parameter,
                  torch's default dtype)

    The rest as in `fd.Sampler.__call__`.

    Returns x at times[-1], float dtype of x_T; with trajectory=True a Trajectory(x, times, states, data,
    registers), where the other registers of a linear process are to be had.
    Raises ValueError or TypeError, before anything runs: the argument, what came, what is allowed.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"denoiser must be a fd.Denoiser(net, process, predicts=...), got {type(denoiser).__name__}"
        )
    check_noise(noise)
    check_distributed(distributed)
    if final not in FINALS:
        raise unknown("final", final, FINALS)
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a positive int, got {chunk!r}")
    if chunk is not None and callback is not None:
        raise ValueError("callback sees the whole batch: it does not go with chunk")
    if guidance is not None and not isinstance(guidance, Hook):
        raise TypeError(f"guidance must be a Hook such as fd.guidance.CFG, got {type(guidance).__name__}")
    if not isinstance(hooks, (list, tuple)):
        raise TypeError(f"hooks must be a list of Hooks, got {type(hooks).__name__}")
    mode = mode_of(gradient, every, memory)
    how = times, steps, grid, grid_options, final
    sampler = eagerly(_sampler, denoiser, solver, solver_options, how, guidance, hooks, backend)
    course = sampler.plan if isinstance(sampler, Sampler) else sampler
    check_run(course, cond, gradient, callback)
    for name, value in (("chunk", chunk), ("distributed", distributed)):
        if value is not None and any(c.kind == "population" for c in course.calls):
            raise ValueError(
                f"{name} does not go with a hook that looks across samples (the population point)"
            )
        if value is not None and callable(noise):
            raise ValueError(f"a noise callable is asked for the whole batch: it does not go with {name}")
    make, batch, device = _start(denoiser, shape_or_x, course.times[0], device, dtype, backend)
    first, last = 0, batch
    if distributed is not None:
        seeds = agreed(seeds)
        first, last = share(batch)
    rng = resolve(seeds, batch, device)
    options = (cond_grad, mode, trajectory, callback, progress, check_finite, noise)
    if consts is not None and not isinstance(consts, Mapping):
        raise TypeError(f"consts must be a dict of tensors by name, got {type(consts).__name__}")
    chunk = max(1, last - first) if chunk is None else chunk
    if (first, last) == (0, batch) and chunk >= batch:
        x, consts = make(slice(None), rng, consts)
        return sampler._call(x, rng, None, cond, *options, consts)
    parts = []
    for i in range(first, max(last, first + 1), chunk):
        part = i, min(i + chunk, last), batch
        piece = slice(*part[:2])
        keys = rng[piece]
        given, held = (rows(v or {}, *part) for v in (cond, consts))
        x, held = make(piece, keys, held)
        parts.append(sampler._call(x, keys, None, given, *options, held, part=part))
    if trajectory:
        return Trajectory(
            torch.cat([p.x for p in parts]),
            parts[0].times,
            torch.cat([p.states for p in parts], 1),
            torch.cat([p.data for p in parts], 1),
            {name: torch.cat([p.registers[name] for p in parts], 1) for name in parts[0].registers},
        )
    return torch.cat(parts)


def _sampler(
    denoiser: Denoiser,
    solver: str | Solver,
    solver_options: Mapping[str, Any],
    how: tuple[Any, ...],
    guidance: Hook | None,
    hooks: Sequence[Hook],
    backend: str | None,
) -> Sampler | AdaptiveSampler:
    process = denoiser.process
    if isinstance(solver, Solver):
        check_options("sample (the solver is already made)", solver_options, ())
    else:
        solver = solvers.make(solver, **solver_options)
    if isinstance(solver, Adaptive) and solver.adaptive:
        ends, final = _ends(solver, process, *how), how[-1]
        every = (guidance, *hooks) if guidance is not None else hooks
        return AdaptiveSampler(denoiser, solver, ends, final=final, hooks=every, backend=backend)
    times = _times(process, *how)
    plan = make_plan(solver, process, times, predicts=denoiser.predicts, guidance=guidance, hooks=hooks)
    return Sampler(denoiser, plan, backend=backend)


def _ends(
    solver: Solver, process: Process, times: Any, steps: Any, grid: Any, options: Any, final: str
) -> Any:
    """Start and end of an adaptive run; None: the process's own."""
    if grid is not None or options or steps != STEPS:
        raise ValueError(
            f"{solver.key} chooses its steps: steps, grid and grid_options do not go with it "
            "(max_steps bounds it)"
        )
    return None if times is None else check_times(times, process)


def _times(process: Process, times: Any, steps: Any, grid: Any, grid_options: Any, final: str) -> np.ndarray:
    if times is not None:
        if grid is not None or grid_options:
            raise ValueError("give times or a grid, not both")
        return check_times(times.tolist() if isinstance(times, Tensor) else times, process)
    if grid_options is not None and not isinstance(grid_options, Mapping):
        raise TypeError(f"grid_options must be a dict, got {type(grid_options).__name__}")
    made = grids.make(process.default_grid if grid is None else grid, **dict(grid_options or {}))
    points = made.times(process, steps, final)
    return np.append(points, process.t_zero) if final == "denoise" else points


def _start(
    denoiser: Denoiser, shape_or_x: Any, start: float, device: Any, dtype: Any, backend: str | None
) -> tuple[Callable[[slice, Tensor, Any], tuple[Tensor, Any]], int, torch.device]:
    """What gives x and consts at the first time (of some samples, by their random keys), the batch, and the
    device."""
    process, start = denoiser.process, float(start)
    if isinstance(shape_or_x, Tensor):
        x = shape_or_x
        check_x(x, "shape_or_x")
        if dtype is not None and x.dtype != dtype:
            raise ValueError(f"dtype={dtype} but x is {x.dtype}; cast x, or leave dtype out")
        if device is not None and x.device != _device(device):
            raise ValueError(f"device={device} but x is on {x.device}; move x, or leave device out")

        def take(piece: slice, _: Tensor, consts: Any) -> tuple[Tensor, Any]:
            return x[piece] if piece != slice(None) else x, consts

        return take, x.shape[0], x.device
    shape = _shape(shape_or_x)
    if device is None:
        first = next(denoiser.net.parameters(), None) if isinstance(denoiser.net, torch.nn.Module) else None
        device = first.device if first is not None else torch.get_default_device()
    device = _device(device)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be float32, float16, bfloat16 or float64, got {dtype!r}")

    if isinstance(process, LinearProcess):
        root = eagerly(process.prior_root)

        def registers(_: slice, rng: Tensor, consts: Any) -> tuple[Tensor, Any]:
            x, *others = _prior(root, (rng.shape[0], *shape[1:]), rng, dtype, backend)
            return x, {**dict(zip(process.registers[1:], others, strict=True)), **(consts or {})}

        return registers, shape[0], device
    std = eagerly(process.prior_std, start)

    def draw(_: slice, rng: Tensor, consts: Any) -> tuple[Tensor, Any]:
        x = normal((rng.shape[0], *shape[1:]), rng, 0, INITIAL, dtype=dtype, backend=backend)
        x = x if std == 1 else x.mul_(std)
        c = None if process.const is None else (consts or {}).get(process.const)
        if not isinstance(c, Tensor) or c.device != x.device or c.shape[1:] != x.shape[1:]:
            return x, consts  # what is missing or wrong is said when the run starts
        if c.shape[:1] not in ((1,), x.shape[:1]):
            return x, consts
        return x + float(process.offset(start)) * c.to(x.dtype), consts

    return draw, shape[0], device


def _prior(root: np.ndarray, shape: Any, rng: Tensor, dtype: torch.dtype, backend: Any) -> list[Tensor]:
    """All registers of a linear process: root xi, draw k of the initial stream for column k."""

    def xi(k: int, dtype: torch.dtype) -> Tensor:
        return normal(shape, rng, k, INITIAL, dtype=dtype, backend=backend)

    made, wide = [], torch.float64 if dtype == torch.float64 else torch.float32
    for k, row in enumerate(root.tolist()):
        if not any(row[:k]):
            made.append(xi(k, dtype).mul_(row[k]) if row[k] != 1 else xi(k, dtype))
        else:
            A = torch.tensor([row[: k + 1]], dtype=wide, device=rng.device)
            some = [xi(j, wide) for j in range(k + 1)]
            made += linear_step(some, A, dtype=dtype, backend=backend)
    return made


def _shape(given: Any) -> torch.Size:
    if not isinstance(given, (list, tuple)) or any(isinstance(n, bool) for n in given):
        raise TypeError(f"shape_or_x must be a tensor or a shape like (16, 3, 32, 32), got {given!r}")
    try:
        shape = torch.Size(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise TypeError(f"shape_or_x must be a tensor or a shape like (16, 3, 32, 32), got {given!r}") from e
    if len(shape) < 1 or any(n < 0 for n in shape):
        raise ValueError(f"shape_or_x must be (batch, ...) without negative sizes, got {tuple(shape)}")
    if prod(shape) >= 2**60:
        raise ValueError(f"shape_or_x has more elements than a tensor can hold: {tuple(shape)}")
    return shape


def _device(device: Any) -> torch.device:
    """The device, or the error that says why it cannot hold samples."""
    try:
        found = torch.empty(0, device=device).device
    except TypeError as e:
        raise TypeError(f"device must be a torch.device or its name, got {device!r}") from e
    except (RuntimeError, AssertionError) as e:
        raise ValueError(f"device={device!r} is not available: {str(e).splitlines()[0]}") from e
    if found.type == "meta":
        raise ValueError("device='meta' has no numbers to sample")
    return found
