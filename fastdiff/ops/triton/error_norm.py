"""error_norm in Triton: a program joins a chunk of 1024 elements of a sample, then one joins the chunks.

A tree of halves, element i with element i + half, in the order of `_reference`: tl.sum promises no order.
"""

# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ._launch import OPTIONS, on, widen

CHUNK = 1024


@triton.jit
def larger(a, b):
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def quotient(a, b):
    if a.dtype == tl.float32:
        q = tl.div_rn(a, b)
    else:
        q = a / b
    return q


@triton.jit
def join(q, LARGEST: tl.constexpr, BLOCK: tl.constexpr, LEVELS: tl.constexpr):
    """(BLOCK,) -> a number, BLOCK = 2^LEVELS."""
    for k in tl.static_range(LEVELS - 1):
        first, second = tl.split(tl.permute(tl.reshape(q, (2, BLOCK >> (k + 1))), (1, 0)))
        q = larger(first, second) if LARGEST else first + second
    first, second = tl.split(q)
    return larger(first, second) if LARGEST else first + second


@triton.jit
def chunk_kernel(
    T,
    C,
    a,
    b,
    work,
    limits,
    E,
    chunks,
    C_step,
    N_IN: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
):
    wide: tl.constexpr = C.dtype.element_ty
    pid = tl.program_id(0).to(tl.int64)
    sample, start = pid // chunks, (pid % chunks) * BLOCK
    k = start + tl.arange(0, BLOCK)
    inside = k < E
    at = sample * E + k
    e = tl.zeros((BLOCK,), wide)
    for i in tl.static_range(N_IN):
        c = tl.load(C + sample * C_step + i)
        p = tl.where(c == 0, 0.0, c * widen(tl.load(T[i] + at, mask=inside, other=0.0), wide))
        if i == 0:
            e = p
        else:
            e = e + p
    x = tl.abs(widen(tl.load(a + at, mask=inside, other=0.0), wide))
    y = tl.abs(widen(tl.load(b + at, mask=inside, other=0.0), wide))
    atol, rtol = tl.load(limits), tl.load(limits + 1)
    bound = larger(rtol * larger(x, y), atol + tl.zeros((BLOCK,), wide))
    none = (e == 0) & (bound == 0)
    q = tl.where(none, 0.0, quotient(e, tl.where(none, 1.0, bound))).to(tl.float64)
    q = tl.where(inside, tl.abs(q) if LARGEST else q * q, 0.0)
    tl.store(work + pid, join(q, LARGEST, BLOCK, LEVELS))


@triton.jit
def end_kernel(work, out, E, chunks, LARGEST: tl.constexpr, BLOCK: tl.constexpr, LEVELS: tl.constexpr):
    """The tree over the chunks of a sample, in place, one program for each."""
    pid = tl.program_id(0).to(tl.int64)
    row = work + pid * chunks
    left = chunks
    while left > 1:
        groups = (left + BLOCK - 1) // BLOCK
        for g in range(groups):
            i = g * BLOCK + tl.arange(0, BLOCK)
            q = tl.load(row + i, mask=i < left, other=0.0)
            tl.debug_barrier()  # all have read before one writes
            tl.store(row + g, join(q, LARGEST, BLOCK, LEVELS))
            tl.debug_barrier()
        left = groups
    x = tl.load(row)
    if LARGEST:
        tl.store(out + pid, x.to(tl.float32))
    else:
        tl.store(out + pid, tl.sqrt_rn((x / (tl.zeros((), tl.float64) + E)).to(tl.float32)))


def error_norm_(
    E: Sequence[Tensor],
    C: Tensor,
    a: Tensor,
    b: Tensor,
    atol: float,
    rtol: float,
    norm: str,
    work: Tensor,
    out: Tensor,
) -> None:
    """The kernel behind `error_norm`: contiguous tensors, C in the arithmetic's dtype."""
    B = out.shape[0]
    if B == 0:
        return
    n = a.numel() // B
    if n == 0:
        out.zero_()
        return
    size = min(CHUNK, max(2, triton.next_power_of_2(n)))
    chunks, levels = work.shape[1], size.bit_length() - 1
    options = {"LARGEST": norm == "max", **OPTIONS}
    limits = C.new_full((2,), atol)  # on the device without a copy to it
    limits[1:].fill_(rtol)
    step = C.shape[-1] if C.dim() == 2 else 0
    with on(a):
        chunk_kernel[(B * chunks,)](
            tuple(E), C, a, b, work, limits, n, chunks, step,
            N_IN=len(E), BLOCK=size, LEVELS=levels, **options,
        )  # fmt: skip
        end_kernel[(B,)](work, out, n, chunks, BLOCK=CHUNK, LEVELS=10, **options)
