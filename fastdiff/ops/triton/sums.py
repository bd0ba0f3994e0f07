"""dots, regression_loss and gaussian_kl in Triton: a program joins a chunk of 1024 elements of a sample, then
one joins a sample's chunks.

The tree is that of `error_norm`; functions are made of multiply, add, divide and bits, as in
`_reference_sums`.
"""

# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportOptionalMemberAccess=false, reportAssignmentType=false
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import OPTIONS, narrow, on, widen
from .error_norm import CHUNK, join
from .normal import draws as noise

L2, L1, HUBER, PSEUDO = (tl.constexpr(k) for k in range(4))
RHO = {"l2": 0, "l1": 1, "huber": 2, "pseudo_huber": 3}


@triton.jit
def wide(x):
    """A float64 constant: one by itself would become float32."""
    return tl.full((), x, tl.float64)


@triton.jit
def square_root(x):
    large, small = x > wide(1.2676506002282294e30), x < wide(7.888609052210118e-31)  # 2^100, 2^-100
    down, up = wide(2.938735877055719e-39), wide(3.402823669209385e38)  # 2^-128, 2^128
    s = tl.where(large, x * down, tl.where(small, x * up, x))
    y = tl.sqrt_rn(s.to(tl.float32)).to(tl.float64)
    for _ in tl.static_range(2):
        y = tl.where(y == 0, y, (y + s / tl.where(y == 0, 1.0, y)) * wide(0.5))
    far, near = wide(1.8446744073709552e19), wide(5.421010862427522e-20)  # 2^64, 2^-64
    return tl.where(large, y * far, tl.where(small, y * near, y))


@triton.jit
def exponential(y):
    zero = y - y
    t = y * wide(1.4426950408889634) + wide(6755399441055744.0)
    k = t - wide(6755399441055744.0)
    r = y - k * wide(0.6931471787393093)
    r = r - k * wide(1.8206359985041462e-09)
    p = zero + wide(1.6059043836821613e-10)
    p = p * r + wide(2.08767569878681e-09)
    p = p * r + wide(2.505210838544172e-08)
    p = p * r + wide(2.755731922398589e-07)
    p = p * r + wide(2.7557319223985893e-06)
    p = p * r + wide(2.48015873015873e-05)
    p = p * r + wide(0.0001984126984126984)
    p = p * r + wide(0.001388888888888889)
    p = p * r + wide(0.008333333333333333)
    p = p * r + wide(0.041666666666666664)
    p = p * r + wide(0.16666666666666666)
    p = p * r + wide(0.5)
    p = p * r * r + r + 1.0
    e = p * ((t.to(tl.int64, bitcast=True) + 1023) << 52).to(tl.float64, bitcast=True)
    return tl.where(y > 709.0, float("inf"), tl.where(y < -708.0, 0.0, tl.where(y != y, y, e)))


@triton.jit
def logarithm(x):
    i = x.to(tl.int64, bitcast=True) - 0x3FE6A09E667F3BCD
    e = (i >> 52).to(tl.float64)
    m = ((i & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD).to(tl.float64, bitcast=True)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = z * wide(0.08695652173913043) + wide(0.09523809523809523)
    p = p * z + wide(0.10526315789473684)
    p = p * z + wide(0.11764705882352941)
    p = p * z + wide(0.13333333333333333)
    p = p * z + wide(0.15384615384615385)
    p = p * z + wide(0.18181818181818182)
    p = p * z + wide(0.2222222222222222)
    p = p * z + wide(0.2857142857142857)
    p = p * z + wide(0.4)
    p = p * z + wide(0.6666666666666666)
    log_m = s * 2.0 + p * z * s
    y = e * wide(0.6931471787393093) + (log_m + e * wide(1.8206359985041462e-09))
    y = tl.where(x == float("inf"), x, y)
    return tl.where(x == 0, float("-inf"), tl.where(x > 0, y, float("nan")))


@triton.jit
def clenshaw(t2, b1, b2, c: tl.constexpr):
    return t2 * b1 - b2 + wide(c), b1


@triton.jit
def mills(y):
    t = (y - 5.0) / (y + 5.0)
    t2 = t + t
    b1 = y - y
    b2 = b1
    b1, b2 = clenshaw(t2, b1, b2, -9.097614914495833e-17)
    b1, b2 = clenshaw(t2, b1, b2, -1.345671286136144e-16)
    b1, b2 = clenshaw(t2, b1, b2, 2.1048214642963194e-15)
    b1, b2 = clenshaw(t2, b1, b2, 3.958188414414517e-15)
    b1, b2 = clenshaw(t2, b1, b2, -5.294681169067695e-14)
    b1, b2 = clenshaw(t2, b1, b2, -9.325953119165372e-14)
    b1, b2 = clenshaw(t2, b1, b2, 1.4718957028912571e-12)
    b1, b2 = clenshaw(t2, b1, b2, 1.3999857147018152e-12)
    b1, b2 = clenshaw(t2, b1, b2, -4.4299537255328156e-11)
    b1, b2 = clenshaw(t2, b1, b2, 3.007242719019045e-11)
    b1, b2 = clenshaw(t2, b1, b2, 1.3298288008382692e-09)
    b1, b2 = clenshaw(t2, b1, b2, -4.617665713929027e-09)
    b1, b2 = clenshaw(t2, b1, b2, -3.032070748442814e-08)
    b1, b2 = clenshaw(t2, b1, b2, 2.99023962013034e-07)
    b1, b2 = clenshaw(t2, b1, b2, -4.032494233045217e-07)
    b1, b2 = clenshaw(t2, b1, b2, -9.849514843168493e-06)
    b1, b2 = clenshaw(t2, b1, b2, 9.984031082925812e-05)
    b1, b2 = clenshaw(t2, b1, b2, -0.0005638623774651974)
    b1, b2 = clenshaw(t2, b1, b2, 0.0022407355224168305)
    b1, b2 = clenshaw(t2, b1, b2, -0.006470872915703688)
    b1, b2 = clenshaw(t2, b1, b2, 0.01229619904556344)
    b1, b2 = clenshaw(t2, b1, b2, -0.005458781501136567)
    b1, b2 = clenshaw(t2, b1, b2, -0.06516520239491264)
    return (t * b1 - b2 + wide(0.4619742120721857)) / (y + 1.0)


@triton.jit
def numbers(p, at, inside, dtype: tl.constexpr):
    return widen(tl.load(p + at, mask=inside, other=0.0), dtype)


@triton.jit
def vector(
    T,
    rng,
    b,
    E,
    start,
    i: tl.constexpr,
    CONSTANT: tl.constexpr,
    d,
    s,
    dtype: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Element numbers of column i, tensors then noise."""
    e = start + tl.arange(0, BLOCK)
    if i < len(T):
        at = e
        if not (CONSTANT >> i) & 1:
            at = b * E + e
        x = numbers(T[i], at, e < E, dtype)
    else:
        x = noise(rng, b, start, d[i - len(T)], s[i - len(T)], True, BLOCK).to(dtype)
    return x


@triton.jit(do_not_specialize=["d0", "s0"])
def loss_kernel(
    pred,
    T,
    C,
    w,
    mask,
    rng,
    work,
    slope,
    limits,
    E,
    chunks,
    C_step,
    mask_step,
    d0,
    s0,
    N_IN: tl.constexpr,
    N_NOISE: tl.constexpr,
    CONSTANT: tl.constexpr,
    RHO: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    SLOPE: tl.constexpr,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
):
    real: tl.constexpr = C.dtype.element_ty
    pid = tl.program_id(0).to(tl.int64)
    b, start = pid // chunks, (pid % chunks) * BLOCK
    k = start + tl.arange(0, BLOCK)
    inside = k < E
    at = b * E + k
    target = tl.zeros((BLOCK,), real)
    for i in tl.static_range(N_IN + N_NOISE):
        c = tl.load(C + b * C_step + i)
        p = tl.where(c == 0, 0.0, c * vector(T, rng, b, E, start, i, CONSTANT, (d0,), (s0,), real, BLOCK))
        if i == 0:
            target = p
        else:
            target = target + p
    d = numbers(pred, at, inside, real) - target
    c = tl.load(limits).to(real)
    count = tl.load(limits + 1)
    weight = tl.zeros((BLOCK,), real) + 1.0
    if WEIGHTED:
        weight = weight * tl.load(w + b)
    scale = (weight.to(tl.float64) / count).to(real)
    if RHO == PSEUDO:
        scale = tl.zeros((BLOCK,), real) + 1.0
    x = d.to(tl.float64)
    if RHO == L1:
        q = tl.abs(x)
        g = tl.where(d > 0, 1.0, tl.where(d < 0, -1.0, tl.where(d == 0, 0.0, d)))
    elif RHO == HUBER:
        limit = c.to(tl.float64)
        q = tl.where(tl.abs(x) < limit, x * x * wide(0.5), limit * (tl.abs(x) - limit * wide(0.5)))
        g = tl.where(d >= c, c, tl.where(d <= -c, -c, d))
    else:
        q = x * x
        g = d
        if RHO == L2:
            g = d + d
    g = scale * g
    if MASKED:
        m = numbers(mask, b * mask_step + k, inside, real)
        q = tl.where(m == 0, 0.0, m.to(tl.float64) * q)
        g = tl.where(m == 0, 0.0, m * g)
    live = inside & (weight != 0)
    if SLOPE:
        tl.store(slope + at, narrow(tl.where(weight == 0, 0.0, g), slope.dtype.element_ty), mask=inside)
    tl.store(work + pid, join(tl.where(live, q, 0.0), False, BLOCK, LEVELS))


@triton.jit(do_not_specialize=["d0", "d1", "d2", "d3", "s0", "s1", "s2", "s3"])
def dots_kernel(
    T,
    R,
    rng,
    work,
    E,
    chunks,
    R_step,
    d0,
    d1,
    d2,
    d3,
    s0,
    s1,
    s2,
    s3,
    PAIRS: tl.constexpr,
    SIZES: tl.constexpr,
    NEEDED: tl.constexpr,
    N_IN: tl.constexpr,
    N_NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    CONSTANT: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    b, chunk = pid // chunks, pid % chunks
    start = chunk * BLOCK
    k = start + tl.arange(0, BLOCK)
    inside = k < E
    n: tl.constexpr = N_IN + 1 + N_NOISE
    x = ()
    for i in tl.static_range(n):
        if i == N_IN:
            x = x + (tl.full((BLOCK,), 1.0, REAL),)
        elif (NEEDED >> i) & 1:
            d, s = (d0, d1, d2, d3), (s0, s1, s2, s3)
            x = x + (vector(T, rng, b, E, start, i if i < N_IN else i - 1, CONSTANT, d, s, REAL, BLOCK),)
        else:
            x = x + (tl.zeros((BLOCK,), REAL),)
    u = x
    if ROWS:
        u = ()
        for r in tl.static_range(ROWS):
            acc = tl.zeros((BLOCK,), REAL)
            for i in tl.static_range(n):
                c = tl.load(R + b * R_step + r * n + i)
                p = tl.where(c == 0, 0.0, c * x[i])
                if i == 0:
                    acc = p
                else:
                    acc = acc + p
            u = u + (acc,)
    P: tl.constexpr = len(PAIRS) // 2
    for p in tl.static_range(P):
        q = u[PAIRS[2 * p]].to(tl.float64) * u[PAIRS[2 * p + 1]].to(tl.float64)
        if (SIZES >> p) & 1:
            q = tl.abs(q)
        tl.store(work + (b * P + p) * chunks + chunk, join(tl.where(inside, q, 0.0), False, BLOCK, LEVELS))


@triton.jit
def bin_of(delta, log_var, half, first, last):
    flip = delta > 0
    near_open = (flip & first) | (~flip & last)
    far_open = (flip & last) | (~flip & first)
    i = exponential(log_var * wide(-0.5))
    away = tl.abs(delta)
    b, v = (half - away) * i, (half + away) * i
    u = tl.abs(b)
    mu, mv = mills(u), mills(v)
    uu, vv = u * u * wide(-0.5), v * v * wide(-0.5)
    eu, ev, ea = exponential(uu), exponential(vv), exponential((v - u) * (v + u) * wide(-0.5))
    left = tl.where(far_open, 0.0, ev * mv)
    right = tl.where(near_open, 0.0, eu * mu)
    within = (b > 0) | near_open
    tail = mu + tl.where(far_open, 0.0, -(ea * mv))
    mass = tl.where(within, 1.0 - right - left, tail)
    log_p = tl.where(within, 0.0, uu) + logarithm(mass)
    density = wide(0.3989422804014327)
    fu = tl.where(near_open, 0.0, density * tl.where(within, eu, 1.0) / mass)
    fv = tl.where(far_open, 0.0, density * tl.where(within, ev, ea) / mass)
    value, by_delta, by_l = -log_p, (fv - fu) * i, (b * fu + v * fv) * wide(0.5)

    h, m = (half + half) * i, away * i
    hh, mm = h * h, m * m
    t = hh * (mm - 1.0) * wide(0.041666666666666664) + 1.0
    narrow_value = mm * wide(0.5) - logarithm(h * density * t)
    narrow_delta = -i * (m - hh * m * wide(0.08333333333333333) / t)
    narrow_l = (1.0 - mm) * wide(0.5) + hh * (mm + mm - 1.0) * wide(0.041666666666666664) / t
    take = (h * (m + 1.0) < 0.0009765625) & ~near_open & ~far_open
    value, by_delta = tl.where(take, narrow_value, value), tl.where(take, narrow_delta, by_delta)
    return value, tl.where(flip, -by_delta, by_delta), tl.where(take, narrow_l, by_l)


@triton.jit
def kl_kernel(
    pred,
    var,
    x0,
    xt,
    C,
    is_bin,
    w,
    limits,
    work,
    by_pred,
    by_var,
    E,
    chunks,
    LEARNED: tl.constexpr,
    BINS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BY_PRED: tl.constexpr,
    BY_VAR: tl.constexpr,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    b, start = pid // chunks, (pid % chunks) * BLOCK
    k = start + tl.arange(0, BLOCK)
    inside = k < E
    at = b * E + k
    c0, c1, c2 = tl.load(C + 6 * b), tl.load(C + 6 * b + 1), tl.load(C + 6 * b + 2)
    l1, low, span = tl.load(C + 6 * b + 3), tl.load(C + 6 * b + 4), wide(0.0)
    half, count = tl.load(limits), tl.load(limits + 1)
    one_bin = k < 0  # of the block's shape: scalar conditions do not mix with blocks in the interpreter
    if BINS:
        one_bin = tl.load(is_bin + b + tl.zeros((BLOCK,), tl.int64)) != 0
    y = tl.where(c2 == 0, 0.0, numbers(pred, at, inside, tl.float64))
    unread = (c1 + tl.zeros((BLOCK,), tl.float64) == 0) & (one_bin == 0)
    value = tl.where(unread, 0.0, numbers(x0, at, inside, tl.float64))
    x = tl.where(c0 == 0, 0.0, numbers(xt, at, inside, tl.float64))
    v = tl.zeros((BLOCK,), tl.float64)
    if LEARNED:
        span = tl.load(C + 6 * b + 5)
        v = tl.where(span == 0, 0.0, numbers(var, at, inside, tl.float64))
    delta = c0 * x + c1 * value + c2 * y
    log_var = low + span * v
    i = exponential(-log_var)
    r = exponential(l1 - log_var)
    by_delta = delta * i
    q = delta * by_delta
    nats = (log_var - l1 - 1.0 + r + q) * wide(0.5)
    by_l = (1.0 - r - q) * wide(0.5)
    if BINS:
        end = 1.0 - half * wide(0.5)
        n, nd, nl = bin_of(delta, log_var, half, value < -end, value > end)
        nats, by_delta, by_l = (
            tl.where(one_bin, n, nats),
            tl.where(one_bin, nd, by_delta),
            tl.where(one_bin, nl, by_l),
        )
    weight = tl.zeros((BLOCK,), tl.float64) + 1.0
    if WEIGHTED:
        weight = weight * tl.load(w + b)
    scale = weight / count
    off = weight == 0
    if BY_PRED:
        g = tl.where(off, 0.0, scale * (c2 * by_delta))
        tl.store(by_pred + at, narrow(g, by_pred.dtype.element_ty), mask=inside)
    if BY_VAR:
        g = tl.where(off, 0.0, scale * (span * by_l))
        tl.store(by_var + at, narrow(g, by_var.dtype.element_ty), mask=inside)
    tl.store(work + pid, join(tl.where(inside & (weight != 0), nats, 0.0), False, BLOCK, LEVELS))


@triton.jit
def end_kernel(
    work,
    out,
    w,
    limits,
    total,
    weights,
    chunks,
    weights_step,
    SUMS: tl.constexpr,
    EMPTY: tl.constexpr,
    OUT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ROOT: tl.constexpr,
    TOTAL: tl.constexpr,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """The tree over the chunks of a sample, in place, and what becomes of its sums: one program for each."""
    b = tl.program_id(0).to(tl.int64)
    for p in tl.static_range(SUMS):
        row = work + (b * SUMS + p) * chunks
        left = chunks
        while left > 1:
            groups = (left + BLOCK - 1) // BLOCK
            for g in range(groups):
                i = g * BLOCK + tl.arange(0, BLOCK)
                q = tl.load(row + i, mask=i < left, other=0.0)
                tl.debug_barrier()  # all have read before one writes
                tl.store(row + g, join(q, False, BLOCK, LEVELS))
                tl.debug_barrier()
            left = groups
        s = wide(0.0)
        if not EMPTY:
            s = tl.load(row) + wide(0.0)
        if OUT:
            y = s
            if WEIGHTED or ROOT or SUMS == 1:
                c, count = tl.load(limits), tl.load(limits + 1)
                if ROOT:
                    y = s / (square_root(s + c * c) + c)
                weight = wide(1.0)
                if WEIGHTED:
                    weight = tl.load(w + b).to(tl.float64)
                y = tl.where(weight == 0, 0.0, weight * (y / count))
            tl.store(out + b * SUMS + p, y.to(out.dtype.element_ty))
        if TOTAL:
            a = tl.load(weights + b * weights_step + p)
            tl.store(total + b, tl.load(total + b) + a * s)


def _size(n: int) -> int:
    return min(CHUNK, max(4, triton.next_power_of_2(n)))


def _pair(like: Tensor, a: float, b: float) -> Tensor:
    """Two float64 numbers on the device without a copy to it; a launch would make them float32."""
    limits = like.new_full((2,), a, dtype=torch.float64)
    limits[1:].fill_(b)
    return limits


def _end(
    work: Tensor,
    out: Tensor | None,
    n: int,
    limits: Tensor,
    w: Tensor | None = None,
    root: bool = False,
    total: Tensor | None = None,
    weights: Tensor | None = None,
) -> None:
    step = weights.shape[-1] if weights is not None and weights.dim() == 2 else 0
    end_kernel[(work.shape[0],)](
        work, out, w, limits, total, weights, work.shape[2], step,
        SUMS=work.shape[1], EMPTY=n == 0, OUT=out is not None, WEIGHTED=w is not None, ROOT=root,
        TOTAL=total is not None, BLOCK=CHUNK, LEVELS=10, **OPTIONS,
    )  # fmt: skip


def regression_loss_(
    pred: Tensor,
    T: Sequence[Tensor],
    C: Tensor,
    w: Tensor | None,
    mask: Tensor | None,
    rng: Tensor | None,
    draws: Sequence[int],
    streams: Sequence[int],
    rho: str,
    c: float,
    count: float,
    work: Tensor,
    out: Tensor,
    slope: Tensor | None,
) -> None:
    """The kernel behind `regression_loss`: contiguous tensors, C and w in the arithmetic's dtype."""
    B = out.shape[0]
    if B == 0:
        return
    n = pred.numel() // B
    size = _size(n)
    c = c if C.dtype == torch.float64 else float(C.new_empty(0, device="cpu").new_tensor(c))
    limits = _pair(pred, c, count)
    with on(pred):
        if n:
            loss_kernel[(B * work.shape[2],)](
                pred, tuple(T), C, w, mask, rng, work, slope, limits, n, work.shape[2],
                C.shape[-1] if C.dim() == 2 else 0, 0 if mask is None or mask.shape[0] != B else n,
                (*draws, 0)[0], (*streams, 0)[0],
                N_IN=len(T), N_NOISE=len(draws),
                CONSTANT=sum(1 << i for i, t in enumerate(T) if t.shape[0] != B),
                RHO=RHO[rho], WEIGHTED=w is not None, MASKED=mask is not None, SLOPE=slope is not None,
                BLOCK=size, LEVELS=size.bit_length() - 1, **OPTIONS,
            )  # fmt: skip
        _end(work, out, n, limits, w, rho == "pseudo_huber")


def dots_(
    T: Sequence[Tensor],
    R: Tensor | None,
    pairs: Sequence[tuple[int, int, bool]],
    rng: Tensor | None,
    draws: Sequence[int],
    streams: Sequence[int],
    work: Tensor,
    out: Tensor | None,
    total: Tensor | None,
    weights: Tensor | None,
) -> None:
    """The kernel behind `dots`: contiguous tensors, R in the arithmetic's dtype."""
    B = work.shape[0]
    if B == 0:
        return
    n = T[0].numel() // max(1, T[0].shape[0])
    size, rows = _size(n), 0 if R is None else R.shape[-2]
    double = any(t is not None and t.dtype == torch.float64 for t in (*T, R, out))
    flat = tuple(i for p in pairs for i in p[:2])
    needed = -1 if rows else sum(1 << i for i in set(flat))
    d, s = (*draws, 0, 0, 0, 0)[:4], (*streams, 0, 0, 0, 0)[:4]
    with on(T[0]):
        if n:
            dots_kernel[(B * work.shape[2],)](
                tuple(T), R, rng, work, n, work.shape[2],
                0 if R is None or R.dim() == 2 else rows * R.shape[-1], *d, *s,
                PAIRS=flat, SIZES=sum(bool(p[2]) << k for k, p in enumerate(pairs)), NEEDED=needed,
                N_IN=len(T), N_NOISE=len(draws), ROWS=rows,
                CONSTANT=sum(1 << i for i, t in enumerate(T) if t.shape[0] != B),
                REAL=tl.float64 if double else tl.float32,
                BLOCK=size, LEVELS=size.bit_length() - 1, **OPTIONS,
            )  # fmt: skip
        _end(work, out, n, _pair(work, 0.0, 1.0), total=total, weights=weights)


def gaussian_kl_(
    pred: Tensor,
    var: Tensor | None,
    x0: Tensor,
    xt: Tensor,
    C: Tensor,
    is_bin: Tensor | None,
    w: Tensor | None,
    half: float,
    count: float,
    work: Tensor,
    out: Tensor,
    by_pred: Tensor | None,
    by_var: Tensor | None,
) -> None:
    """The kernel behind `gaussian_kl`: contiguous tensors, C and w float64."""
    B = out.shape[0]
    if B == 0:
        return
    n = pred.numel() // B
    size = _size(n)
    limits = _pair(pred, half, count)
    with on(pred):
        if n:
            kl_kernel[(B * work.shape[2],)](
                pred, var, x0, xt, C, is_bin, w, limits, work, by_pred, by_var, n, work.shape[2],
                LEARNED=var is not None, BINS=is_bin is not None, WEIGHTED=w is not None,
                BY_PRED=by_pred is not None, BY_VAR=by_var is not None,
                BLOCK=size, LEVELS=size.bit_length() - 1, **OPTIONS,
            )  # fmt: skip
        _end(work, out, n, limits, w)
