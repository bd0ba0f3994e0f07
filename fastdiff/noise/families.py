"""Random tensors by seeds: each sample depends on its own (seed, id) alone.

The default stream is the user's. Stream 0 is the solvers' own: a draw from it would repeat the noise of a
sampler with the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import ops
from . import streams
from .seeds import SeedsLike, resolve


def normal(
    shape: Sequence[int],
    seeds: SeedsLike,
    *,
    stream: int = streams.USER,
    draw: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Standard normals of `shape` = (B, *). seeds: see Seeds; stream 0 .. 255, the user's 32 .. 95."""
    return _draw(ops.normal, "normal", shape, seeds, stream, draw, dtype, device, backend)


def uniform(
    shape: Sequence[int],
    seeds: SeedsLike,
    *,
    stream: int = streams.USER,
    draw: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Uniforms in (0, 1), odd multiples of 2^-24, of `shape` = (B, *); arguments as for `normal`."""
    return _draw(ops.uniform, "uniform", shape, seeds, stream, draw, dtype, device, backend)


def _draw(
    op: Callable[..., Tensor],
    call: str,
    shape: Sequence[int],
    seeds: SeedsLike,
    stream: int,
    draw: int,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    backend: str | None,
) -> Tensor:
    if not isinstance(shape, (list, tuple)) or len(shape) < 1:
        raise ValueError(
            f"noise.{call}: shape is {shape!r}; (B, *) is allowed, the first dimension counts the samples"
        )
    if not 0 <= draw < 2**32:
        raise ValueError(f"noise.{call}: draw is {draw}; 0 .. 2^32 - 1 is allowed")
    if device is None:
        device = torch.empty(0).device  # the default device, in a form that torch.compile reads
    rng = resolve(seeds, shape[0], device)
    return op(
        shape, rng, draw, stream, dtype=torch.get_default_dtype() if dtype is None else dtype, backend=backend
    )
