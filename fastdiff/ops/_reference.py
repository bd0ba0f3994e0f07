"""The kernels once more in plain torch: what every backend must reproduce bit for bit. Meant to be read.

    linear_step   y_j = sum_i A[j, i] T_i + sum_c A[j, n_in + c] xi_c
    normal        xi: Philox4x32-10 words, Box-Muller with fixed polynomials
    uniform       odd multiples of 2^-24
    error_norm    e = sum_i C_i E_i over max(atol, rtol max(|a|, |b|)), its mean square joined in a tree

Arithmetic is float32 (float64 for linear steps on float64): multiply, add and square root, each rounded to
nearest, no fused multiply-add. Integers are uint32 carried in int64. Tensors may lie on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

M32 = 0xFFFFFFFF


# ---- words


def philox(counter: Sequence[Tensor], key: Sequence[Tensor], rounds: int = 10) -> list[Tensor]:
    """Philox4x32: four counter words and two key words, uint32 in int64 -> four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # int64 wraps, which keeps the 64 bits that count
        c0, c1, c2, c3 = (p1 >> 32 & M32) ^ c1 ^ k0, p1 & M32, (p0 >> 32 & M32) ^ c3 ^ k1, p0 & M32
        k0, k1 = k0 + 0x9E3779B9 & M32, k1 + 0xBB67AE85 & M32
    return [c0, c1, c2, c3]


def words(rng: Tensor, elements: int, draw: int, stream: int) -> list[Tensor]:
    """The four words of each block of four elements, (B, blocks) each. rng: seed, sample id, draw base."""
    seed, sample, base = (column[:, None] for column in rng.unbind(1))
    block = torch.arange((elements + 3) // 4, device=rng.device)[None]
    counter = block & M32, base + draw & M32, sample & M32, stream << 24 | sample >> 32 & 0xFFFFFF
    return philox(counter, (seed & M32, seed >> 32 & M32))


def _lanes(four: Sequence[Tensor], rng: Tensor, shape: Sequence[int], elements: int) -> Tensor:
    """(B, blocks) x 4 -> (B, *sample shape): word k of block b belongs to element 4 b + k."""
    return torch.stack(list(four), -1).flatten(1)[:, :elements].reshape(rng.shape[0], *shape)


# ---- words to floats


def _float(bits: int) -> float:
    """The float32 with this bit pattern, exactly, as a Python float."""
    return float(torch.tensor(bits - (bits >> 31 << 32), dtype=torch.int32).view(torch.float32))


MINUS_2LN2_HI, MINUS_2LN2_LO = _float(0xBFB17200), _float(0xB63FBE8E)
LOG = [
    _float(b)
    for b in (0x3E1C6480, 0xBE82AF32, 0x3E86C11A, 0xBE916C9B, 0x3EAA3946, 0xBECCD00E, 0x3F000113, 0xBF2AAAAA)
]
SIN = [_float(b) for b in (0xBB998CC7, 0x3DA34052, 0xBF255E12, 0x3FC90FDB)]
COS = [_float(b) for b in (0x3A6A3EA3, 0xBCAAD8A3, 0x3E81E0D7, 0xBF9DE9E6)]


def _horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    p = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = p * x + c
    return p


def u23(w: Tensor) -> Tensor:
    """Uniform on the odd multiples of 2^-24: never 0, never 1."""
    return (w >> 9).float() * 2.0**-23 + 2.0**-24


def uni(w: Tensor) -> Tensor:
    """Uniform with full resolution near 0, in [2^-33, 1]."""
    return (w.float() + 0.5) * 2.0**-32


def m2log(x: Tensor) -> Tensor:
    """-2 ln x of a positive normal float32: exponent off, polynomial in m - 1, m in [sqrt(1/2), sqrt 2)."""
    i = x.view(torch.int32) - 0x3F3504F3
    e = (i >> 23).float()
    a = ((i & 0x007FFFFF) + 0x3F3504F3).view(torch.float32) - 1
    a2 = a * a
    y = a * a2 * _horner(LOG, a) + a2
    y = y + e * MINUS_2LN2_LO
    y = y - (a + a)
    return y + e * MINUS_2LN2_HI


def cos_sin(w: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi (w + 1/2) / 2^32: nearest quadrant q, polynomials in t in [-1/2, 1/2]."""
    q = (w + 0x20000000 & M32) >> 30
    s = (w & 0x3FFFFFFF) - (w << 1 & 0x40000000)  # the low 30 bits, signed
    t = (s.float() + 0.5) * 2.0**-30
    z = t * t
    sin, cos = _horner(SIN, z) * t, _horner(COS, z) * z + 1
    odd = (q & 1).bool()
    a, b = torch.where(odd, sin, cos), torch.where(odd, cos, sin)
    return torch.where((q + 1 & 2).bool(), -a, a), torch.where((q & 2).bool(), -b, b)


def box_muller(w0: Tensor, w1: Tensor) -> tuple[Tensor, Tensor]:
    # torch's float32 sqrt is not correctly rounded on CPU; through float64 it is
    r = m2log(uni(w0)).double().sqrt().float()
    cos, sin = cos_sin(w1)
    return r * cos, r * sin


def _elements(shape: Sequence[int]) -> int:
    n = 1
    for s in shape:
        n *= s
    return n


def normal(rng: Tensor, shape: Sequence[int], draw: int, stream: int) -> Tensor:
    """Standard normals (B, *shape), float32."""
    n = _elements(shape)
    w = words(rng, n, draw, stream)
    return _lanes((*box_muller(w[0], w[1]), *box_muller(w[2], w[3])), rng, shape, n)


def uniform(rng: Tensor, shape: Sequence[int], draw: int, stream: int) -> Tensor:
    """Uniforms (B, *shape), float32."""
    n = _elements(shape)
    return u23(_lanes(words(rng, n, draw, stream), rng, shape, n))


def fill_(out: Tensor, rng: Tensor, draw: int, stream: int, family: str) -> None:
    """The kernel behind `normal`, `uniform`: float64 is the float32 value widened, halves it rounded once."""
    out.copy_({"normal": normal, "uniform": uniform}[family](rng, out.shape[1:], draw, stream))


# ---- the linear step


def _column(A: Tensor, index: Tensor | None, j: int, i: int, shape: Sequence[int]) -> Tensor:
    """A[.., j, i] in a shape that broadcasts over (B, *shape)."""
    a = A[..., j, i]
    if A.dim() == 2:
        return a.reshape(1)
    if index is None:
        return a.reshape(-1, *[1] * len(shape))
    a = a[index.long()]  # (B or 1, K): one coefficient for each K-th part of the sample
    return a.repeat_interleave(_elements(shape) // index.shape[1], 1).reshape(a.shape[0], *shape)


def round_to(y: Tensor, dtype: torch.dtype) -> Tensor:
    """One rounding to nearest even. torch takes float64 to half through float32, which rounds twice: the step
    to float32 is therefore rounded to odd, which keeps the side that the second rounding must see."""
    if y.dtype != torch.float64 or dtype not in (torch.float16, torch.bfloat16):
        return y.to(dtype)
    f = y.float()
    bits, back = f.view(torch.int32), f.double()
    fix = (back != y) & (bits & 1 == 0) & ~y.isnan()
    step = torch.where(back.abs() > y.abs(), -1, 1).to(torch.int32)
    return torch.where(fix, bits + step, bits).view(torch.float32).to(dtype)


def linear_step_(
    T: Sequence[Tensor],
    A: Tensor,
    index: Tensor | None,
    rng: Tensor | None,
    draws: Sequence[int],
    streams: Sequence[int],
    out: Sequence[Tensor],
) -> None:
    """The kernel behind `linear_step`. A zero coefficient contributes +0 whatever its tensor holds."""
    double = any(t.dtype == torch.float64 for t in (*T, *out))
    dtype, shape = torch.float64 if double else torch.float32, out[0].shape[1:]
    A = A.to(dtype)
    columns = [t.to(dtype) for t in T]
    columns += [normal(rng, shape, d, s).to(dtype) for d, s in zip(draws, streams, strict=True)]  # type: ignore[arg-type]
    results = []
    for j in range(len(out)):
        acc = None
        for i, column in enumerate(columns):
            a = _column(A, index, j, i, shape)
            p = torch.where(a == 0, 0.0, a * column)
            acc = p if acc is None else acc + p
        results.append(acc)
    for y, o in zip(results, out, strict=True):  # after all were read: out may be one of T
        o.copy_(round_to(y.expand(o.shape), o.dtype))


# ---- the norm of an error


def _larger(a: Tensor, b: Tensor) -> Tensor:
    """The larger one; a NaN stays, whichever it is."""
    return torch.where((a > b) | (a != a), a, b)


def _join(q: Tensor, largest: bool) -> Tensor:
    """(B, n) -> (B,): a binary tree in chunks of 1024, then over what they left, until one is left."""
    while q.shape[1] > 1:
        n = q.shape[1]
        chunks = torch.nn.functional.pad(q, (0, -n % 1024)).unflatten(1, (-1, 1024))
        for _ in range(10):
            first, second = chunks.chunk(2, -1)
            chunks = _larger(first, second) if largest else first + second
        q = chunks[..., 0]
    return q[:, 0]


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
    """The kernel behind `error_norm`; `work` is for the kernels that join chunk by chunk."""
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in (*E, a, b)) else torch.float32
    n = _elements(a.shape[1:])
    if n == 0:
        out.zero_()
        return
    rows = [t.to(dtype).reshape(out.shape[0], n) for t in (*E, a, b)]
    e = torch.zeros_like(rows[0])
    for i, t in enumerate(rows[:-2]):
        c = C[..., i].to(dtype).reshape(-1, 1)
        p = torch.where(c == 0, 0.0, c * t)
        e = e + p if i else p
    bound = torch.full_like(rows[-1], rtol) * _larger(rows[-2].abs(), rows[-1].abs())
    bound = _larger(bound, torch.full_like(bound, atol))
    q = torch.where((e == 0) & (bound == 0), 0.0, e / bound).double()
    if norm == "max":
        out.copy_(_join(q.abs(), True))
    else:
        # float64 to float32 rounds once; its root goes through float64 as that of `box_muller`
        out.copy_((_join(q * q, False) / n).float().double().sqrt().float())
