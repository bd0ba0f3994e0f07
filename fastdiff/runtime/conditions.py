"""What the network gets besides x and t: keyword arguments.

A tensor whose first size is the batch is per sample, one whose first size is 1 stands for all. Dicts inside
(as `added_cond_kwargs` of diffusers) are treated alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_MISSING = object()


def rows(cond: Mapping[str, Any], first: int, last: int, batch: int) -> dict[str, Any]:
    """Those of samples first .. last - 1."""
    return {k: _rows(v, first, last, batch) for k, v in cond.items()}


def _rows(v: Any, first: int, last: int, batch: int) -> Any:
    if isinstance(v, Mapping):
        return rows(v, first, last, batch)
    return v[first:last] if isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == batch else v


def detached(cond: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, cut off from their graphs."""
    return {
        k: detached(v) if isinstance(v, Mapping) else v.detach() if isinstance(v, Tensor) else v
        for k, v in cond.items()
    }


def same(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> bool:
    """The very same values under the same names."""
    return len(a) == len(b) and all(
        p.keys() == q.keys() and all(p[k] is q[k] for k in p) for p, q in zip(a, b, strict=True)
    )


def stack(conds: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Any] | None:
    """The arguments of several branches as those of one batch, a branch after the other; None where they do
    not stack."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(k for c in conds for k in c):
        merged[key] = _stack([c.get(key, _MISSING) for c in conds], batch)
        if merged[key] is _MISSING:
            return None
    return merged


def _stack(values: Sequence[Any], batch: int) -> Any:
    a = values[0]
    if all(isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] in (1, batch) for v in values):
        if any(v.shape[1:] != a.shape[1:] or v.dtype != a.dtype or v.device != a.device for v in values):
            return _MISSING
        return torch.cat([v.expand(batch, *v.shape[1:]) for v in values])
    if all(isinstance(v, Mapping) for v in values):
        inner = stack(values, batch)
        return _MISSING if inner is None else inner
    plain = isinstance(a, (int, float, str)) and all(type(v) is type(a) and v == a for v in values)
    return a if plain or all(v is a for v in values) else _MISSING
