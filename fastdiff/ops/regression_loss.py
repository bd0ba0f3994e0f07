"""regression_loss: every regression loss of a diffusion model, with its slope, in one pass over the
prediction.

    target = p x0 + r x_t + e extra + q xi           per-sample coefficients; xi made again, or read where
    stored loss_b = w_b sum_e mask rho(pred - target) / n   n elements with reduction "mean", 1 with "sum"
    rho      l2 d^2; l1 |d|; huber d^2 / 2 where |d| < c, else c (|d| - c / 2);
             pseudo_huber of the whole sample: sqrt(sum d^2 + c^2) - c

The target and d are rounded as a linear step is (float32; float64 where a tensor is), rho and its sums are
float64: a binary tree over the sample's elements whose shape depends on their number alone, so the same bits
in every batch, on every backend, thread count and instruction set. A weight or mask of zero gives an exact
zero whatever the prediction is; a coefficient of zero reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from . import _backends, _checks, _plain
from . import _checks_sums as checks
from ._library import DISPATCH, EAGER, Derivative, Op, eager, forward_mode, route
from .dots import dots
from .linear_step import linear_step
from .normal import normal
from .perturb import coefficient, stream_of

_C: Any = _backends._C
RHO = ("l2", "l1", "huber", "pseudo_huber")
_NONE, _LIKE_PRED, _WIDE = range(3)  # the dtype of the slope


def regression_loss(
    pred: Tensor,
    x0: Tensor | None = None,
    xt: Tensor | None = None,
    extra: Tensor | None = None,
    *,
    p: Tensor | float | None = None,
    q: Tensor | float | None = None,
    r: Tensor | float | None = None,
    e: Tensor | float | None = None,
    w: Tensor | float | None = None,
    noise: Tensor | None = None,
    rng: Tensor | None = None,
    draw: int = 0,
    column: int = 0,
    rho: str = "l2",
    c: float | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    batch: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """The loss of each sample, (B,) float32 (float64 where a tensor is): w rho(pred - target); with `batch`
    that of all, ().

    pred            (B, *), float32, float16, bfloat16 or float64
    x0, xt, extra   like it, also of other dtypes; (1, *) is the same for all samples
    p, r, e, q      their coefficients and that of the noise: (B,), or numbers; with its tensor or not at all
    noise           xi (B, *) where it was stored (perturb gives it), or
    rng             (B, 3) int64, from which it is made again: that of perturb, with its draw and column
    w               weights (B,), or a number
    rho, c          "l2", "l1", "huber" or "pseudo_huber", the last two with c > 0
    mask            (B, *) or (1, *), a float type or bool, on each element's part
    reduction       "mean" or "sum" over the elements of a sample; "mean" counts masked ones too
    batch           None, or "mean" or "sum" over the samples, added in float64; "mean" divides w by B

    The slope d loss / d pred is written in the same pass where a derivative by pred is asked, and is the
    gradient itself where all that comes from above is ones, as under `batch` it usually is. Differentiable in
    every floating argument but the mask, any number of times and in both modes. Raises TypeError or
    ValueError that names the argument.
    """
    call = "regression_loss"
    if type(pred) is Tensor and pred.is_cpu and backend in (None, "cpu"):
        terms, plain = ((x0, p), (xt, r), (extra, e), (noise, q)), (draw, column, rho, c, reduction, batch)
        loss = _straight_way(pred, terms, (w, mask, rng), plain)
        if loss is not None:
            return loss
    checks.list_of_tensors(call, [pred], 1)
    if rho not in RHO:
        _checks.say(call, "rho", f"is {rho!r}", ", ".join(RHO))
    if c is not None and rho in RHO[:2]:
        _checks.say(call, "c", f"is given with rho={rho!r}", "with huber and pseudo_huber only")
    if c is None and rho in RHO[2:]:
        _checks.say(call, "c", "is missing", f"{rho} needs it")
    limit = 0.0 if c is None else checks.finite(call, "c", c, 0.0)
    if reduction not in ("mean", "sum"):
        _checks.say(call, "reduction", f"is {reduction!r}", "'mean' or 'sum'")
    if batch not in (None, "mean", "sum"):
        _checks.say(call, "batch", f"is {batch!r}", "None, 'mean' or 'sum'")
    if noise is not None and rng is not None:
        _checks.say(call, "rng", "is given with noise", "one of the two: read the noise or make it again")
    if mask is not None and isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = mask.to(pred.dtype)
    named = {"x0": x0, "xt": xt, "extra": extra, "noise": noise}
    T = [t for t in named.values() if t is not None]
    if not all(isinstance(t, Tensor) for t in T):
        for name, t in named.items():
            if t is not None:
                _checks.tensor(call, name, t)
    columns = _columns(named, rng, {"p": p, "r": r, "e": e, "q": q})
    stream = stream_of(call, column)
    dtype = _plain.arithmetic([pred, *T, mask])
    C = _coefficients(columns, pred, dtype)
    weight = None if w is None else coefficient(call, "w", w, pred.shape[0], pred, dtype)
    if batch == "mean":
        one = torch.ones((pred.shape[0],), dtype=dtype, device=pred.device)
        weight = (one if weight is None else weight) / max(1, pred.shape[0])
    args = (pred, T, C, weight, mask, rng, draw, stream, rho, limit, reduction == "mean")
    try:
        loss = _each(*args, backend=backend)
    except Exception:
        for name, t in {**named, "mask": mask}.items():  # by the names that the caller knows
            if t is not None:
                checks.state(call, name, t, pred, True, pred.shape[0])
        raise
    return loss if batch is None else loss.sum(dtype=torch.float64).to(dtype)


def _each(
    pred: Tensor,
    T: list[Tensor],
    C: Tensor,
    w: Tensor | None,
    mask: Tensor | None,
    rng: Tensor | None,
    *rest: Any,
    backend: str | None,
) -> Tensor:
    args = pred, T, C, w, mask, rng, *rest
    way = route((pred, C, w, mask, rng, *T))
    if way == EAGER:
        return _run(*args, backend=backend)[0]
    slope = _NONE
    if torch.is_grad_enabled():
        if any(t is not None and t.requires_grad for t in (C, w, *T)):
            slope = _WIDE
        elif pred.requires_grad:
            slope = _LIKE_PRED
    if way == DISPATCH:
        _backends.must_be_automatic("regression_loss", backend, pred)
        return _op.dispatch(*args, slope)[0]
    return _op.differentiable(partial(_run, backend=backend), *args, slope, moves=forward_mode())[0]


def _straight_way(
    pred: Tensor, terms: Sequence[tuple[Any, Any]], others: tuple[Any, ...], plain: tuple[Any, ...]
) -> Tensor | None:
    """The usual case, where plain CPU tensors have no derivative but by pred, in one call to C++. None where
    it is another case, or something is wrong."""
    T, columns = [], []
    for t, factor in terms[:-1]:
        if t is not None and factor is not None:
            T.append(t)
            columns.append(factor)
        elif t is not None or factor is not None:
            return None
    (noise, q), rng, (draw, column, rho, c, reduction, batch) = terms[-1], others[-1], plain
    if (noise is not None) + (rng is not None) != (q is not None) or reduction not in ("mean", "sum"):
        return None
    if (
        rho not in RHO
        or (c is None) != (rho in RHO[:2])
        or not (c is None or type(c) is float and 0 < c < inf)
    ):
        return None
    if batch is not None and (batch not in ("mean", "sum") or rho == "pseudo_huber"):
        return None
    if noise is not None:
        T.append(noise)
    if q is not None:
        columns.append(q)
    if not eager(*T, *columns, *[x for x in others if x is not None]) or pred.is_neg():
        return None
    draws, streams = ([], []) if rng is None else ([draw], [stream_of("regression_loss", column)])
    rest = (draws, streams, rho, c or 0.0, reduction == "mean", batch or "")
    try:
        if torch.is_grad_enabled() and pred.requires_grad:
            return _straight(pred, T, columns, others, rest)
        return _C.regression_loss(pred, T, columns, *others, *rest, _NONE)[0]
    except (TypeError, ValueError):
        return None


def _columns(tensors: dict[str, Any], rng: Any, factors: dict[str, Any]) -> dict[str, Any]:
    """The factor of each tensor that is there, and of the noise, by its name."""
    call, columns = "regression_loss", {}
    for (name, t), (factor, given) in zip(tensors.items(), factors.items(), strict=True):
        if name == "noise" and t is None:
            name, t = "noise (or rng)", rng
        if (t is None) != (given is None):
            there, absent = (name, factor) if given is None else (factor, name)
            _checks.say(call, absent, f"is missing but {there} is given", "both or neither")
        if t is not None:
            if not isinstance(t, Tensor):
                _checks.tensor(call, name, t)
            columns[factor] = given
    return columns


def _coefficients(columns: dict[str, Any], pred: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, n) of the n factors."""
    batch = pred.shape[0]
    C = [coefficient("regression_loss", factor, c, batch, pred, dtype) for factor, c in columns.items()]
    if not C:
        return torch.zeros((batch, 0), dtype=dtype, device=pred.device)
    return C[0][:, None] if len(C) == 1 else torch.stack(C, -1)


def checked(
    pred: Tensor,
    T: Sequence[Tensor],
    C: Tensor,
    w: Tensor | None,
    mask: Tensor | None,
    rng: Tensor | None,
    draw: int,
    stream: int,
    rho: str,
    c: float,
    mean: bool,
    slope: int,
) -> torch.dtype:
    """All that the op requires; its arithmetic."""
    call = "regression_loss"
    checks.list_of_tensors(call, [pred], 1)
    checks.list_of_tensors(call, T, checks.MAX_TERMS)
    batch = pred.shape[0]
    for name, t, constant in (
        ("pred", pred, False),
        *((f"T[{i}]", t, True) for i, t in enumerate(T)),
        *((("mask", mask, True),) if mask is not None else ()),
    ):
        checks.state(call, name, t, pred, constant, batch)
    dtype = _plain.arithmetic([pred, *T, mask])
    columns = [] if rng is None else [draw]
    checks.noise(call, rng, columns, [stream] * len(columns), batch, pred)
    n = len(T) + len(columns)
    checks.table(call, "C", C, ((n,), (batch, n)), pred, dtype)
    if w is not None:
        checks.table(call, "w", w, ((batch,),), pred, dtype)
    if rho not in RHO or slope not in (_NONE, _LIKE_PRED, _WIDE):
        _checks.say(call, "rho or slope", f"is {rho!r}, {slope!r}", f"one of {', '.join(RHO)}; 0 .. 2")
    return dtype


def _run(
    pred: Tensor,
    T: Sequence[Tensor],
    C: Tensor,
    w: Tensor | None,
    mask: Tensor | None,
    rng: Tensor | None,
    draw: int = 0,
    stream: int = 2,
    rho: str = "l2",
    c: float = 0.0,
    mean: bool = True,
    slope: int = 0,
    *,
    backend: str | None = None,
) -> list[Tensor]:
    columns, streams, count = (
        ([], [], _count(pred, mean)) if rng is None else ([draw], [stream], _count(pred, mean))
    )
    kernel = _backends.compiled(backend, pred, "regression_loss_")
    if kernel is not None:  # it checks for itself; what it refuses is put into the form it takes, or refused
        try:
            out, work = _outputs(pred, C.dtype, slope), checks.work(pred, pred.shape[0], 1)
            kernel(
                pred,
                T,
                C,
                w,
                mask,
                rng,
                columns,
                streams,
                rho,
                c,
                count,
                work,
                out[0],
                out[1] if slope else None,
            )
            return out
        except Exception:
            pass
    dtype = checked(pred, T, C, w, mask, rng, draw, stream, rho, c, mean, slope)
    out = _outputs(pred, dtype, slope)
    kernel = _backends.kernel(
        _backends.choose("regression_loss", backend, pred.device.type), "regression_loss_"
    )
    kernel(
        pred.contiguous(),
        [t.contiguous() for t in T],
        C.contiguous(),
        None if w is None else w.contiguous(),
        None if mask is None else mask.contiguous(),
        None if rng is None else rng.contiguous(),
        columns,
        streams,
        rho,
        c,
        count,
        checks.work(pred, pred.shape[0], 1),
        out[0],
        out[1] if slope else None,
    )
    return out


def _count(pred: Tensor, mean: bool) -> float:
    return float(max(1, pred.shape[1:].numel())) if mean else 1.0


def _outputs(pred: Tensor, dtype: torch.dtype, slope: int, made: Any = _backends.fresh) -> list[Tensor]:
    out = [pred.new_empty((pred.shape[0],), dtype=dtype)]
    if slope:
        out.append(made(pred.shape, pred.dtype if slope == _LIKE_PRED else dtype, pred.device))
    return out


def _fake(
    pred: Tensor,
    T: Sequence[Tensor],
    C: Tensor,
    w: Tensor | None,
    mask: Tensor | None,
    rng: Tensor | None,
    draw: int = 0,
    stream: int = 2,
    rho: str = "l2",
    c: float = 0.0,
    mean: bool = True,
    slope: int = 0,
) -> list[Tensor]:
    dtype = checked(pred, T, C, w, mask, rng, draw, stream, rho, c, mean, slope)
    return _outputs(pred, dtype, slope, _backends.empty)


# ---- derivatives


def formula(a: Any) -> Tensor:
    """The loss in plain torch, in its arithmetic, for `_plain`."""
    dtype = _plain.arithmetic([a.pred, *a.T, a.mask])
    columns = [_plain.rows(t, dtype) for t in a.T]
    d = _plain.rows(a.pred, dtype)
    if a.rng is not None:
        columns.append(normal(d.shape, a.rng, a.draw, a.stream, dtype=dtype))
    C = a.C if a.C.dim() == 2 else a.C[None]
    for i, x in enumerate(columns):
        d = d - C[:, i, None] * x
    if a.w is not None:  # select, not multiply: nothing of a sample without weight may come through
        d = torch.where(a.w[:, None] == 0, 0.0, d)
    k = None if a.mask is None else _plain.rows(a.mask, dtype)
    if k is not None:
        d = torch.where(k == 0, 0.0, d)
    if a.rho == "l1":
        rho = d.abs()
    elif a.rho == "huber":
        rho = torch.where(d.abs() < a.c, 0.5 * d * d, a.c * (d.abs() - 0.5 * a.c))
    else:
        rho = d * d
    total = (rho if k is None else k * rho).sum(1, dtype=torch.float64)
    if a.rho == "pseudo_huber":
        total = total / ((total + a.c * a.c).sqrt() + a.c)
    total = total / _count(a.pred, a.mean)
    return (total if a.w is None else a.w * total).to(dtype)


def _keep(a: Any, wanted: Any) -> tuple[Any, Any]:
    if wanted.mask:
        raise ValueError("regression_loss: mask has no derivative and one is asked; detach it")
    return a, None


def _backward(a: Any, notes: Any, wanted: Any, grads: Sequence[Tensor | None]) -> dict[str, Any]:
    """The slope times what comes from above; by tensors and coefficients of the target likewise."""
    saved: Any = grads
    g, loss, *written = saved
    if g is None:
        return {}
    if not written or wanted.w or torch.is_grad_enabled():
        return _plain.vjp(_op, formula, a, wanted, g)
    (slope,) = written
    dtype = loss.dtype  # type: ignore[union-attr]
    if a.rho == "pseudo_huber":  # loss = w (root - c) / count
        count = _count(a.pred, a.mean)
        one = torch.ones((), dtype=torch.float64, device=g.device)
        w = one if a.w is None else a.w.double()
        root = loss.double() * count / torch.where(w == 0, one, w) + a.c  # type: ignore[union-attr]
        g = g * w / (count * root)
    elif wanted.pred and slope.dtype == a.pred.dtype and _plain.ones(g):  # type: ignore[union-attr]
        if not (any(wanted.T) or wanted.C):
            return {"pred": slope}
    g = g.to(dtype)

    def times(s: Tensor, like: Tensor) -> Tensor:
        summed = like.shape[0] == 1 and g.shape[0] != 1
        (y,) = linear_step([slope], s[:, None, None].contiguous(), dtype=dtype if summed else like.dtype)
        return y.sum(0, keepdim=True, dtype=torch.float64).to(like.dtype) if summed else y

    found: dict[str, Any] = {}
    if wanted.pred:
        found["pred"] = times(g, a.pred)
    if any(wanted.T):
        C = a.C.expand(g.shape[0], -1)
        found["T"] = [times(-g * C[:, i], t) if wanted.T[i] else None for i, t in enumerate(a.T)]
    if wanted.C:
        noise = {} if a.rng is None else {"rng": a.rng, "draws": [a.draw], "streams": [a.stream]}
        n = len(a.T)
        pairs = [(0, 1 + i) for i in range(n)] + [(0, n + 2)] * len(noise.get("draws", []))
        by_C = -g[:, None] * dots([slope, *a.T], pairs, **noise)
        found["C"] = by_C.to(dtype) if a.C.dim() == 2 else by_C.sum(0).to(dtype)
    return found


class _Straight(torch.autograd.Function):
    """`_straight_way` with a gradient: half the way of `Op.differentiable`."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, pred: Tensor, T: list[Tensor], columns: list[Any], others: tuple[Any, ...], rest: Any
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        loss, slope = _C.regression_loss(pred, T, columns, *others, *rest, _LIKE_PRED)
        row = (*columns, *others)
        ctx.save_for_backward(slope, loss, pred, *T, *[x for x in row if isinstance(x, Tensor)])
        # the graph holds no tensor but the saved ones
        ctx.call = len(T), [None if isinstance(x, Tensor) else (x,) for x in row], rest
        return loss

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:  # type: ignore[override]
        slope, loss, pred, *saved = ctx.saved_tensors
        n, row, (draws, streams, rho, c, mean, batch) = ctx.call
        if g is None:
            return None, None, None, None, None
        if rho != "pseudo_huber" and not torch.is_grad_enabled() and _plain.ones(g):
            return slope, None, None, None, None
        T, rest = saved[:n], iter(saved[n:])
        *columns, w, mask, rng = (next(rest) if x is None else x[0] for x in row)
        C = _coefficients(dict(zip("prex", columns, strict=False)), pred, loss.dtype)
        w = None if w is None else coefficient("regression_loss", "w", w, pred.shape[0], pred, loss.dtype)
        if batch == "mean":
            w = (pred.new_ones(pred.shape[0], dtype=loss.dtype) if w is None else w) / pred.shape[0]
        draw, stream = (draws[0], streams[0]) if draws else (0, 0)
        a = _op.Args(pred, T, C, w, mask, rng, draw, stream, rho, c, mean, _LIKE_PRED)
        wanted = _op.Args(True, [False] * n, *[False] * (len(a) - 2))
        return (
            _backward(a, None, wanted, (g.expand(pred.shape[0]), loss, slope))["pred"],
            None,
            None,
            None,
            None,
        )


def _jvp(a: Any, tangents: Any) -> list[Any]:
    y = [_plain.jvp(_op, formula, a, tangents)]
    return y + [None] * bool(a.slope)


def _vmap(n: int, dims: Any, a: Any) -> Any:
    """n calls on B samples are one call on n B samples; the noise is shared where it is not batched."""
    pred = _plain.per_sample(n, a.pred, dims.pred)
    batch = pred.shape[0] // n  # type: ignore[union-attr]
    T = [_plain.per_sample(n, t, d, batch) for t, d in zip(a.T, dims.T, strict=True)]
    C = a.C.expand(n, *a.C.shape) if dims.C is None else a.C.movedim(dims.C, 0)
    C = C.flatten(0, 1) if C.dim() == 3 else C.repeat_interleave(batch, 0)
    w, rng = _plain.per_sample(n, a.w, dims.w), _plain.per_sample(n, a.rng, dims.rng)
    mask = _plain.per_sample(n, a.mask, dims.mask, batch)
    y = _op.dispatch(pred, T, C, w, mask, rng, a.draw, a.stream, a.rho, a.c, a.mean, a.slope)
    return [t.unflatten(0, (n, batch)) for t in y], [0] * len(y)


_straight: Any = super(torch.autograd.Function, _Straight).apply  # type: ignore[misc]  # as in _library
_op = Op(
    "regression_loss(Tensor pred, Tensor[] T, Tensor C, Tensor? w, Tensor? mask, Tensor? rng, SymInt draw=0, "
    "int stream=2, str rho='l2', float c=0., bool mean=True, int slope=0) -> Tensor[]",
    run=_run,
    fake=_fake,
    vmap=_vmap,
    derivative=Derivative(_keep, _backward, _jvp, outputs=1),
)
