"""Derivatives of an op by autograd of the same formula in plain torch.

For what no kernel is worth: second derivatives, tangents, gradients by arguments that seldom have one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _checks


def vjp(op: Any, formula: Callable[[Any], Tensor], a: Any, wanted: Any, g: Tensor) -> dict[str, Any]:
    """Gradients by argument name. With grad mode on they can be differentiated again."""
    again = torch.is_grad_enabled()
    leaves, counts = op.flatten(a)
    asked = [bool(w) for w in op.flatten(wanted)[0]]
    with torch.enable_grad():
        # views: what one argument owes to another is not this op's affair
        fresh = [
            t if t is None or not w else t.view_as(t) if again else t.detach().requires_grad_()
            for t, w in zip(leaves, asked, strict=True)
        ]
        y = formula(op.unflatten(a, fresh, counts))
        inputs: Any = [t for t, w in zip(fresh, asked, strict=True) if w]
        found = iter(torch.autograd.grad(y, inputs, g.to(y.dtype), create_graph=again, allow_unused=True))
    every = op.unflatten(a, [next(found) if w else None for w in asked], counts)
    return {k: v for k, v in every._asdict().items() if isinstance(v, (Tensor, list))}


def jvp(op: Any, formula: Callable[[Any], Tensor], a: Any, tangents: Any) -> Tensor:
    """The tangent of the formula: its gradient is linear in what it is asked for, so differentiated by
    that."""
    leaves, counts = op.flatten(a)
    moving = op.flatten(tangents)[0]
    if torch._C._are_functorch_transforms_active():
        at = [k for k, d in enumerate(moving) if d is not None]

        def of(*some: Tensor) -> Tensor:
            given = dict(zip(at, some, strict=True))
            return formula(op.unflatten(a, [given.get(k, t) for k, t in enumerate(leaves)], counts))

        d = tuple(moving[k].to(leaves[k].dtype) for k in at)
        return torch.func.jvp(of, tuple(leaves[k] for k in at), d)[1]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        fresh = [
            t if v is None else t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_()
            for t, v in zip(leaves, moving, strict=True)
        ]
        y = formula(op.unflatten(a, fresh, counts))
        v = torch.zeros_like(y, requires_grad=True)
        pairs = [(t, d) for t, d in zip(fresh, moving, strict=True) if d is not None]
        back = torch.autograd.grad(y, [t for t, _ in pairs], v, create_graph=True, allow_unused=True)
        some = [
            (x, d.to(x.dtype))
            for x, (_, d) in zip(back, pairs, strict=True)
            if x is not None and x.requires_grad
        ]
        if not some:
            return torch.zeros_like(y)
        (found,) = torch.autograd.grad([x for x, _ in some], v, [d for _, d in some], create_graph=again)
    return found


def rows(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t.to(dtype).flatten(1) if t.dim() > 1 else t.to(dtype)[:, None]


def per_sample(n: int, t: Tensor | None, d: int | None, batch: int | None = None) -> Tensor | None:
    """Under vmap: t (B, ..) of each of n calls as one tensor (n B, ..); (1, ..) of all samples as `batch`."""
    if t is None:
        return None
    t = t.expand(n, *t.shape) if d is None else t.movedim(d, 0)
    if batch is not None and t.shape[1] == 1:
        t = t.expand(n, batch, *t.shape[2:])
    return t.flatten(0, 1)


def arithmetic(tensors: Sequence[Any]) -> torch.dtype:
    return (
        torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32
    )


def ones(g: Tensor) -> bool:
    """All are 1, and to see it costs no wait: what comes from above when losses are summed."""
    if not _checks.values(g):
        return False
    if not g.dim():
        return g.item() == 1
    return all(v == 1 for v in g.tolist()) if g.shape[0] <= 64 else bool((g == 1).all())
