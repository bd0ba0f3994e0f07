"""What a training step needs before its loss: checked arguments, times, what a network says of the data, x_T.

Everything is formed on the data's device from float64 coefficients; nothing here waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.predict import convert, input_scale
from ..core.process import Node, Process
from ..noise.seeds import resolve
from ..noise.streams import INITIAL, TIMES
from ..ops.linear_step import linear_step
from ..ops.normal import normal, uniform
from .checks import check_x
from .denoiser import Denoiser
from .sampler import Sampler

Net = Callable[..., Any]


def begin(what: str, net: Any, x0: Any, cond: Any, seeds: Any) -> tuple[dict[str, Any], Tensor]:
    """(cond, rng) of a loss's arguments, or TypeError and ValueError that name what is wrong."""
    if not callable(net):
        raise TypeError(f"{what}: net must be callable as net(x, t, **cond), got {type(net).__name__}")
    check_x(x0, f"{what}: x0")
    if x0.shape[0] == 0 or x0.numel() == 0:
        raise ValueError(f"{what}: x0 of shape {tuple(x0.shape)} holds no samples")
    if cond is not None and not (isinstance(cond, Mapping) and all(isinstance(k, str) for k in cond)):
        raise TypeError(
            f"{what}: cond must be a dict of the network's keyword arguments, got {type(cond).__name__}"
        )
    return dict(cond or {}), resolve(seeds, x0.shape[0], x0.device)


def wide(x: Tensor) -> torch.dtype:
    """The arithmetic of a tensor's losses."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_process(what: str, process: Any) -> Process:
    """A Gaussian path that pulls towards nothing."""
    if not isinstance(process, Process):
        raise TypeError(f"{what}: process must be a Process (see fd.processes), got {type(process).__name__}")
    if process.const is not None:
        raise ValueError(
            f"{what}: {process!r} pulls to {process.const!r}; processes that pull nowhere are allowed"
        )
    return process


def uniform_times(rng: Tensor, low: float, high: float, steps: int | None = None) -> Tensor:
    """One time for each sample, float64 (B,), uniform in [low, high]; with `steps` among n / steps."""
    u = uniform((rng.shape[0],), rng, 0, TIMES, dtype=torch.float64)
    t = low + (high - low) * u
    return t if steps is None else (t * steps).ceil().clamp(min=1) / steps


def table(columns: Sequence[Any], like: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, n): a row of coefficients for each sample; `like` (B,) says how many."""
    full = [c if isinstance(c, Tensor) else torch.full_like(like, float(c)) for c in columns]
    return torch.stack([c.to(dtype) for c in full], -1)[:, None]


def combined(tensors: Sequence[Tensor], columns: Sequence[Any], like: Tensor) -> Tensor:
    """sum_i columns_i tensors_i in one pass, of the first one's dtype."""
    double = any(t.dtype == torch.float64 for t in tensors)
    A = table(columns, like, torch.float64 if double else torch.float32)
    return linear_step(list(tensors), A, dtype=tensors[0].dtype)[0]


def asked(model: Denoiser, net: Net, x: Tensor, node: Node, cond: Mapping[str, Any]) -> Tensor:
    """What `net`, called as the Denoiser says, gives at the nodes of the samples."""
    scale = input_scale(model.predicts, node)
    seen = x if isinstance(scale, int) else combined([x], [scale], node.t)  # type: ignore[list-item]
    seen = seen if model.x_dtype is None else seen.to(model.x_dtype)
    return model.take(net(seen, model.times_tensor(node.t, x), **cond), seen)


def data_prediction(
    model: Denoiser, x: Tensor, t: Tensor, cond: Mapping[str, Any], net: Net | None = None
) -> Tensor:
    """The data prediction at times t (B,) float64, like x; differentiable. net: another than the model's."""
    node = model.process.node(t)
    raw = asked(model, net or model.net, x, node, cond)
    p, q = convert(model.predicts, "data", node, check=False)
    return combined([x, raw], [p, q], t)


def start(sampler: Sampler, shape: Sequence[int], rng: Tensor, dtype: torch.dtype) -> Tensor:
    """x_T of a sampler's plan, drawn from the process's prior as `fd.sample` draws it."""
    x = normal(shape, rng, 0, INITIAL, dtype=dtype)
    std = sampler.denoiser.process.prior_std(float(sampler.plan.times[0]))
    return x if std == 1 else x.mul_(std)
