"""The kernels once more in plain torch: what every backend must reproduce bit for bit. Meant to be read.

    linear_step   y_j = sum_i A[j, i] T_i + sum_c A[j, n_in + c] xi_c
    normal        xi: Philox4x32-10 words, Box-Muller with fixed polynomials
    uniform       odd multiples of 2^-24
    error_norm    e = sum_i C_i E_i over max(atol, rtol max(|a|, |b|)), its mean square joined in a tree
    the others    by one word, two words or rejection: noise.py
    brownian      increments of a path by halving nodes of a tree

Arithmetic is float32 (float64 for linear steps on float64): multiply, add and square root, each rounded to
nearest, no fused multiply-add. Integers are uint32 carried in int64. Tensors may lie on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


# ---- the other laws: every number from the block of its own element

LOG2E, ROUND = _float(0x3FB8AA3B), 1.5 * 2.0**23
LN2_HI, LN2_LO = _float(0x3F317200), _float(0x35BFBE8E)
EXP = [_float(b) for b in (0x3AB5CB46, 0x3C0912A1, 0x3D2AAB7B, 0x3E2AAA5A, 0x3EFFFFFF)]
SQRT_EIGHTH = _float(0x3EB504F3)
CHI_STREAM = 14


def _exponent(y: Tensor) -> tuple[Tensor, Tensor]:
    """2^k and e^r - 1 of y = k ln 2 + r."""
    k = y * LOG2E + ROUND - ROUND
    r = y - k * LN2_HI - k * LN2_LO
    return torch.ldexp(torch.ones_like(k), k.int()), r * r * _horner(EXP, r) + r


def exp(y: Tensor) -> Tensor:
    """e^y for -87 <= y, and no more than e^88."""
    two_k, p = _exponent(y.clamp(max=88))
    return two_k * (p + 1)


def one_minus_exp(x: Tensor) -> Tensor:
    """1 - e^-x of x >= 0, to full relative precision."""
    two_k, p = _exponent(-x.clamp(max=87))
    return 1 - two_k - two_k * p


def root(x: Tensor) -> Tensor:
    return x.double().sqrt().float()


def element_words(rng: Tensor, block: Tensor, draw: int, stream: int, attempt: int = 0) -> list[Tensor]:
    """The four words of each of these blocks: (B, n) each."""
    seed, sample, base = (column[:, None] for column in rng.unbind(1))
    c1 = base + draw + (attempt << 24) & M32
    counter = block[None] & M32, c1, sample & M32, stream << 24 | sample >> 32 & 0xFFFFFF
    return philox(counter, (seed & M32, seed >> 32 & M32))


def exponential(w: Tensor) -> Tensor:
    return m2log(uni(w.clamp(max=0xFFFFFF00))) * 0.5


def laplace(w: Tensor) -> Tensor:
    x = m2log(((w << 1 & M32).float() + 1) * 2.0**-32) * SQRT_EIGHTH
    return torch.where(w >> 31 == 1, -x, x)


def student_t(w0: Tensor, w1: Tensor, c: Sequence[float]) -> Tensor:
    x = m2log(uni(w0)) * c[0]
    return root(one_minus_exp(x)) * exp(x * 0.5) * (cos_sin(w1)[0] * c[1])


def accepted(rng: Tensor, block: Tensor, draw: int, stream: int, c: Sequence[float]) -> tuple[Tensor, Tensor]:
    """t of Marsaglia and Tsang, and the last word of the attempt it comes from."""
    shape = rng.shape[0], block.numel()
    t = torch.zeros(shape, device=rng.device)
    rest = torch.zeros(shape, dtype=torch.int64, device=rng.device)
    is_open = torch.ones(shape, dtype=torch.bool, device=rng.device)
    for attempt in range(256):
        w = element_words(rng, block, draw, stream, attempt)
        tx = box_muller(w[0], w[1])[0] * c[0]
        s = tx + 1
        a = s - 1
        q = (m2log(s) * 0.5 + a) * 3 + a * a * (a - 1.5)
        yes = is_open & (s > 0) & (q * c[1] < m2log(uni(w[2])) * 0.5)
        t, rest, is_open = torch.where(yes, tx, t), torch.where(yes, w[3], rest), is_open & ~yes
        if not is_open.any():
            break
    return t, rest


def gamma(rng: Tensor, element: Tensor, draw: int, stream: int, c: Sequence[float]) -> Tensor:
    t, rest = accepted(rng, element, draw, stream, c)
    s = t + 1
    g = c[1] * t * ((t + 3) * t + 3) if c[2] == 0 else c[1] * s * s * s
    if c[2] > 0:
        g = g * exp(-(m2log(uni(rest)) * 0.5 * c[2]).clamp(max=87))
    return (g + c[3]) * c[4]


def chi_factor(rng: Tensor, draw: int, stream: int, c: Sequence[float]) -> Tensor:
    """sqrt(nu / chi2_nu) of each sample, (B, 1)."""
    t, rest = accepted(rng, torch.tensor([stream], device=rng.device), draw, CHI_STREAM, c)
    y = m2log(t + 1) * 0.75
    return exp(y if c[2] == 0 else y + m2log(uni(rest)) * 0.5 * c[2]) * c[3]


def law(
    rng: Tensor, element: Tensor, draw: int, stream: int, family: str, constants: Sequence[float]
) -> Tensor:
    """The numbers of these elements, (B, n)."""
    c = torch.tensor(constants, dtype=torch.float32).tolist()  # as float32 has them
    if family == "gamma":
        return gamma(rng, element, draw, stream, c)
    shift = {"rademacher": 7, "student_t": 1}.get(family, 2)
    w = element_words(rng, element >> shift, draw, stream)

    def word(i: Tensor) -> Tensor:
        return torch.stack(w).gather(0, i.expand_as(w[0])[None])[0]

    if family == "student_t":
        first = 2 * (element & 1)
        return student_t(word(first), word(first + 1), c)
    if family == "rademacher":
        return (word(element >> 5 & 3) >> (element & 31) & 1).float() * 2 - 1
    one = word(element & 3)
    if family == "uniform":
        return u23(one)
    if family == "exponential":
        return exponential(one)
    if family == "gumbel":
        return m2log(exponential(one)) * 0.5
    if family == "bernoulli":
        return (one < int(constants[0])).float()
    if family == "laplace":
        return laplace(one)
    angle = word(element & 2 | 1)
    z = torch.where((element & 1).bool(), *box_muller(word(element & 2), angle)[::-1])
    if family == "bimodal":
        return z * c[1] + torch.where((angle >> (element & 1) & 1).bool(), -c[0], c[0])
    return z * chi_factor(rng, draw, stream, c) if family == "multivariate_t" else z


def elements(
    shape: Sequence[int], offset: int, strides: Sequence[int], symmetric: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The element whose number each position takes, in row-major order; and whether it takes one at all."""
    if not strides:
        shape, strides = [_elements(shape)], [1]
    e = torch.full((1,), offset, dtype=torch.int64, device=device)
    for n, s in zip(shape, strides, strict=True):
        e = (e[:, None] + torch.arange(n, device=device) * s).flatten()
    if not symmetric:
        return e, torch.ones_like(e, dtype=torch.bool)
    i, j = e // symmetric % symmetric, e % symmetric
    return torch.where(i > j, e + (j - i) * (symmetric - 1), e), i != j


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
    """The kernel behind `noise`: float64 is the float32 value widened, halves it rounded once."""
    shape = out.shape[1:]
    if family in ("normal", "uniform") and not (offset or strides or symmetric):
        out.copy_({"normal": normal, "uniform": uniform}[family](rng, shape, draw, stream))
        return
    e, some = elements(shape, offset, strides, symmetric, out.device)
    z = law(rng, e, draw, stream, family, constants)
    out.copy_(torch.where(some, z, 0.0).reshape(out.shape))


# ---- Brownian increments: pieces of a path are (cells, V), cells (B,) and V (1 or 2, B, *) = W and H-bar


def _halved(V: Tensor, rng: Tensor, node: Tensor, level: int, row: Tensor | None) -> tuple[Tensor, Tensor]:
    """The halves of a node of 2^-level. row: left share, right share, deviation of another clock."""
    L, key = 2.0**-level, torch.stack([rng[:, 0], rng[:, 1], node], 1)
    z = normal(key, V.shape[2:], 0, 16)
    if len(V) == 1:
        b = z * (L**0.5 / 2) if row is None else row[2] * z
        return (V * 0.5 + b, V * 0.5 - b) if row is None else (row[0] * V + b, row[1] * V - b)
    W, H = V
    z, q = z * (L**0.5 / 4), normal(key, V.shape[2:], 0, 17) * (L / 12) ** 0.5
    b = H * (1.5 / L) + z
    e, k = H * 0.125 - z * (L / 4), q * (L / 4)
    return torch.stack([W * 0.5 + b, e + k]), torch.stack([W * 0.5 - b, e - k])


def _pick(condition: Tensor, p: Any, r: Any) -> Any:
    c = condition.view(-1, *[1] * (p[1].dim() - 2))
    return torch.where(condition, p[0], r[0]), torch.where(c, p[1], r[1])


def _joined(p: Any, r: Any, depth: int) -> Any:
    """Two pieces in the order of time (Chen's relation); either may be empty."""
    V = p[1] + r[1]
    if len(V) == 2:
        d1, d2 = (n.float().view(-1, *[1] * (V.dim() - 2)) * 2.0**-depth for n in (p[0], r[0]))
        V = torch.stack([V[0], V[1] + 0.5 * (d2 * p[1][0] - d1 * r[1][0])])
    return _pick(p[0] == 0, r, _pick(r[0] == 0, p, (p[0] + r[0], V)))


def _increment(rng: Tensor, root: Tensor, i: Tensor, j: Tensor, depth: int, coefs: Tensor | None) -> Tensor:
    """The piece over [i, j), i < j (B,) each: a walk to either end, summed from the node they part in."""
    N, levels = 1 << depth, torch.arange(depth, device=i.device)[:, None]
    split = depth - ((i ^ j - 1) >> levels > 0).sum(0)  # the level of the smallest node that holds both
    whole = j - i == N >> split
    sums, rows = [], torch.zeros_like(i)  # rows: halvings on the way to i; those to j follow in coefs
    for end, cell, is_first in ((i, i, True), (j, j - 1, False)):
        here, going = root, torch.ones_like(whole)
        total = torch.zeros_like(i), torch.zeros_like(root)

        def add(where: Tensor, cells: int, V: Tensor) -> None:
            nonlocal total
            piece = torch.full_like(i, cells), V
            more = _joined(piece, total, depth) if is_first else _joined(total, piece, depth)  # noqa: B023
            total = _pick(where, more, total)

        for level in range(depth + 1):
            size, below = N >> level, level > split
            stop = going & (end % size == 0) & below | going & whole & (level == split)
            add(stop, size, here)
            going = going & ~stop
            if level == depth:
                break
            row = None
            if coefs is not None:
                at = torch.where(below & (not is_first), rows + level - split, level + 1)[0]
                row = coefs[at.clamp(max=len(coefs) - 1)]
            rows = rows + (going & is_first)
            left, right = _halved(here, rng, (N + cell) >> depth - level, level, row)
            turn = (cell >> depth - level - 1 & 1).bool()
            passed = _pick(turn, (i, left), (i, right))[1]
            add(going & below & (turn != is_first), size // 2, passed)
            here = _pick(turn, (i, right), (i, left))[1]
        sums.append(total)
    return _pick(whole, sums[0], _joined(sums[0], sums[1], depth))[1]


def brownian_(
    out: Sequence[Tensor], rng: Tensor, at: Tensor, depth: int, coefs: Tensor | None, scale: Tensor | None
) -> None:
    """The kernel behind `brownian`; coefs (K, rows, 3): each increment's own."""
    (K, B, *shape), start = out[0].shape, torch.stack([rng[:, 0], rng[:, 1], torch.zeros_like(rng[:, 0])], 1)
    for k in range(K):
        i, j = (at if at.dim() == 2 else at[k : k + 2].to(rng.device).expand(B, 2)).unbind(1)
        root = [normal(start, shape, 0, 16) * (1.0 if coefs is None else coefs[k, 0, 2])]
        if len(out) == 2:
            root.append(normal(start, shape, 0, 17) * 12**-0.5)
        good, empty = (0 <= i) & (i <= j) & (j <= 1 << depth), i == j
        one = torch.where(good & ~empty, i, 0), torch.where(good & ~empty, j, 1)
        V = _increment(rng, torch.stack(root), *one, depth, None if coefs is None else coefs[k])
        for h, (v, o) in enumerate(zip(V, out, strict=True)):
            if scale is not None:
                a = (scale if scale.dim() == 1 else scale[h])[
                    slice(None) if at.dim() == 2 else slice(k, k + 1)
                ]
                v = v * a.view(-1, *[1] * len(shape))
            c = [1] * len(shape)
            o[k] = torch.where(good.view(-1, *c), torch.where(empty.view(-1, *c), 0.0, v), torch.nan)


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
