"""The laws of noise in Triton: every number from the block of its own element, as in `_reference`."""

# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ._launch import OPTIONS, block, narrow, on
from .normal import bits, box_muller, cos_sin, fill_kernel, m2log, philox, u23, uni

SHIFT = {"rademacher": 7, "student_t": 1, "gamma": 0}  # of an element, to its block; else 2


@triton.jit
def exponent(y):
    """2^k and e^r - 1 of y = k ln 2 + r."""
    t = y * bits(0x3FB8AA3B) + 12582912.0  # 1.5 2^23
    k = t - 12582912.0
    two_k = ((t.to(tl.uint32, bitcast=True) + 0xB4C0007F) << 23).to(tl.float32, bitcast=True)
    r = y - k * bits(0x3F317200)
    r = r - k * bits(0x35BFBE8E)
    q = bits(0x3AB5CB46) * r + bits(0x3C0912A1)
    q = q * r + bits(0x3D2AAB7B)
    q = q * r + bits(0x3E2AAA5A)
    q = q * r + bits(0x3EFFFFFF)
    return two_k, r * r * q + r


@triton.jit
def exp(y):
    two_k, p = exponent(tl.minimum(y, 88.0))
    return two_k * (p + 1.0)


@triton.jit
def one_minus_exp(x):
    two_k, p = exponent(-tl.minimum(x, 87.0))
    return 1.0 - two_k - two_k * p


@triton.jit
def exponential(w):
    return m2log(uni(tl.where(w < 0xFFFFFF00, w, 0xFFFFFF00))) * 0.5


@triton.jit
def accepted(c0, c1, c2, c3, k0, k1, f0, f1):
    """t of Marsaglia and Tsang, and the last word of its attempt. All arguments have one shape."""
    t = f0 * 0.0
    rest = c0 ^ c0
    is_open = (c0 ^ c0) + 1
    attempt = 0
    while (tl.max(is_open, 0) > 0) & (attempt < 256):
        w0, w1, w2, w3 = philox(c0, c1 + (attempt << 24).to(tl.uint32), c2, c3, k0, k1)
        x, _ = box_muller(w0, w1)
        tx = x * f0
        s = tx + 1.0
        a = s - 1.0
        q = (m2log(s) * 0.5 + a) * 3.0 + a * a * (a - 1.5)
        yes = (is_open == 1) & (s > 0.0) & (q * f1 < m2log(uni(w2)) * 0.5)
        t = tl.where(yes, tx, t)
        rest = tl.where(yes, w3, rest)
        is_open = tl.where(yes, 0, is_open)
        attempt += 1
    return t, rest


@triton.jit
def laplace(w):
    x = m2log(((w << 1).to(tl.float32) + 1.0) * 2.3283064365386963e-10) * bits(0x3EB504F3)  # 2^-32
    return tl.where((w >> 31) == 1, -x, x)


@triton.jit(do_not_specialize=["draw", "stream", "offset", "symmetric", "f0", "f1", "f2", "f3", "f4"])
def law_kernel(
    out,
    rng,
    E,
    parts,
    draw,
    stream,
    offset,
    n1,
    n2,
    n3,
    t0,
    t1,
    t2,
    t3,
    symmetric,
    f0,
    f1,
    f2,
    f3,
    f4,
    ones,
    FAMILY: tl.constexpr,
    SHIFT: tl.constexpr,
    BOOST: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    b, start = pid // parts, (pid % parts) * BLOCK
    at = start + tl.arange(0, BLOCK)
    inside = at < E
    i3, rest = at % n3, at // n3
    i2, rest = rest % n2, rest // n2
    i1, i0 = rest % n1, rest // n1
    e = offset + i0 * t0 + i1 * t1 + i2 * t2 + i3 * t3
    some = inside
    if SYMMETRIC:
        row, column = e // symmetric % symmetric, e % symmetric
        e = tl.where(row > column, e + (column - row) * (symmetric - 1), e)
        some = row != column

    seed, sample, base = tl.load(rng + 3 * b), tl.load(rng + 3 * b + 1), tl.load(rng + 3 * b + 2)
    c0 = (e >> SHIFT).to(tl.uint32)
    zero = c0 ^ c0  # scalars take the shape of the blocks
    c1 = zero + (base + draw).to(tl.uint32)
    c2 = zero + sample.to(tl.uint32)
    high = (sample >> 32) & 0xFFFFFF
    c3 = zero + (stream.to(tl.int64) << 24 | high).to(tl.uint32)
    k0, k1 = zero + seed.to(tl.uint32), zero + (seed >> 32).to(tl.uint32)
    like = zero.to(tl.float32)
    if FAMILY == "gamma":
        t, last = accepted(c0, c1, c2, c3, k0, k1, like + f0, like + f1)
        if BOOST == 0:
            g = f1 * t * ((t + 3.0) * t + 3.0)
        else:
            s = t + 1.0
            g = f1 * s * s * s
        if BOOST > 0:
            g = g * exp(-tl.minimum(m2log(uni(last)) * 0.5 * f2, 87.0))
        z = (g + f3) * f4
    else:
        w0, w1, w2, w3 = philox(c0, c1, c2, c3, k0, k1)
        low = e.to(tl.uint32)
        if FAMILY == "student_t":
            second = (low & 1) == 1
            x = m2log(uni(tl.where(second, w2, w0))) * f0
            cos, _ = cos_sin(tl.where(second, w3, w1))
            z = tl.sqrt_rn(one_minus_exp(x)) * exp(x * 0.5) * (cos * f1)
        elif FAMILY == "rademacher":
            odd = (low & 32) != 0
            w = tl.where((low & 64) != 0, tl.where(odd, w3, w2), tl.where(odd, w1, w0))
            z = ((w >> (low & 31)) & 1).to(tl.float32) * 2.0 - 1.0
        else:
            first, second = (low & 1) == 1, (low & 2) == 2
            radius, angle = tl.where(second, w2, w0), tl.where(second, w3, w1)
            w = tl.where(first, angle, radius)
            if FAMILY == "uniform":
                z = u23(w)
            elif FAMILY == "exponential":
                z = exponential(w)
            elif FAMILY == "gumbel":
                z = m2log(exponential(w)) * 0.5
            elif FAMILY == "bernoulli":
                z = tl.where(w.to(tl.int64) < ones, 1.0, 0.0)
            elif FAMILY == "laplace":
                z = laplace(w)
            else:
                x, y = box_muller(radius, angle)
                z = tl.where(first, y, x)
                if FAMILY == "bimodal":
                    z = z * f1 + tl.where(((angle >> (low & 1)) & 1) == 1, -f0, f0)
                if FAMILY == "multivariate_t":
                    element = zero + stream.to(tl.int64).to(tl.uint32)
                    of = zero + (high | 14 << 24).to(tl.uint32)  # stream 14
                    t, last = accepted(element, c1, c2, of, k0, k1, like + f0, like + f1)
                    y = m2log(t + 1.0) * 0.75
                    if BOOST > 0:
                        y = y + m2log(uni(last)) * 0.5 * f2
                    z = z * (exp(y) * f3)
    if SYMMETRIC:
        z = tl.where(some, z, 0.0)
    if out.dtype.element_ty == tl.float64:
        z = z.to(tl.float64)
    tl.store(out + b * E + at, narrow(z, out.dtype.element_ty), mask=inside)


def fill_(
    out: Tensor,
    rng: Tensor,
    draw: int,
    stream: int,
    family: str,
    constants: Sequence[float] = (),
    offset: int = 0,
    strides: Sequence[int] = (),
    symmetric: int = 0,
) -> None:
    """The kernel behind `noise`."""
    if out.numel() == 0:
        return
    B = out.shape[0]
    E = out.numel() // B
    size = block(E)
    parts = triton.cdiv(E, size)
    if family in ("normal", "uniform") and not (offset or strides or symmetric):
        with on(out):
            fill_kernel[(B * parts,)](
                out, rng, E, parts, draw, stream, NORMAL=family == "normal", BLOCK=size, **OPTIONS
            )
        return
    sizes, steps = (list(out.shape[1:]), list(strides)) if strides else ([E], [1])
    sizes, steps = [1] * (4 - len(sizes)) + sizes, [0] * (4 - len(steps)) + steps
    counts = family == "bernoulli"
    f = [*([] if counts else constants), 0.0, 0.0, 0.0, 0.0, 0.0][:5]
    with on(out):
        law_kernel[(B * parts,)](
            out,
            rng,
            E,
            parts,
            draw,
            stream,
            offset,
            *sizes[1:],
            *steps,
            symmetric,
            *f,
            int(constants[0]) if counts else 0,
            FAMILY=family,
            SHIFT=SHIFT.get(family, 2),
            BOOST=(f[2] > 0) - (f[2] < 0),
            SYMMETRIC=symmetric != 0,
            BLOCK=size,
            **OPTIONS,
        )
