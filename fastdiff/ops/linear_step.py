"""linear_step: the one kernel of every plan.

    y_j = sum_i A[.., j, i] T_i + sum_c A[.., j, n_in + c] xi_c        xi_c ~ N(0, I), shared by the outputs j

Each product and each sum is rounded (float32; float64 where a tensor or the output is float64), inputs in
order, then noise columns, no fused multiply-add; then one rounding to the output's dtype. A zero coefficient
contributes +0 whatever stands behind it. xi_c is Philox4x32-10 keyed by (seed, sample id, draw, stream,
element): the same bits in every batch, on every backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import _backends, _checks, _linear_step
from ._library import DISPATCH, EAGER, Derivative, Op, forward_mode, route

_bump = torch.autograd.graph.increment_version
_RESERVED = {
    "scale": ("a tensor on the noise", None),
    "mask": ("a blend", None),
    "keep": ("the other side of a blend", None),
    "family": ("another law of the noise", "normal"),
    "epilogue": ("a map of the outputs", "none"),
}
_ARGUMENTS = (
    "Tensor[] T, Tensor A, Tensor? index=None, Tensor? rng=None, SymInt[] draws=[], int[] streams=[], *, "
    "ScalarType? dtype=None, Tensor? scale=None, Tensor? mask=None, Tensor? keep=None, "
    'str family="normal", str epilogue="none"'
)


def linear_step(
    T: Sequence[Tensor],
    A: Tensor,
    *,
    index: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    out: Sequence[Tensor] | None = None,
    backend: str | None = None,
    scale: Tensor | None = None,
    mask: Tensor | None = None,
    keep: Tensor | None = None,
    family: str = "normal",
    epilogue: str = "none",
) -> tuple[Tensor, ...]:
    """One fused pass: every output is a linear combination of the same tensors and of regenerated noise.

        y_j = sum_i A[.., j, i] T_i + sum_c A[.., j, n_in + c] xi_c

    T        1 .. 12 tensors (B, *), any strides; (1, *) is a constant of all samples
             float32, float16, bfloat16 or float64, also mixed
    A        (n_out, n_in + n_noise)       1 .. 4 outputs, one table for all samples
             (B, n_out, n_in + n_noise)    one for each sample
             (G, n_out, n_in + n_noise)    with index: element e of sample b uses A[index[b, e // (E / K)]]
             float32, or float64 where the arithmetic is
    index    (B or 1, K) int32, K divides E, the elements of one sample
    rng      (B, 3) int64: seed, sample id, draw base; fastdiff.noise.resolve makes it
    draws    one int for each of 0 .. 4 noise columns, added to the draw base; streams likewise (0 .. 255)
    dtype    of the outputs; T[0]'s by default
    out      n_out contiguous tensors (B, *) to write into; may be some of T
    backend  None chooses by device; "cpu", "cuda", "triton", "reference" run or raise, all with the same bits
    returns  n_out tensors (B, *), contiguous

    scale, mask, keep, family and epilogue are reserved. Differentiable in T and A, any number of times and in
    both modes: backward is this op with A transposed, the noise is made again and never stored. With `out` a
    derivative is refused. What else is wrong raises TypeError or ValueError that names the argument.
    """
    if scale is not None or mask is not None or keep is not None or family != "normal" or epilogue != "none":
        _refuse_reserved("linear_step", scale=scale, mask=mask, keep=keep, family=family, epilogue=epilogue)
    if not isinstance(T, (list, tuple)):
        raise TypeError(f"linear_step: T must be a list of tensors, got {type(T).__name__}")
    way = route((A, index, rng, *T) if out is None else (A, index, rng, *T, *out))
    if way == EAGER:
        return tuple(_kernel(T, A, index, rng, draws, streams, dtype, out=out, backend=backend))
    if out is not None:
        linear_step_(
            T, A, out, index=index, rng=rng, draws=draws, streams=streams, dtype=dtype, backend=backend
        )
        return tuple(out)
    rest = (index, rng, draws, streams, dtype, None, None, None, "normal", "none")
    if way == DISPATCH:
        _backends.must_be_automatic("linear_step", backend, A)
        return tuple(_op.dispatch(list(T), A, *rest))
    run = _kernel if backend is None else partial(_kernel, backend=backend)
    try:
        return _op.differentiable(run, T, A, *rest, moves=forward_mode())
    except Exception:
        # the rules look at the arguments before the kernel does: let the checks speak first
        _checks.linear_step("linear_step", T, A, index, rng, draws, streams, dtype)
        raise


def linear_step_(
    T: Sequence[Tensor],
    A: Tensor,
    out: Sequence[Tensor],
    *,
    index: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> None:
    """`linear_step` into `out`, which may hold some of T. Raises where a derivative is asked."""
    if not isinstance(T, (list, tuple)) or not isinstance(out, (list, tuple)):
        kinds = f"{type(T).__name__} and {type(out).__name__}"
        raise TypeError(f"linear_step_: T and out must be lists of tensors, got {kinds}")
    way = route((A, index, rng, *T, *out))
    if way == EAGER:
        _kernel(T, A, index, rng, draws, streams, dtype, out=out, backend=backend)
    elif way == DISPATCH:
        _backends.must_be_automatic("linear_step_", backend, A)
        _op_.dispatch(
            list(T), A, index, rng, draws, streams, dtype, None, None, None, "normal", "none", list(out)
        )
    else:
        _refuse_derivative()


def _refuse_reserved(call: str, **given: Any) -> None:
    for name, value in given.items():
        what, default = _RESERVED[name]
        if isinstance(value, Tensor) or value != default:
            raise ValueError(f"{call}: `{name}` ({what}) is reserved and not built yet; leave it out")


def _refuse_derivative(*_: Any) -> None:
    raise ValueError(
        "linear_step_: `out` cannot carry a derivative and one is asked of its arguments; "
        "call linear_step without out, or this under torch.no_grad()"
    )


def _kernel(
    T: Sequence[Tensor],
    A: Tensor,
    index: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    *reserved: Any,
    out: Sequence[Tensor] | None = None,
    backend: str | None = None,
    **options: Any,
) -> Sequence[Tensor]:
    """The compiled kernels check everything themselves, so they are tried first. What they refuse is put into
    the form they take (contiguous, A in the arithmetic's dtype), or refused with the words of `_checks`."""
    if options:
        _refuse_reserved("linear_step", **options)
    try:
        kernel = _backends.compiled(backend, A, "linear_step_")
        if kernel is not None and (out is None or dtype is None):
            results = _fresh(T[0], A.shape[-2], dtype) if out is None else out
            kernel(T, A, index, rng, draws, streams, results)
            return results if out is None else _written(out)
    except Exception:
        real = _checks.in_memory(T) if isinstance(T, (list, tuple)) else None
        if real is not None:
            return _kernel(real, A, index, rng, draws, streams, dtype, out=out, backend=backend)
    L = _checks.linear_step("linear_step", T, A, index, rng, draws, streams, dtype, out)
    kernel = _backends.kernel(_backends.choose("linear_step", backend, A.device.type), "linear_step_")
    if out is None:
        out = [_backends.fresh((L.batch, *L.shape), L.dtype, A.device) for _ in range(L.n_out)]
    kernel(
        [t.contiguous() for t in T],
        (A.double() if L.double else A).contiguous(),
        None if index is None else index.contiguous(),
        rng.contiguous() if rng is not None and len(draws) else None,
        draws,
        streams,
        out,
    )
    return _written(out)


def _fresh(x: Tensor, n: int, dtype: torch.dtype | None) -> list[Tensor]:
    if x.nbytes >= _backends.WARM and x.is_contiguous():
        return [_backends.fresh(x.shape, dtype or x.dtype, x.device) for _ in range(n)]
    if dtype is None:  # a keyword costs torch 0.2 us
        return [torch.empty_like(x) for _ in range(n)]
    return [torch.empty_like(x, dtype=dtype) for _ in range(n)]


def _written(out: Sequence[Tensor]) -> Sequence[Tensor]:
    """Autograd cannot see the write. Told of it, a graph that saved one of these tensors refuses backward."""
    try:
        _bump(out)
    except RuntimeError:  # inference tensors have no version
        _bump([o for o in out if not o.is_inference()])
    return out


def _kernel_(*args: Any, **options: Any) -> None:
    _kernel(*args, **options)


def _fake(
    T: Sequence[Tensor],
    A: Tensor,
    index: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
    *,
    dtype: torch.dtype | None = None,
    out: Sequence[Tensor] | None = None,
    **reserved: Any,
) -> list[Tensor]:
    _refuse_reserved("linear_step", **reserved)
    L = _checks.linear_step("linear_step", T, A, index, rng, draws, streams, dtype, out)
    return [T[0].new_empty((L.batch, *L.shape), dtype=L.dtype) for _ in range(L.n_out)]


def _fake_(*args: Any, **options: Any) -> None:
    _fake(*args, **options)


_op = Op(
    f"linear_step({_ARGUMENTS}) -> Tensor[]",
    run=_kernel,
    fake=_fake,
    vmap=partial(_linear_step.vmap, linear_step),
    derivative=Derivative(
        _linear_step.keep, partial(_linear_step.backward, linear_step), partial(_linear_step.jvp, linear_step)
    ),
)
_op_ = Op(
    f"linear_step_({_ARGUMENTS}, Tensor(a!)[] out) -> ()",
    run=_kernel_,
    fake=_fake_,
    refuse=_refuse_derivative,
    vmap=_linear_step.vmap_,
)
