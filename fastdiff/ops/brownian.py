"""brownian: increments of a Brownian path on a grid of 2^depth cells, a pure function of (seed, sample id).

    W over [i, j)      by one walk down a binary tree: to the node where i and j part, then to both ends
    root               W = z_16(0)                              unit horizon: Var W = 1
    halving            W_left, W_right = W / 2 + b, W / 2 - b   b = sqrt(L) / 2 z_16(node), L its length
    H-bar = (j - i) H  the space-time Levy area times the length, normals of stream 17

Each increment is the same whoever else is asked for with it: the walk starts at its own split, so nothing
cancels, and a row of increments halves every node once. Another clock halves by other shares: its rows of
(left share, right share, deviation), the root's first, replace the table of the uniform one.
Arithmetic is float32, every product and sum rounded, then one rounding to the output's dtype.

Source: Foster, Lyons and Oberhauser 2020, arXiv:1905.08494; Li et al. 2020, arXiv:2001.01328 (virtual tree).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from . import _backends, _checks
from ._library import DERIVATIVE, DISPATCH, Op, _moves, route
from ._tree import ladder


def brownian(
    shape: Sequence[int],
    rng: Tensor,
    at: Tensor,
    depth: int = 16,
    levy: bool = False,
    coefs: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """Increments (K, B, *) of samples of `shape` = (B, *), and with `levy` their H-bar (K, B, *).

    rng    (B, 3) int64: seed, sample id; the draw base does not count. fastdiff.noise.resolve makes it
    at     (K + 1,) int64, strictly increasing in 0 .. 2^depth: boundaries for all samples, on the CPU or on
           rng's device. Or (B, 2) on rng's device: each sample's own interval, K = 1; an empty one gives 0.
           What lies on a device is not looked at here: an interval outside gives NaN
    depth  1 .. 30
    levy   another path of the same law for the same seed, with areas
    coefs  (n, 3) float32: a clock that is not uniform, on rng's device; noise._clock.coefficients makes it.
           For boundaries shared by all samples, known on the CPU (on a device where K = 1), without `levy`
    scale  (K,) or (B,) float32: what the increments are multiplied with; with `levy` (2, K) or (2, B)

    Not differentiable in anything.
    """
    if not isinstance(shape, (list, tuple)):
        raise TypeError(f"brownian: shape must be a list of ints, got {type(shape).__name__}")
    tensors = (rng, at, coefs, scale)
    way = route(tensors)
    if way == DISPATCH:
        _backends.must_be_automatic("brownian", backend, rng)
        return tuple(_op.dispatch(list(shape), rng, at, depth, levy, coefs, scale, dtype))
    if way == DERIVATIVE and any(t is not None and (t.requires_grad or _moves(t)) for t in tensors):
        _refuse()
    return tuple(_run(backend, shape, rng, at, depth, levy, coefs, scale, dtype))


def _refuse(*_: Any) -> NoReturn:
    raise ValueError(
        "brownian: not differentiable, and a derivative in coefs or scale is asked; detach them and "
        "multiply the increments by what is to be differentiated"
    )


def _run(
    backend: str | None,
    shape: Sequence[int],
    rng: Tensor,
    at: Tensor,
    depth: int,
    levy: bool,
    coefs: Tensor | None,
    scale: Tensor | None,
    dtype: torch.dtype,
) -> list[Tensor]:
    K = _checks.brownian("brownian", shape, rng, at, depth, levy, coefs, scale, dtype)
    chosen = _backends.choose("brownian", backend, rng.device.type)
    if coefs is not None:
        coefs = coefs.contiguous() if chosen == "cpu" else _own_rows(coefs, at, depth, K)
    out = [_backends.fresh((K, *shape), dtype, rng.device) for _ in range(1 + levy)]
    kernel = _backends.kernel(chosen, "brownian_")
    kernel(
        out,
        rng.contiguous(),
        at.contiguous(),
        depth,
        coefs,
        None if scale is None else scale.contiguous(),
    )
    return out


def _own_rows(coefs: Tensor, at: Tensor, depth: int, K: int) -> Tensor:
    """(n, 3) rows of a ladder -> (K, rows, 3): those of each increment alone."""
    if K == 1:
        return coefs.contiguous()[None]
    boundaries = tuple(at.tolist())
    steps = ladder(boundaries, depth)
    if coefs.shape[0] != len(steps.node) + 1:
        _checks.say(
            "brownian",
            "coefs",
            f"has {coefs.shape[0]} rows",
            f"these boundaries need {len(steps.node) + 1}, the root's and one for each halving",
        )
    return coefs[_rows(boundaries, depth, coefs.device)]


@lru_cache(maxsize=64)
def _rows(boundaries: tuple[int, ...], depth: int, device: torch.device) -> Tensor:
    own = ladder(boundaries, depth).own
    padded = np.zeros((len(own), max(map(len, own))), np.int64)
    for row, rows in zip(padded, own, strict=True):
        row[: len(rows)] = rows
    with torch.inference_mode(False):
        return torch.from_numpy(padded).to(device)


def _eager(
    shape: Sequence[int],
    rng: Tensor,
    at: Tensor,
    depth: int,
    levy: bool,
    coefs: Tensor | None,
    scale: Tensor | None,
    *,
    dtype: torch.dtype,
) -> list[Tensor]:
    return _run(None, shape, rng, at, depth, levy, coefs, scale, dtype)


def _fake(
    shape: Sequence[int],
    rng: Tensor,
    at: Tensor,
    depth: int,
    levy: bool,
    coefs: Tensor | None,
    scale: Tensor | None,
    *,
    dtype: torch.dtype,
) -> list[Tensor]:
    K = _checks.brownian("brownian", shape, rng, at, depth, levy, coefs, scale, dtype)
    return [rng.new_empty((K, *shape), dtype=dtype) for _ in range(1 + levy)]


def _vmap(n: int, dims: Any, a: Any) -> Any:
    """Mapped rng, own intervals and their scales become one long batch; shared numbers cannot be mapped."""
    own = a.at.dim() - (dims.at is not None) == 2
    for name in ("coefs",) if own else ("at", "coefs", "scale"):
        if getattr(dims, name) is not None:
            raise ValueError(f"brownian: vmap over {name}; it is shared by all samples: loop over it")

    def wide(t: Tensor, dim: int | None) -> Tensor:  # (n B, ..)
        return (t.movedim(dim, 0) if dim is not None else t.expand(n, *t.shape)).flatten(0, 1)

    B = a.shape[0]
    at, scale = a.at, a.scale
    if own:
        at = wide(at, dims.at)
        if scale is not None:  # (B,) or (2, B)
            scale = scale.movedim(dims.scale, 0) if dims.scale is not None else scale.expand(n, *scale.shape)
            scale = scale.movedim(0, -2).flatten(-2)
    shape = (n * B, *a.shape[1:])
    y = brownian(shape, wide(a.rng, dims.rng), at, a.depth, a.levy, a.coefs, scale, dtype=a.dtype)
    return [v.unflatten(1, (n, B)) for v in y], [1] * len(y)


_op = Op(
    "brownian(SymInt[] shape, Tensor rng, Tensor at, int depth, bool levy, Tensor? coefs, Tensor? scale, *, "
    "ScalarType dtype) -> Tensor[]",
    run=_eager,
    fake=_fake,
    refuse=_refuse,
    vmap=_vmap,
)
