"""normal, uniform in Triton: Philox4x32-10 and Box-Muller by the polynomials of `_reference`."""

# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl

from ._launch import narrow


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Ten rounds; all uint32."""
    for _ in tl.static_range(10):
        h0, h1 = tl.umulhi(c0, 0xD2511F53), tl.umulhi(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, c2 * 0xCD9E8D57, h0 ^ c3 ^ k1, c0 * 0xD2511F53
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def bits(u: tl.constexpr):
    """The float32 constant with these bits."""
    return tl.full((), u, tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def uni(w):
    return (w.to(tl.float32) + 0.5) * 2.3283064365386963e-10  # 2^-32


@triton.jit
def u23(w):
    return (w >> 9).to(tl.float32) * 1.1920928955078125e-07 + 5.9604644775390625e-08  # 2^-23, 2^-24


@triton.jit
def m2log(x):
    i = (x.to(tl.uint32, bitcast=True) - 0x3F3504F3).to(tl.int32, bitcast=True)
    e = (i >> 23).to(tl.float32)
    a = ((i & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    a2 = a * a
    p = bits(0x3E1C6480) * a + bits(0xBE82AF32)
    p = p * a + bits(0x3E86C11A)
    p = p * a + bits(0xBE916C9B)
    p = p * a + bits(0x3EAA3946)
    p = p * a + bits(0xBECCD00E)
    p = p * a + bits(0x3F000113)
    p = p * a + bits(0xBF2AAAAA)
    y = (a * a2) * p + a2
    y = y + e * bits(0xB63FBE8E)
    y = y - (a + a)
    return y + e * bits(0xBFB17200)


@triton.jit
def cos_sin(w):
    q = (w + 0x20000000) >> 30
    s = (w << 2).to(tl.int32, bitcast=True) >> 2
    t = (s.to(tl.float32) + 0.5) * 9.31322574615478515625e-10  # 2^-30
    z = t * t
    p = bits(0xBB998CC7) * z + bits(0x3DA34052)
    p = p * z + bits(0xBF255E12)
    sin = (p * z + bits(0x3FC90FDB)) * t
    p = bits(0x3A6A3EA3) * z + bits(0xBCAAD8A3)
    p = p * z + bits(0x3E81E0D7)
    cos = (p * z + bits(0xBF9DE9E6)) * z + 1.0
    odd = (q & 1) == 1
    a = tl.where(odd, sin, cos)
    b = tl.where(odd, cos, sin)
    return tl.where(((q + 1) & 2) == 2, -a, a), tl.where((q & 2) == 2, -b, b)


@triton.jit
def box_muller(w0, w1):
    r = tl.sqrt_rn(m2log(uni(w0)))
    cos, sin = cos_sin(w1)
    return r * cos, r * sin


@triton.jit
def draws(rng, b, start, draw, stream, NORMAL: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK numbers of sample b from element `start`, a multiple of 4, on."""
    seed, sample, base = tl.load(rng + 3 * b), tl.load(rng + 3 * b + 1), tl.load(rng + 3 * b + 2)
    c0 = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    c1 = (base + draw).to(tl.uint32)
    c3 = (stream.to(tl.int64) << 24 | ((sample >> 32) & 0xFFFFFF)).to(tl.uint32)
    # scalars take the shape of the blocks here, where every backend of Triton agrees on their type
    zero = c0 ^ c0
    w0, w1, w2, w3 = philox(
        c0, zero + c1, zero + sample.to(tl.uint32), zero + c3, seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    )
    if NORMAL:
        z0, z1 = box_muller(w0, w1)
        z2, z3 = box_muller(w2, w3)
    else:
        z0, z1, z2, z3 = u23(w0), u23(w1), u23(w2), u23(w3)
    return tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))


@triton.jit(do_not_specialize=["draw", "stream"])
def fill_kernel(out, rng, E, parts, draw, stream, NORMAL: tl.constexpr, BLOCK: tl.constexpr):
    pid = tl.program_id(0).to(tl.int64)
    b, start = pid // parts, (pid % parts) * BLOCK
    e = start + tl.arange(0, BLOCK)
    z = draws(rng, b, start, draw, stream, NORMAL, BLOCK)
    if out.dtype.element_ty == tl.float64:
        z = z.to(tl.float64)
    tl.store(out + b * E + e, narrow(z, out.dtype.element_ty), mask=e < E)
