"""The derivative and the batching rule of linear_step.

    grad_T[i] = sum_j A[j, i] g_j                a linear step with A transposed and no noise
    grad_A[j, i] = <g_j, T_i>, <g_j, xi_c>       products reduced in float64, xi made again from rng
    tangent   = A[:, :n_in] dT + dA (T, xi)      linear steps

Each is written with differentiable calls, so double backward, mixed modes and their nestings follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _checks
from .normal import normal

Step = Callable[..., tuple[Tensor, ...]]  # linear_step itself, which hands itself to its rules


def _arithmetic(a: Any) -> torch.dtype:
    return torch.float64 if torch.float64 in (a.dtype, *(t.dtype for t in a.T)) else torch.float32


def _in(
    step: Step, wide: torch.dtype, T: Sequence[Tensor], A: Tensor, dtype: torch.dtype, **options: Any
) -> list[Tensor]:
    """A step in the arithmetic of the forward one, whatever dtypes these tensors have."""
    if wide == torch.float64:
        return [y.to(dtype) for y in step(T, A.double(), dtype=wide, **options)]
    return list(step(T, A, dtype=dtype, **options))


def _take(t: Tensor, which: Sequence[int], dim: int) -> Tensor:
    """t at some places of a dimension. A list as an index would be copied to the device, a wait."""
    if len(which) == t.shape[dim]:
        return t
    if which[-1] - which[0] == len(which) - 1:
        return t.narrow(dim, which[0], len(which))
    return torch.stack([t.select(dim, k) for k in which], dim)


def keep(a: Any, wanted: Any) -> tuple[Any, Any]:
    """A is read for grad_T alone; T, index and rng of a call for grad_A alone (index for both)."""
    notes = [(t.shape[0] == 1, t.dtype) for t in a.T], a.A.shape, a.A.dtype, _arithmetic(a)
    T = list(a.T) if wanted.A else [None] * len(a.T)
    A = a.A if any(wanted.T) else None
    return a._replace(T=T, A=A, rng=a.rng if wanted.A else None), notes


def backward(step: Step, a: Any, notes: Any, wanted: Any, grads: Sequence[Tensor | None]) -> dict[str, Any]:
    rows, g = [j for j, x in enumerate(grads) if x is not None], [x for x in grads if x is not None]
    if not rows:
        return {}
    kinds, shape, dtype, wide = notes
    found: dict[str, Any] = {}
    if any(wanted.T):
        found["T"] = _inputs(step, a, kinds, wide, wanted.T, rows, g)
    if wanted.A:
        found["A"] = _table(a, shape, wide, rows, g).to(dtype)
    return found


def _inputs(
    step: Step,
    a: Any,
    kinds: Sequence[tuple[bool, torch.dtype]],
    wide: torch.dtype,
    wanted: Sequence[bool],
    rows: list[int],
    g: list[Tensor],
) -> list[Tensor | None]:
    found: list[Tensor | None] = [None] * len(wanted)
    batch = g[0].shape[0]
    alike: dict[Any, list[int]] = {}
    for i, (single, dtype) in enumerate(kinds):
        if wanted[i]:  # a constant's gradient is summed over the batch, so it stays wide until then
            alike.setdefault((single and batch != 1, dtype), []).append(i)
    transposed = a.A.transpose(-1, -2)
    for (summed, dtype), columns in alike.items():
        for some in (columns[k : k + _checks.MAX_OUT] for k in range(0, len(columns), _checks.MAX_OUT)):
            table = _take(_take(transposed, some, -2), rows, -1).contiguous()
            results = _in(step, wide, g, table, wide if summed else dtype, index=a.index)
            for i, y in zip(some, results, strict=True):
                found[i] = y.sum(0, keepdim=True, dtype=torch.float64).to(dtype) if summed else y
    return found


def _table(a: Any, shape: Sequence[int], wide: torch.dtype, rows: list[int], g: list[Tensor]) -> Tensor:
    """Per coefficient the product of its tensor and the gradient, summed over the elements it serves."""
    g = [x.to(wide) for x in g]

    def reduce(p: Tensor) -> Tensor:
        if len(shape) == 2:
            return p.sum(dtype=torch.float64)
        if a.index is None:
            return p.flatten(1).sum(1, dtype=torch.float64) if p.dim() > 1 else p.double()
        B, K = p.shape[0], a.index.shape[1]
        by_part = p.reshape(B, K, _checks.product(p.shape[1:]) // K).sum(2, dtype=torch.float64)
        # index_put adds in a fixed order on every device, index_add does not
        return by_part.new_zeros(shape[0]).index_put((a.index.long().expand(B, K),), by_part, accumulate=True)

    columns: list[Any] = [lambda t=t: t.to(wide) for t in a.T]
    columns += [
        lambda d=d, s=s: normal(g[0].shape, a.rng, d, s, dtype=wide)
        for d, s in zip(a.draws, a.streams, strict=True)
    ]
    entries = []
    for column in columns:  # one at a time: a noise column lives only as long as its products
        c = column()
        by_row = {j: reduce(x * c) for j, x in zip(rows, g, strict=True)}
        absent = torch.zeros_like(by_row[rows[0]])
        entries.append(torch.stack([by_row.get(j, absent) for j in range(shape[-2])], -1))
    return torch.stack(entries, -1)


def jvp(step: Step, a: Any, tangents: Any) -> list[Tensor]:
    dtype, wide = a.dtype or a.T[0].dtype, _arithmetic(a)
    parts = []
    moving = [i for i, t in enumerate(tangents.T) if t is not None]
    if moving:
        dT = [tangents.T[i] for i in moving]
        batch = next((t.shape[0] for t in a.T if t.shape[0] != 1), 1)
        if all(t.shape[0] == 1 for t in dT):
            dT[0] = dT[0].expand(batch, *dT[0].shape[1:])
        parts.append(_in(step, wide, dT, _take(a.A, moving, -1), dtype, index=a.index))
    if tangents.A is not None:
        noise = {"rng": a.rng, "draws": a.draws, "streams": a.streams}
        parts.append(_in(step, wide, a.T, tangents.A, dtype, index=a.index, **noise))
    return parts[0] if len(parts) == 1 else [p + q for p, q in zip(*parts, strict=True)]


def vmap(step: Step, n: int, dims: Any, a: Any) -> Any:
    """n calls on B samples are one call on n B samples; what is not batched is shared, the noise included."""
    A, index, rng = a.A, a.index, a.rng

    def front(t: Tensor, d: int | None) -> Tensor:
        return t.expand(n, *t.shape) if d is None else t.movedim(d, 0)

    def samples(t: Tensor, d: int | None, b: int) -> Tensor:
        t = front(t, d)
        return t.expand(n, b, *t.shape[2:]).flatten(0, 1)

    sizes = [t.shape[0] if d is None else t.movedim(d, 0).shape[1] for t, d in zip(a.T, dims.T, strict=True)]
    batch = next((b for b in sizes if b != 1), 1)
    # a constant of all samples stays one, unless the size of the joint batch would then show nowhere
    constant = [d is None and b == 1 for d, b in zip(dims.T, sizes, strict=True)]
    constant[0] = constant[0] and not all(constant)
    T = [t if c else samples(t, d, batch) for t, d, c in zip(a.T, dims.T, constant, strict=True)]
    rng = None if rng is None else samples(rng, dims.rng, batch)
    if index is not None:
        index = samples(index, dims.index, batch)
        if dims.A is not None:
            A = front(A, dims.A)
            shift = torch.arange(n, device=index.device, dtype=index.dtype) * A.shape[1]
            A, index = A.flatten(0, 1), index + shift.repeat_interleave(batch)[:, None]
    elif dims.A is not None or A.dim() == 3:
        A = front(A, dims.A)
        A = (A if A.dim() == 4 else A[:, None]).expand(n, batch, *A.shape[-2:]).flatten(0, 1)
    y = step(T, A, index=index, rng=rng, draws=a.draws, streams=a.streams, dtype=a.dtype)
    return [t.unflatten(0, (n, batch)) for t in y], [0] * len(y)


def vmap_(*_: Any) -> Any:
    raise ValueError("linear_step_: torch.vmap cannot write into `out`; call linear_step")
