"""dots: many products of rows, each summed over a sample, in one pass over the tensors.

    u = R (T_0, .., T_k, 1, xi_0, ..)      dot  out[b, p] = sum_e u_i u_j      l1  out[b, p] = sum_e |u_i u_j|

for up to 16 pairs p = (i, j). Without R the vectors are the tensors, the constant 1 and the noise columns
themselves. Rows are rounded as a linear step is (float32; float64 where a tensor is), products and sums are
float64: a binary tree over the sample's elements whose shape depends on their number alone, so the same bits
in every batch, on every backend, thread count and instruction set. `dots_` adds weighted sums to a running
total.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _backends, _checks, _plain
from . import _checks_sums as checks
from ._library import DISPATCH, EAGER, Derivative, Op, forward_mode, route
from .linear_step import linear_step
from .normal import normal

_ARGUMENTS = (
    "Tensor[] T, int[] pairs, bool[] sizes, Tensor? R=None, Tensor? rng=None, SymInt[] draws=[], "
    "int[] streams=[]"
)


def dots(
    T: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    *,
    kinds: str | Sequence[str] = "dot",
    rows: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
    backend: str | None = None,
) -> Tensor:
    """Sums over each sample of products of two vectors: (B, P) float32, float64 where a tensor is.

    T        1 .. 8 tensors (B, *), float32, float16, bfloat16 or float64, also mixed; (1, *) is a constant
    pairs    1 .. 16 pairs (i, j) of vectors: T in order, the constant 1, noise columns; or of rows
    kinds    "dot", "l1" (of the size of the product), or one for each pair
    rows     (r, n) or (B, r, n), 1 .. 8 linear combinations of the n vectors, in the arithmetic's dtype
    rng      (B, 3) int64: seed, sample id, draw base; fastdiff.noise.resolve makes it
    draws    one int for each of 0 .. 4 noise columns, added to the draw base; streams likewise

    Differentiable in T and rows, any number of times and in both modes. Raises TypeError or ValueError that
    names the argument.
    """
    args = _arguments("dots", T, pairs, kinds, rows, rng, draws, streams)
    way = route((rows, rng, *T))
    if way == EAGER:
        return _run(*args, backend=backend)[0]
    if way == DISPATCH:
        _backends.must_be_automatic("dots", backend, T[0])
        return _op.dispatch(*args)[0]
    checked(*args)
    return _op.differentiable(lambda *a: _run(*a, backend=backend), *args, moves=forward_mode())[0]


def dots_(
    total: Tensor,
    weights: Tensor,
    T: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    *,
    kinds: str | Sequence[str] = "dot",
    rows: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
    backend: str | None = None,
) -> None:
    """total[b] += sum_p weights[.., p] dots[b, p], pair after pair in float64, nothing rounded in between.

    total (B,) and weights (P,) or (B, P) are float64. Raises where a derivative is asked.
    """
    args = _arguments("dots_", T, pairs, kinds, rows, rng, draws, streams)
    way = route((total, weights, rows, rng, *T))
    if way == EAGER:
        _run_(total, weights, *args, backend=backend)
    elif way == DISPATCH:
        _backends.must_be_automatic("dots_", backend, T[0])
        _op_.dispatch(total, weights, *args)
    else:
        _refuse_derivative()


def _arguments(call: str, T: Any, pairs: Any, kinds: Any, R: Any, rng: Any, draws: Any, streams: Any) -> Any:
    checks.list_of_tensors(call, T, checks.MAX_TERMS, 1)
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs
    ):
        raise TypeError(f"{call}: pairs must be a list of pairs of ints, got {pairs!r}")
    if not 1 <= len(pairs) <= checks.MAX_PAIRS:
        _checks.say(call, "pairs", f"has {len(pairs)}", f"1 .. {checks.MAX_PAIRS}")
    names = [kinds] * len(pairs) if isinstance(kinds, str) else list(kinds)
    if len(names) != len(pairs) or not set(names) <= {"dot", "l1"}:
        _checks.say(
            call, "kinds", f"is {kinds!r}", f"'dot', 'l1', or one of these for each of {len(pairs)} pairs"
        )
    for i in (i for p in pairs for i in p):
        if isinstance(i, bool) or not hasattr(i, "__index__"):
            raise TypeError(f"{call}: pairs must be of ints, got {i!r}")
    flat = [int(i) for p in pairs for i in p]
    return list(T), flat, [k == "l1" for k in names], R, rng, list(draws), list(streams)


def checked(
    T: Sequence[Tensor],
    pairs: Sequence[int],
    sizes: Sequence[bool],
    R: Tensor | None,
    rng: Tensor | None,
    draws: Sequence[int],
    streams: Sequence[int],
) -> tuple[int, torch.dtype]:
    """All that dots require; batch and arithmetic."""
    call = "dots"
    batch = next((t.shape[0] for t in T if t.shape[0] != 1), 1)
    for i, t in enumerate(T):
        checks.state(call, f"T[{i}]", t, T[0], True, batch)
    dtype = _plain.arithmetic(T)
    checks.noise(call, rng, draws, streams, batch, T[0])
    n = len(T) + 1 + len(draws)
    vectors = n
    if R is not None:
        vectors = R.shape[-2] if isinstance(R, Tensor) and R.dim() >= 2 else 0
        checks.table(call, "rows", R, ((vectors, n), (batch, vectors, n)), T[0], dtype)
        if not 1 <= vectors <= checks.MAX_ROWS:
            _checks.say(call, "rows", f"has {vectors}", f"1 .. {checks.MAX_ROWS}")
    if not 0 <= min(pairs) <= max(pairs) < vectors:
        _checks.say(
            call, "pairs", f"names {min(pairs)} .. {max(pairs)}", f"there are vectors 0 .. {vectors - 1}"
        )
    return batch, dtype


def _call(total: Any, weights: Any, out: Any, work: Tensor, args: Any, backend: str | None) -> None:
    T, pairs, sizes, R, rng, draws, streams = args
    kernel = _backends.kernel(_backends.choose("dots", backend, T[0].device.type), "dots_")
    triples = list(zip(pairs[::2], pairs[1::2], sizes, strict=True))
    kernel(
        [t.contiguous() for t in T],
        None if R is None else R.contiguous(),
        triples,
        rng.contiguous() if draws else None,
        draws,
        streams,
        work,
        out,
        total,
        weights,
    )


def _run(
    T: Sequence[Tensor],
    pairs: Sequence[int],
    sizes: Sequence[bool],
    R: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
    *,
    backend: str | None = None,
) -> list[Tensor]:
    args = (T, pairs, sizes, R, rng, draws, streams)
    batch, dtype = checked(*args)
    out = torch.empty((batch, len(sizes)), dtype=dtype, device=T[0].device)
    _call(None, None, out, checks.work(T[0], batch, len(sizes)), args, backend)
    return [out]


def _check_total(total: Tensor, weights: Tensor, args: Any) -> int:
    batch, _ = checked(*args)
    n = len(args[2])
    checks.table("dots_", "total", total, ((batch,),), args[0][0], torch.float64)
    checks.table("dots_", "weights", weights, ((n,), (batch, n)), args[0][0], torch.float64)
    return batch


def _run_(
    total: Tensor,
    weights: Tensor,
    T: Sequence[Tensor],
    pairs: Sequence[int],
    sizes: Sequence[bool],
    R: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
    *,
    backend: str | None = None,
) -> None:
    args = (T, pairs, sizes, R, rng, draws, streams)
    batch = _check_total(total, weights, args)
    if not total.is_contiguous():
        _checks.say("dots_", "total", f"has strides {total.stride()}", "contiguous memory")
    _call(total, weights.contiguous(), None, checks.work(T[0], batch, len(sizes)), args, backend)
    torch.autograd.graph.increment_version([total] if not total.is_inference() else [])


def _fake(
    T: Sequence[Tensor],
    pairs: Sequence[int],
    sizes: Sequence[bool],
    R: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
) -> list[Tensor]:
    batch, dtype = checked(T, pairs, sizes, R, rng, draws, streams)
    return [T[0].new_empty((batch, len(sizes)), dtype=dtype)]


def _fake_(
    total: Tensor,
    weights: Tensor,
    T: Sequence[Tensor],
    pairs: Sequence[int],
    sizes: Sequence[bool],
    R: Tensor | None = None,
    rng: Tensor | None = None,
    draws: Sequence[int] = (),
    streams: Sequence[int] = (),
) -> None:
    _check_total(total, weights, (T, pairs, sizes, R, rng, draws, streams))


def _refuse_derivative(*_: Any) -> None:
    raise ValueError(
        "dots_: `total` cannot carry a derivative and one is asked of its arguments; call dots, or this "
        "under torch.no_grad()"
    )


# ---- derivatives


def _vectors(a: Any) -> list[Tensor]:
    """The tensors, 1 and the noise, each (B or 1, E)."""
    dtype = _plain.arithmetic(a.T)
    x = [_plain.rows(t, dtype) for t in a.T]
    x.append(torch.ones_like(x[0][:1]))
    for d, s in zip(a.draws, a.streams, strict=True):
        x.append(normal((a.rng.shape[0], x[0].shape[1]), a.rng, d, s, dtype=dtype))
    return x


def formula(a: Any) -> Tensor:
    u = _vectors(a)
    if a.R is not None:
        R = a.R if a.R.dim() == 3 else a.R[None]
        u = [
            sum((R[:, k, i, None] * x for i, x in enumerate(u[1:], 1)), R[:, k, 0, None] * u[0])
            for k in range(R.shape[1])
        ]
    batch = next((t.shape[0] for t in a.T if t.shape[0] != 1), 1)
    sums = []
    for i, j, size in zip(a.pairs[::2], a.pairs[1::2], a.sizes, strict=True):
        p = u[i].double() * u[j].double()
        sums.append((p.abs() if size else p).sum(1).expand(batch))
    return torch.stack(sums, 1)


def _keep(a: Any, wanted: Any) -> tuple[Any, Any]:
    return a, None


def _backward(a: Any, notes: Any, wanted: Any, grads: Sequence[Tensor | None]) -> dict[str, Any]:
    """By linear steps, a coefficient for each sample; what is no dot, and rows, by autograd."""
    g = grads[0]
    if g is None:
        return {}
    if any(a.sizes) or wanted.R or torch.is_grad_enabled():
        return _plain.vjp(_op, formula, a, wanted, g)
    dtype, n = _plain.arithmetic(a.T), len(a.T) + 1 + len(a.draws)
    r = n if a.R is None else a.R.shape[-2]
    S = torch.zeros(g.shape[0], r, r, dtype=torch.float64, device=g.device)
    for p, (i, j) in enumerate(zip(a.pairs[::2], a.pairs[1::2], strict=True)):
        S[:, i, j] += g[:, p]
        S[:, j, i] += g[:, p]
    if a.R is not None:
        R = a.R.double()
        S = R.mT @ S @ R
    one = len(a.T)
    with_one = a.R is not None or one in a.pairs
    columns = [k for k in range(n) if k != one or with_one]
    T = [*a.T, torch.ones_like(a.T[0][:1])] if with_one else a.T
    found: list[Any] = [None] * len(a.T)
    for k, t in enumerate(a.T):
        if wanted.T[k]:
            summed = t.shape[0] == 1 and g.shape[0] != 1
            A = S[:, k : k + 1, columns].to(dtype).contiguous()
            noise = {"rng": a.rng, "draws": a.draws, "streams": a.streams} if a.draws else {}
            (y,) = linear_step(T, A, dtype=dtype if summed else t.dtype, **noise)
            found[k] = y.sum(0, keepdim=True, dtype=torch.float64).to(t.dtype) if summed else y
    return {"T": found}


def _jvp(a: Any, tangents: Any) -> list[Tensor]:
    return [_plain.jvp(_op, formula, a, tangents).to(_plain.arithmetic(a.T))]


def _vmap(n: int, dims: Any, a: Any) -> Any:
    """n calls on B samples are one call on n B samples; the noise is shared where it is not batched."""
    sizes = [t.shape[0] if d is None else t.movedim(d, 0).shape[1] for t, d in zip(a.T, dims.T, strict=True)]
    batch = next((b for b in sizes if b != 1), 1)
    T = [_plain.per_sample(n, t, d, batch) for t, d in zip(a.T, dims.T, strict=True)]
    R = a.R
    if R is not None and (dims.R is not None or R.dim() == 3):
        R = R.expand(n, *R.shape) if dims.R is None else R.movedim(dims.R, 0)
        R = R.flatten(0, 1) if R.dim() == 4 else R.repeat_interleave(batch, 0)
    rng = _plain.per_sample(n, a.rng, dims.rng)
    (y,) = _op.dispatch(T, a.pairs, a.sizes, R, rng, a.draws, a.streams)
    return [y.unflatten(0, (n, batch))], [0]


def _vmap_(*_: Any) -> Any:
    raise ValueError("dots_: torch.vmap cannot write into `total`; call dots")


_op = Op(
    f"dots({_ARGUMENTS}) -> Tensor[]",
    run=_run,
    fake=_fake,
    vmap=_vmap,
    derivative=Derivative(_keep, _backward, _jvp),
)
_op_ = Op(
    f"dots_(Tensor(a!) total, Tensor weights, {_ARGUMENTS}) -> ()",
    run=_run_,
    fake=_fake_,
    refuse=_refuse_derivative,
    vmap=_vmap_,
)
