"""brownian in Triton: a program walks the tree for a part of one sample and one increment.

First to the node that the two ends part in, from there to the first end, then to the second. Levels and cells
are numbers of the whole program, so every branch is one.
"""

# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ._launch import OPTIONS, block, narrow, on
from .normal import absolute, bits

W_STREAM, H_STREAM = tl.constexpr(16), tl.constexpr(17)
DOWN, FIRST, LAST, DONE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def power_of_two(zero, e):
    """2^e in every element; zero: a block of uint32 zeros."""
    return (zero + ((127 + e) << 23).to(tl.uint32)).to(tl.float32, bitcast=True)


@triton.jit
def root_of_length(zero, level, even, odd):
    """sqrt(c 2^-level) from sqrt(c) and sqrt(c / 2), rounded once: a power of four moves exponents only."""
    return tl.where(level % 2 == 1, odd, even) * power_of_two(zero, -(level // 2))


@triton.jit
def joined(n1, W1, H1, n2, W2, H2, zero, depth, LEVY: tl.constexpr):
    """Two pieces in the order of time; either may be empty (no cells)."""
    W, H = W1 + W2, H1 + H2
    if LEVY:
        unit = power_of_two(zero, -depth)
        d1, d2 = (
            (zero + n1.to(tl.uint32)).to(tl.float32) * unit,
            (zero + n2.to(tl.uint32)).to(tl.float32) * unit,
        )
        H = H + 0.5 * (d2 * W1 - d1 * W2)
    W = tl.where(n1 == 0, W2, tl.where(n2 == 0, W1, W))
    H = tl.where(n1 == 0, H2, tl.where(n2 == 0, H1, H))
    return n1 + n2, W, H


@triton.jit(do_not_specialize=["first", "last", "depth", "rows"])
def brownian_kernel(
    W_out,
    H_out,
    rng,
    at,
    coefs,
    scale,
    H_scale,
    first,
    last,
    depth,
    rows,
    E,
    parts,
    LEVY: tl.constexpr,
    IN_MEMORY: tl.constexpr,
    OWN: tl.constexpr,
    CLOCK: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    b, start = pid // parts, (pid % parts) * BLOCK
    if IN_MEMORY:
        i, j = tl.load(at + 2 * b * OWN), tl.load(at + 2 * b * OWN + 1)
    else:
        i, j = first.to(tl.int64), last.to(tl.int64)
    N = first.to(tl.int64) * 0 + 1 << depth
    good = (i >= 0) & (i <= j) & (j <= N)

    stream = tl.full((), W_STREAM, tl.int64)
    W = absolute(rng, b, start, N * 0, stream, True, BLOCK)
    zero = tl.zeros((BLOCK,), tl.uint32)
    nothing = W * 0.0
    H = nothing
    if LEVY:
        H = absolute(rng, b, start, N * 0, stream + 1, True, BLOCK) * bits(0x3E93CD3A)  # sqrt(1 / 12)
    row = N * 0
    if CLOCK:
        W = tl.load(coefs + 2) * W
        row += 1
    node, lo, size, level = N * 0 + 1, N * 0, N, depth * 0
    left_n, left_W, left_H = N * 0, nothing, nothing
    right_n, right_W, right_H = N * 0, nothing, nothing
    other_W, other_H, other_lo, other_size, other_level = nothing, nothing, N * 0, N * 0, depth * 0
    phase = tl.where(good & (i < j), depth * 0, depth * 0 + DONE)
    while phase < DONE:
        begins, ends = i == lo, j == lo + size
        if (phase == DOWN) & begins & ends | (phase == FIRST) & begins | (phase == LAST) & ends:
            if phase == LAST:
                right_n, right_W, right_H = joined(right_n, right_W, right_H, size, W, H, zero, depth, LEVY)
            else:
                left_n, left_W, left_H = joined(size, W, H, left_n, left_W, left_H, zero, depth, LEVY)
            if phase == FIRST:
                W, H, lo, size, level = other_W, other_H, other_lo, other_size, other_level
                node = (N + lo) // size
                phase = phase * 0 + LAST
            else:
                phase = phase * 0 + DONE
        else:
            z = absolute(rng, b, start, node, stream, True, BLOCK)
            size = size // 2
            mid = lo + size
            h = W * 0.5
            if LEVY:
                q = absolute(rng, b, start, node, stream + 1, True, BLOCK)
                x = root_of_length(zero, level, bits(0x3F800000), bits(0x3F3504F3)) * 0.25 * z
                y = root_of_length(zero, level, bits(0x3E93CD3A), bits(0x3E5105EC)) * q
                quarter = power_of_two(zero, -level - 2)
                s = 1.5 * power_of_two(zero, level) * H + x
                e, k = H * 0.125 - quarter * x, quarter * y
                a_W, a_H, c_W, c_H = h + s, e + k, h - s, e - k
            elif CLOCK:
                good = good & (row < rows)
                to = coefs + 3 * tl.where(row < rows, row, 0)
                s = tl.load(to + 2) * z
                a_W, c_W = tl.load(to) * W + s, tl.load(to + 1) * W - s
                a_H, c_H = H, H
                row += 1
            else:
                s = root_of_length(zero, level, bits(0x3F800000), bits(0x3F3504F3)) * 0.5 * z
                a_W, a_H, c_W, c_H = h + s, H, h - s, H
            go_left = tl.where(phase == LAST, j <= mid, i < mid)
            level += 1
            if (phase == DOWN) & go_left & (mid < j):
                other_W, other_H, other_lo, other_size, other_level = c_W, c_H, mid, size, level
                phase = phase * 0 + FIRST
            else:
                if (phase == FIRST) & go_left:
                    left_n, left_W, left_H = joined(size, c_W, c_H, left_n, left_W, left_H, zero, depth, LEVY)
                if (phase == LAST) & (go_left == 0):
                    right_n, right_W, right_H = joined(
                        right_n, right_W, right_H, size, a_W, a_H, zero, depth, LEVY
                    )
            W, H = tl.where(go_left, a_W, c_W), tl.where(go_left, a_H, c_H)
            node = tl.where(go_left, 2 * node, 2 * node + 1)
            lo = tl.where(go_left, lo, mid)

    n, W, H = joined(left_n, left_W, left_H, right_n, right_W, right_H, zero, depth, LEVY)
    e = start + tl.arange(0, BLOCK)
    if SCALED:
        W = W * tl.load(scale + b * OWN)
    W = tl.where(good, tl.where(i == j, 0.0, W), float("nan"))
    if W_out.dtype.element_ty == tl.float64:
        W = W.to(tl.float64)
    tl.store(W_out + b * E + e, narrow(W, W_out.dtype.element_ty), mask=e < E)
    if LEVY:
        if SCALED:
            H = H * tl.load(H_scale + b * OWN)
        H = tl.where(good, tl.where(i == j, 0.0, H), float("nan"))
        if W_out.dtype.element_ty == tl.float64:
            H = H.to(tl.float64)
        tl.store(H_out + b * E + e, narrow(H, H_out.dtype.element_ty), mask=e < E)


def _row(scale: Tensor | None, kind: int, k: int) -> Tensor | None:
    return None if scale is None else scale.view(-1, scale.shape[-1])[kind, k:]


def brownian_(
    out: Sequence[Tensor], rng: Tensor, at: Tensor, depth: int, coefs: Tensor | None, scale: Tensor | None
) -> None:
    """The kernel behind `brownian`; coefs (K, rows, 3): each increment's own."""
    if out[0].numel() == 0:
        return
    (K, B), own = out[0].shape[:2], at.dim() == 2
    E = out[0][0].numel() // B
    in_memory = own or not at.is_cpu
    ends = [] if in_memory else at.tolist()
    size = block(E)
    parts = triton.cdiv(E, size)
    with on(out[0]):
        for k in range(K):
            brownian_kernel[(B * parts,)](
                out[0][k],
                out[-1][k],
                rng,
                None if not in_memory else at if own else at[k:],
                None if coefs is None else coefs[k],
                _row(scale, 0, 0 if own else k),
                _row(scale, -1, 0 if own else k),
                0 if in_memory else ends[k],
                1 if in_memory else ends[k + 1],
                depth,
                0 if coefs is None else coefs.shape[1],
                E,
                parts,
                LEVY=len(out) == 2,
                IN_MEMORY=in_memory,
                OWN=own,
                CLOCK=coefs is not None,
                SCALED=scale is not None,
                BLOCK=size,
                **OPTIONS,
            )
