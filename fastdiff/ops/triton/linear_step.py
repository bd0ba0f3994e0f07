"""linear_step in Triton: a program takes a part of one sample, reads every input, then writes every output.

y_j = sum_i A[.., j, i] T_i + sum_c A[.., j, n_in + c] xi_c
"""

# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ._launch import OPTIONS, block, narrow, on, widen
from .normal import draws as noise

SCALAR, SAMPLE, GROUP = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit(do_not_specialize=["d0", "d1", "d2", "d3", "s0", "s1", "s2", "s3"])
def step_kernel(
    T,
    out,
    A,
    index,
    rng,
    E,
    parts,
    groups,
    part,
    index_step,
    d0,
    d1,
    d2,
    d3,
    s0,
    s1,
    s2,
    s3,
    N_IN: tl.constexpr,
    N_OUT: tl.constexpr,
    N_NOISE: tl.constexpr,
    CONSTANT: tl.constexpr,
    LAYOUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    wide: tl.constexpr = A.dtype.element_ty
    columns: tl.constexpr = N_IN + N_NOISE
    pid = tl.program_id(0).to(tl.int64)
    b, start = pid // parts, (pid % parts) * BLOCK
    e = start + tl.arange(0, BLOCK)
    inside = e < E
    known = inside
    table = A
    if LAYOUT == 1:
        table = A + b * N_OUT * columns
    if LAYOUT == 2:
        g = tl.load(index + b * index_step + e // part, mask=inside, other=0)
        known = inside & (g >= 0) & (g < groups)  # a group that A does not have gives NaN, never a stray read
        table = A + g.to(tl.int64) * N_OUT * columns

    y = ()
    for i in tl.static_range(columns):
        if i < N_IN:
            at = e
            if not (CONSTANT >> i) & 1:
                at = b * E + e
            t = widen(tl.load(T[i] + at, mask=inside, other=0.0), wide)
        else:
            d = (d0, d1, d2, d3)
            s = (s0, s1, s2, s3)
            t = noise(rng, b, start, d[i - N_IN], s[i - N_IN], True, BLOCK).to(wide)
        new = ()
        for j in tl.static_range(N_OUT):
            if LAYOUT == 2:
                a = tl.load(table + j * columns + i, mask=known, other=float("nan"))
            else:
                a = tl.load(table + j * columns + i)
            p = tl.where(a == 0, 0.0, a * t)
            if i == 0:
                new = new + (p,)
            else:
                new = new + (y[j] + p,)
        y = new
    for j in tl.static_range(N_OUT):
        tl.store(out[j] + b * E + e, narrow(y[j], out[j].dtype.element_ty), mask=inside)


def linear_step_(
    T: Sequence[Tensor],
    A: Tensor,
    index: Tensor | None,
    rng: Tensor | None,
    draws: Sequence[int],
    streams: Sequence[int],
    out: Sequence[Tensor],
) -> None:
    """The kernel behind `linear_step`: contiguous tensors, A in the arithmetic's dtype."""
    if out[0].numel() == 0:
        return
    B = out[0].shape[0]
    E = out[0].numel() // B
    constant = sum(1 << i for i, t in enumerate(T) if t.shape[0] != B)
    layout, part, index_step = (0, 1, 0) if A.dim() == 2 else (1, 1, 0)
    if index is not None:
        layout, part = 2, E // index.shape[1]
        index_step = index.shape[1] if index.shape[0] == B else 0
    if layout == 0 and not draws and not constant:  # samples do not matter: one long row
        B, E = 1, B * E
    size = block(E)
    parts = triton.cdiv(E, size)
    d, s = (*draws, 0, 0, 0, 0)[:4], (*streams, 0, 0, 0, 0)[:4]
    with on(out[0]):
        step_kernel[(B * parts,)](
            tuple(T),
            tuple(out),
            A,
            index,
            rng,
            E,
            parts,
            A.shape[0],
            part,
            index_step,
            *d,
            *s,
            N_IN=len(T),
            N_OUT=len(out),
            N_NOISE=len(draws),
            CONSTANT=constant,
            LAYOUT=layout,
            BLOCK=size,
            **OPTIONS,
        )
