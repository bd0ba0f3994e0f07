"""error_norm: how large the error of a step is against what is allowed, for each sample.

    e = sum_i C[.., i] E_i      q = e / max(atol, rtol max(|a|, |b|))      out = sqrt(mean q^2) or max |q|

e and q are rounded as a linear step is (float32; float64 where a tensor is float64). q^2 and its sums are
float64, in a binary tree over the sample's elements whose shape depends on their number alone: the same bits
in every batch, on every backend, thread count and instruction set. No error is none even where none is
allowed (0 / 0 counts as 0); a NaN anywhere in a sample makes its norm NaN. A zero coefficient reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _backends, _checks
from ._library import DERIVATIVE, DISPATCH, Op, route

CHUNK = 1024  # elements of a sample that are joined at a time


def error_norm(
    E: Sequence[Tensor],
    a: Tensor,
    b: Tensor | None = None,
    *,
    atol: float,
    rtol: float,
    C: Tensor | None = None,
    norm: str = "rms",
    backend: str | None = None,
) -> Tensor:
    """The norm of sum_i C_i E_i over max(atol, rtol max(|a|, |b|)), for each sample: (B,) float32.

    E           1 .. 12 tensors (B, *), float32, float16, bfloat16 or float64, also mixed
    a, b        tensors like them; b may be left out
    atol, rtol  finite, at least 0
    C           (n,) or (B, n), float32, or float64 where a tensor is; ones by default
    norm        "rms" or "max"
    backend     None chooses by device; a backend asked for by name runs or raises

    It has no derivative. Raises TypeError or ValueError that names the argument.
    """
    if not isinstance(E, (list, tuple)):
        raise TypeError(f"error_norm: E must be a list of tensors, got {type(E).__name__}")
    way = route((C, a, b, *E))
    if way == DISPATCH:
        _backends.must_be_automatic("error_norm", backend, a)
        return _op.dispatch(list(E), a, b, atol, rtol, C, norm)
    if way == DERIVATIVE:
        _refuse_derivative()
    return _run(E, a, b, atol, rtol, C, norm, backend=backend)


def _run(
    E: Sequence[Tensor],
    a: Tensor,
    b: Tensor | None,
    atol: float,
    rtol: float,
    C: Tensor | None = None,
    norm: str = "rms",
    *,
    backend: str | None = None,
) -> Tensor:
    double = _checks.error_norm(E, a, b, atol, rtol, C, norm)
    dtype = torch.float64 if double else torch.float32
    C = torch.ones(len(E), dtype=dtype, device=a.device) if C is None else C.to(dtype)
    n = _checks.product(a.shape[1:])
    work = torch.empty((a.shape[0], max(1, -(-n // CHUNK))), dtype=torch.float64, device=a.device)
    out = torch.empty(a.shape[0], dtype=torch.float32, device=a.device)
    kernel = _backends.kernel(_backends.choose("error_norm", backend, a.device.type), "error_norm_")
    a = a.contiguous()
    b = a if b is None else b.contiguous()
    kernel([t.contiguous() for t in E], C.contiguous(), a, b, atol, rtol, norm, work, out)
    return out


def _fake(
    E: Sequence[Tensor],
    a: Tensor,
    b: Tensor | None,
    atol: float,
    rtol: float,
    C: Tensor | None = None,
    norm: str = "rms",
) -> Tensor:
    _checks.error_norm(E, a, b, atol, rtol, C, norm)
    return a.new_empty((a.shape[0],), dtype=torch.float32)


def _refuse_derivative(*_: Any) -> None:
    raise ValueError("error_norm: it has no derivative and one is asked; call it under torch.no_grad()")


def _vmap(n: int, dims: Any, a: Any) -> Any:
    """n calls on B samples are one call on n B samples."""

    def samples(t: Tensor, d: int | None) -> Tensor:
        return (t.expand(n, *t.shape) if d is None else t.movedim(d, 0)).flatten(0, 1)

    E = [samples(t, d) for t, d in zip(a.E, dims.E, strict=True)]
    C = a.C
    if C is not None:  # one row for each sample
        C = C.expand(n, *C.shape) if dims.C is None else C.movedim(dims.C, 0)
        C = C if C.dim() == 3 else C[:, None].expand(n, E[0].shape[0] // n, C.shape[-1])
        C = C.flatten(0, 1)
    b = None if a.b is None else samples(a.b, dims.b)
    y = error_norm(E, samples(a.a, dims.a), b, atol=a.atol, rtol=a.rtol, C=C, norm=a.norm)
    return y.unflatten(0, (n, -1)), 0


_op = Op(
    "error_norm(Tensor[] E, Tensor a, Tensor? b, float atol, float rtol, Tensor? C=None, str norm='rms')"
    " -> Tensor",
    run=_run,
    fake=_fake,
    refuse=_refuse_derivative,
    vmap=_vmap,
)
