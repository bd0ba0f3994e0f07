"""normal, uniform: noise that is a pure function of (seed, sample id, draw, stream, element).

    words     Philox4x32-10, four elements a block
    normal    Box-Muller with fixed polynomials
    uniform   odd multiples of 2^-24, never 0 or 1

out (B, *): sample b takes its seed, id and draw base from rng[b]; element: row-major index inside the sample.
float64 is the float32 value widened, float16 and bfloat16 are it rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _backends, _checks
from ._library import DISPATCH, Op, route


def normal(
    shape: Sequence[int],
    rng: Tensor,
    draw: int = 0,
    stream: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> Tensor:
    """Standard normals of `shape` = (B, *) on rng's device.

    rng (B, 3) int64: seed, sample id, draw base, to which draw is added; fastdiff.noise.resolve makes it.
    """
    return _fill("normal", shape, rng, draw, stream, dtype, backend)


def uniform(
    shape: Sequence[int],
    rng: Tensor,
    draw: int = 0,
    stream: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> Tensor:
    """Uniforms in (0, 1) of `shape` = (B, *) on rng's device; arguments as for `normal`.

    In float16 and bfloat16 rounding can reach 0 and 1.
    """
    return _fill("uniform", shape, rng, draw, stream, dtype, backend)


def _fill(
    family: str, shape: Any, rng: Any, draw: int, stream: int, dtype: torch.dtype, backend: str | None
) -> Tensor:
    if not isinstance(shape, (list, tuple)):
        raise TypeError(f"{family}: shape must be a list of ints, got {type(shape).__name__}")
    if route((rng,)) == DISPATCH:
        _backends.must_be_automatic(family, backend, rng)
        return _ops[family].dispatch(list(shape), rng, draw, stream, dtype)
    return _run(family, backend, shape, rng, draw, stream, dtype)


def _run(
    family: str,
    backend: str | None,
    shape: Sequence[int],
    rng: Tensor,
    draw: int,
    stream: int,
    dtype: torch.dtype,
) -> Tensor:
    _checks.fill(family, shape, rng, draw, stream, dtype)
    out = _backends.fresh(shape, dtype, rng.device)
    kernel = _backends.kernel(_backends.choose(family, backend, rng.device.type), "fill_")
    kernel(out, rng.contiguous(), draw, stream, family)
    return out


def _register(family: str) -> Op:
    def run(shape: Sequence[int], rng: Tensor, draw: int, stream: int, *, dtype: torch.dtype) -> Tensor:
        return _run(family, None, shape, rng, draw, stream, dtype)

    def fake(shape: Sequence[int], rng: Tensor, draw: int, stream: int, *, dtype: torch.dtype) -> Tensor:
        _checks.fill(family, shape, rng, draw, stream, dtype)
        return rng.new_empty(shape, dtype=dtype)

    def vmap(n: int, dims: Any, a: Any) -> Any:
        rng = a.rng.movedim(dims.rng, 0).flatten(0, 1)
        y = PUBLIC[family]((n * a.shape[0], *a.shape[1:]), rng, a.draw, a.stream, dtype=a.dtype)
        return y.unflatten(0, (n, a.shape[0])), 0

    schema = f"{family}(SymInt[] shape, Tensor rng, SymInt draw, int stream, *, ScalarType dtype) -> Tensor"
    return Op(schema, run=run, fake=fake, vmap=vmap)


PUBLIC: dict[str, Callable[..., Tensor]] = {"normal": normal, "uniform": uniform}
_ops = {family: _register(family) for family in PUBLIC}
