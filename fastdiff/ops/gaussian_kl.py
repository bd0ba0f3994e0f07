"""gaussian_kl: the terms of a variational bound, in nats, with both slopes, in one pass.

    KL    of N(m1, e^l1) from the model's N(m, e^l)  = (l - l1 - 1 + e^(l1 - l) + (m1 - m)^2 e^-l) / 2
    bin   -ln of the model's mass in the bin of width 2 h around x0, the two end bins open: discrete data in
    [-1, 1]
          (h = 1 / 255 for 8 bits; the end bins are those whose middle is within h / 2 of -1 or 1)

The means are linear in x_t, x0 and the network's output, with a coefficient for each sample, so any
prediction serves: delta = m1 - m = C_t x_t + C_0 x0 + C_p pred, or x0 - m for a bin. The log variance is low,
or low + (high - low) (var + 1) / 2 where the network predicts it. All is float64 made of multiply, add,
divide and bits, summed in a binary tree: the same bits in every batch, on every backend, thread count and
instruction set. A bin's mass comes from Mills' ratios, so that nothing cancels and no bin underflows to an
infinite cost.

Source: Nichol and Dhariwal 2021 (learned range, their tanh stands here as the exact normal distribution).
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
from .perturb import coefficient


def gaussian_kl(
    pred: Tensor,
    x0: Tensor,
    xt: Tensor,
    *,
    by_xt: Tensor | float,
    by_x0: Tensor | float,
    by_pred: Tensor | float,
    low: Tensor | float,
    high: Tensor | float | None = None,
    var: Tensor | None = None,
    log_var: Tensor | float = 0.0,
    bin: Tensor | None = None,
    bins: int = 256,
    w: Tensor | float | None = None,
    reduction: str = "sum",
    stop_mean: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Nats of each sample, (B,) float32 (float64 where a tensor is).

    pred, x0, xt           (B, *), float32, float16, bfloat16 or float64, also mixed
    by_xt, by_x0, by_pred  (B,) or numbers: delta = by_xt xt + by_x0 x0 + by_pred pred is the true mean less
    the
                           model's, for a bin x0 less the model's mean
    log_var                (B,) or a number: l1 of the true Gaussian; of no meaning for a bin
    low, high              the model's log variance: low, or the range of a learned one
    var                    (B, *), the network's part v of the log variance low + (high - low) (v + 1) / 2
    bin                    (B,) bool: samples whose cost is that of a bin; none by default
    bins                   how many there are from -1 to 1, at least 2
    w                      weights (B,), or a number; zero gives an exact zero
    reduction              "sum" or "mean" over the elements of a sample
    stop_mean              no derivative by pred: the bound then trains the variance alone

    Differentiable in every floating argument, any number of times and in both modes. Raises TypeError or
    ValueError that names the argument.
    """
    call = "gaussian_kl"
    checks.list_of_tensors(call, [pred], 1)
    batch = pred.shape[0]
    for name, t in (("pred", pred), ("x0", x0), ("xt", xt), *((("var", var),) if var is not None else ())):
        checks.state(call, name, t, pred, False, batch)
    if (var is None) != (high is None):
        absent, there = ("high", "var") if high is None else ("var", "high")
        _checks.say(call, absent, f"is missing but {there} is given", "both or neither")
    wide = torch.float64
    columns = [("by_xt", by_xt), ("by_x0", by_x0), ("by_pred", by_pred), ("log_var", log_var), ("low", low)]
    c = [coefficient(call, k, v, batch, pred, wide) for k, v in columns]
    if high is None:
        c.append(torch.zeros_like(c[0]))
    else:  # from (v + 1) / 2 to v
        half_span = (coefficient(call, "high", high, batch, pred, wide) - c[4]) * 0.5
        c[4] = c[4] + half_span
        c.append(half_span)
    which = None
    if bin is not None:
        checks.table(call, "bin", bin, ((batch,),), pred, torch.bool)
        which = bin.to(torch.int32)
    if isinstance(bins, bool) or not hasattr(bins, "__index__"):
        raise TypeError(f"{call}: bins must be an int, got {bins!r}")
    if bins < 2:
        _checks.say(call, "bins", f"is {bins}", "at least 2")
    if not isinstance(stop_mean, bool):
        raise TypeError(f"{call}: stop_mean must be a bool, got {stop_mean!r}")
    if reduction not in ("mean", "sum"):
        _checks.say(call, "reduction", f"is {reduction!r}", "'mean' or 'sum'")
    weight = None if w is None else coefficient(call, "w", w, batch, pred, wide)
    pred = pred.detach() if stop_mean else pred
    C = torch.stack(c, -1)
    way = route((pred, var, x0, xt, C, weight, which))
    slopes = way != EAGER and torch.is_grad_enabled()
    by = tuple(slopes and t is not None and t.requires_grad for t in (pred, var))
    args = (pred, var, x0, xt, C, which, weight, 1.0 / (bins - 1), reduction == "mean", *by)
    if way == EAGER:
        return _run(*args, backend=backend)[0]
    if way == DISPATCH:
        _backends.must_be_automatic(call, backend, pred)
        return _op.dispatch(*args)[0]
    checked(*args)
    return _op.differentiable(lambda *a: _run(*a, backend=backend), *args, moves=forward_mode())[0]


def checked(
    pred: Tensor,
    var: Tensor | None,
    x0: Tensor,
    xt: Tensor,
    C: Tensor,
    bin: Tensor | None,
    w: Tensor | None,
    half: float,
    mean: bool,
    by_pred: bool,
    by_var: bool,
) -> torch.dtype:
    """All that the op requires; the dtype of its results."""
    call = "gaussian_kl"
    checks.list_of_tensors(call, [pred], 1)
    batch = pred.shape[0]
    for name, t in (("pred", pred), ("x0", x0), ("xt", xt), *((("var", var),) if var is not None else ())):
        checks.state(call, name, t, pred, False, batch)
    checks.table(call, "C", C, ((batch, 6),), pred, torch.float64)
    if bin is not None:
        checks.table(call, "bin", bin, ((batch,),), pred, torch.int32)
    if w is not None:
        checks.table(call, "w", w, ((batch,),), pred, torch.float64)
    checks.finite(call, "half", half, 0.0)
    return _plain.arithmetic([pred, var, x0, xt])


def _run(
    pred: Tensor,
    var: Tensor | None,
    x0: Tensor,
    xt: Tensor,
    C: Tensor,
    bin: Tensor | None,
    w: Tensor | None,
    half: float,
    mean: bool,
    by_pred: bool = False,
    by_var: bool = False,
    *,
    backend: str | None = None,
) -> list[Tensor]:
    dtype = checked(pred, var, x0, xt, C, bin, w, half, mean, by_pred, by_var)
    out = _outputs(pred, var, dtype, by_pred, by_var)
    rest = iter(out[1:])
    kernel = _backends.kernel(_backends.choose("gaussian_kl", backend, pred.device.type), "gaussian_kl_")
    kernel(
        pred.contiguous(),
        None if var is None else var.contiguous(),
        x0.contiguous(),
        xt.contiguous(),
        C.contiguous(),
        None if bin is None else bin.contiguous(),
        None if w is None else w.contiguous(),
        half,
        _count(pred, mean),
        checks.work(pred, pred.shape[0], 1),
        out[0],
        next(rest) if by_pred else None,
        next(rest) if by_var else None,
    )
    return out


def _count(pred: Tensor, mean: bool) -> float:
    return float(max(1, pred.shape[1:].numel())) if mean else 1.0


def _fake(
    pred: Tensor,
    var: Tensor | None,
    x0: Tensor,
    xt: Tensor,
    C: Tensor,
    bin: Tensor | None,
    w: Tensor | None,
    half: float,
    mean: bool,
    by_pred: bool = False,
    by_var: bool = False,
) -> list[Tensor]:
    dtype = checked(pred, var, x0, xt, C, bin, w, half, mean, by_pred, by_var)
    return _outputs(pred, var, dtype, by_pred, by_var, _backends.empty)


def _outputs(
    pred: Tensor,
    var: Tensor | None,
    dtype: torch.dtype,
    by_pred: bool,
    by_var: bool,
    made: Any = _backends.fresh,
) -> list[Tensor]:
    slopes = [t for t, wanted in ((pred, by_pred), (var, by_var)) if wanted and t is not None]
    return [
        pred.new_empty((pred.shape[0],), dtype=dtype),
        *(made(t.shape, t.dtype, t.device) for t in slopes),
    ]


# ---- derivatives


def _log_bin(delta: Tensor, log_var: Tensor, half: float, first: Tensor, last: Tensor) -> Tensor:
    """ln of the mass of a bin, mirrored into the left tail, where log_ndtr keeps its digits."""
    flip = delta > 0
    near_open, far_open = torch.where(flip, first, last), torch.where(flip, last, first)
    i, away = (-0.5 * log_var).exp(), -torch.where(flip, -delta, delta)
    b, c = (half - away) * i, -(half + away) * i
    upper, lower = torch.special.log_ndtr(b), torch.special.log_ndtr(c)
    whole = upper + torch.log1p(-torch.exp(lower - upper))
    one_side = torch.special.log_ndtr(torch.where(near_open, -c, b))
    return torch.where(near_open | far_open, one_side, whole)


def formula(a: Any) -> Tensor:
    """The nats in plain torch, for `_plain`."""
    wide = torch.float64
    c = [a.C[:, k, None] for k in range(6)]
    pred, x0, xt = (_plain.rows(t, wide) for t in (a.pred, a.x0, a.xt))
    delta, log_var = c[0] * xt + c[1] * x0 + c[2] * pred, c[4].expand_as(x0)
    if a.var is not None:
        log_var = log_var + c[5] * _plain.rows(a.var, wide)
    if a.w is not None:
        delta, log_var = (torch.where(a.w[:, None] == 0, 0.0, t) for t in (delta, log_var))
    l1 = c[3]
    nats = 0.5 * (log_var - l1 - 1 + (l1 - log_var).exp() + delta * delta * (-log_var).exp())
    if a.bin is not None:
        end = 1 - 0.5 * a.half
        bins = -_log_bin(delta, log_var, a.half, x0 < -end, x0 > end)
        nats = torch.where(a.bin[:, None] != 0, bins, nats)
    total = nats.sum(1) / _count(a.pred, a.mean)
    return (total if a.w is None else a.w * total).to(_plain.arithmetic([a.pred, a.var, a.x0, a.xt]))


def _keep(a: Any, wanted: Any) -> tuple[Any, Any]:
    return a, None


def _backward(a: Any, notes: Any, wanted: Any, grads: Sequence[Tensor | None]) -> dict[str, Any]:
    """The slopes times what comes from above; by the others by autograd."""
    g, _, *written = grads
    if g is None:
        return {}
    others = wanted.x0 or wanted.xt or wanted.C or wanted.w
    if others or torch.is_grad_enabled() or (a.by_pred, a.by_var) != (bool(wanted.pred), bool(wanted.var)):
        return _plain.vjp(_op, formula, a, wanted, g)
    found: dict[str, Any] = {}
    rest = iter(written)
    ones = _plain.ones(g)
    for name, asked in (("pred", a.by_pred), ("var", a.by_var)):
        if asked:
            slope: Any = next(rest)
            A = g[:, None, None].contiguous()
            if A.dtype == torch.float64 and slope.dtype != torch.float64:
                found[name] = linear_step([slope], A, dtype=torch.float64)[0].to(slope.dtype)
            else:
                found[name] = slope if ones else linear_step([slope], A)[0]
    return found


def _jvp(a: Any, tangents: Any) -> list[Any]:
    return [_plain.jvp(_op, formula, a, tangents)] + [None] * (bool(a.by_pred) + bool(a.by_var))


def _vmap(n: int, dims: Any, a: Any) -> Any:
    """n calls on B samples are one call on n B samples."""
    pred = _plain.per_sample(n, a.pred, dims.pred)
    names = ("var", "x0", "xt", "C", "bin", "w")
    rest = [_plain.per_sample(n, getattr(a, k), getattr(dims, k)) for k in names]
    y = _op.dispatch(pred, *rest, a.half, a.mean, a.by_pred, a.by_var)
    return [t.unflatten(0, (n, -1)) for t in y], [0] * len(y)


_op = Op(
    "gaussian_kl(Tensor pred, Tensor? var, Tensor x0, Tensor xt, Tensor C, Tensor? bin, Tensor? w, "
    "float half, bool mean, bool by_pred=False, bool by_var=False) -> Tensor[]",
    run=_run,
    fake=_fake,
    vmap=_vmap,
    derivative=Derivative(_keep, _backward, _jvp, outputs=1),
)
