"""The kernels that end in sums over a sample, once more in plain torch: dots, regression_loss, gaussian_kl.

    dots             sum u_i u_j, or of its size, of rows u = R (T.., 1, xi..)
    regression_loss  w sum mask rho(pred - sum_i C_i T_i) / count, and its slope
    gaussian_kl      divergence of diagonal Gaussians, or the cost of a discrete value's bin, and two slopes

The sums are the trees of `_reference`. Elements are float32 (float64 where a tensor is), rounded as a linear
step is; penalties and products are float64, as is all of gaussian_kl. Its functions are made of multiply,
add, divide and bits: those of a library differ between machines, torch's square root of a float64 included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._reference import _join, normal, round_to

_hex = float.fromhex
LOG2E, LN2_HI, LN2_LO = (_hex(x) for x in ("0x1.71547652b82fep+0", "0x1.62e42fep-1", "0x1.f473de6af278fp-30"))
EXP = [
    _hex(x)
    for x in (
        "0x1.6124613a86d09p-33", "0x1.1eed8eff8d898p-29", "0x1.ae64567f544e4p-26", "0x1.27e4fb7789f5cp-22",
        "0x1.71de3a556c734p-19", "0x1.a01a01a01a01ap-16", "0x1.a01a01a01a01ap-13", "0x1.6c16c16c16c17p-10",
        "0x1.1111111111111p-7", "0x1.5555555555555p-5", "0x1.5555555555555p-3", "0x1p-1",
    )
]  # fmt: skip
LOG = [
    _hex(x)
    for x in (
        "0x1.642c8590b2164p-4", "0x1.8618618618618p-4", "0x1.af286bca1af28p-4", "0x1.e1e1e1e1e1e1ep-4",
        "0x1.1111111111111p-3", "0x1.3b13b13b13b14p-3", "0x1.745d1745d1746p-3", "0x1.c71c71c71c71cp-3",
        "0x1.2492492492492p-2", "0x1.999999999999ap-2", "0x1.5555555555555p-1",
    )
]  # fmt: skip
MILLS = [
    _hex(x)
    for x in (
        "-0x1.a38dadeae8ad6p-54", "-0x1.364a698813ab4p-53", "0x1.2f5634abbbd94p-49",
        "0x1.1d37b04d15cfap-48", "-0x1.dce7091ce4421p-45", "-0x1.a400eb44ebefdp-44",
        "0x1.9e4d43559d105p-40", "0x1.8a0f9a2f9aaa1p-40", "-0x1.85a9b092a9932p-35",
        "0x1.088516006bf20p-35", "0x1.6d8a61f7ba580p-30", "-0x1.3d52d596acac5p-28",
        "-0x1.0473f0ddb61c8p-25", "0x1.411314af96457p-22", "-0x1.b0fc5b82205ecp-22",
        "-0x1.4a7eb0322f295p-17", "0x1.a2c2b7ab5cce3p-14", "-0x1.27a053c3e840ap-11",
        "0x1.25b29b935608bp-9", "-0x1.a8133b8cad4f7p-8", "0x1.92ebfe6205c7ap-7",
        "-0x1.65bf2805fcf9ap-8", "-0x1.0aeaaad1f9538p-4", "0x1.d90fc491c8188p-2",
    )
]  # fmt: skip
DENSITY = _hex("0x1.9884533d43651p-2")  # 1 / sqrt(2 pi)


# ---- functions


def square_root(x: Tensor) -> Tensor:
    """From the float32 root of x brought into float32's range, and two of Newton's steps."""
    large, small = x > 2.0**100, x < 2.0**-100
    s = torch.where(large, x * 2.0**-128, torch.where(small, x * 2.0**128, x))
    y = s.float().double().sqrt().float().double()
    for _ in range(2):
        y = torch.where(y == 0, y, 0.5 * (y + s / y))
    return torch.where(large, y * 2.0**64, torch.where(small, y * 2.0**-64, y))


def _horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    p = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = p * x + c
    return p


def exponential(y: Tensor) -> Tensor:
    """e^y; 0 below -708, infinite above 709."""
    t = y * LOG2E + 1.5 * 2.0**52
    k = t - 1.5 * 2.0**52
    r = y - k * LN2_HI - k * LN2_LO
    p = _horner(EXP, r) * r * r + r + 1
    e = p * ((t.view(torch.int64) + 1023) << 52).view(torch.float64)
    return torch.where(y > 709, torch.inf, torch.where(y < -708, 0.0, torch.where(y.isnan(), y, e)))


def logarithm(x: Tensor) -> Tensor:
    """ln x of x >= 0."""
    i = x.view(torch.int64) - 0x3FE6A09E667F3BCD
    e = (i >> 52).double()
    m = ((i & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD).view(torch.float64)
    s = (m - 1) / (m + 1)
    z = s * s
    log_m = s * 2 + _horner(LOG, z) * z * s
    y = e * LN2_HI + (log_m + e * LN2_LO)
    y = torch.where(x == torch.inf, x, y)
    return torch.where(x == 0, -torch.inf, torch.where(x > 0, y, torch.nan))


def mills(y: Tensor) -> Tensor:
    """Phi(-y) e^(y^2 / 2) of y >= 0: (1 + y) times it is a Chebyshev series in (y - 5) / (y + 5)."""
    t = (y - 5) / (y + 5)
    t2, b1, b2 = t + t, torch.zeros_like(t), torch.zeros_like(t)
    for c in MILLS[:-1]:
        b1, b2 = t2 * b1 - b2 + c, b1
    return (t * b1 - b2 + MILLS[-1]) / (y + 1)


# ---- sums


def _sum(q: Tensor) -> Tensor:
    """(B, n) -> (B,): the tree; + 0 for the sign of a zero."""
    return _join(q, False) + 0.0 if q.shape[1] else q.new_zeros(q.shape[0])


def _vectors(
    T: Sequence[Tensor], rng: Any, draws: Sequence[int], streams: Sequence[int], B: int, n: int, dtype: Any
) -> list[Tensor]:
    rows = [t.to(dtype).reshape(t.shape[0], n).expand(B, n) for t in T]
    return rows + [normal(rng, (n,), d, s).to(dtype) for d, s in zip(draws, streams, strict=True)]


def _combined(C: Tensor, columns: Sequence[Tensor], B: int, n: int, dtype: Any) -> Tensor:
    """sum_i C[.., i] x_i; a zero coefficient contributes +0."""
    acc = torch.zeros(B, n, dtype=dtype, device=C.device)
    for i, x in enumerate(columns):
        c = C[..., i].reshape(-1, 1)
        p = torch.where(c == 0, 0.0, c * x)
        acc = acc + p if i else p.expand(B, n)
    return acc


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
    """The kernel behind `dots`. pairs: first, second, whether sizes are summed."""
    double = any(t is not None and t.dtype == torch.float64 for t in (*T, R, out))
    dtype, B, n = torch.float64 if double else torch.float32, work.shape[0], T[0][0].numel()
    u = _vectors(T, rng, draws, streams, B, n, dtype)
    u.insert(len(T), torch.ones(B, n, dtype=dtype, device=T[0].device))
    if R is not None:
        u = [_combined(R[..., k, :], u, B, n, dtype) for k in range(R.shape[-2])]
    for p, (i, j, size) in enumerate(pairs):
        q = u[i].double() * u[j].double()
        s = _sum(q.abs() if size else q)
        if out is not None:
            out[:, p] = s.to(out.dtype)
        if total is not None and weights is not None:
            total += weights[..., p] * s


def _penalty(rho: str, d: Tensor, c: Tensor) -> Tensor:
    x, limit = d.double(), c.double()
    if rho == "l1":
        return x.abs()
    if rho == "huber":
        return torch.where(x.abs() < limit, 0.5 * (x * x), limit * (x.abs() - 0.5 * limit))
    return x * x


def _slope(rho: str, d: Tensor, c: Tensor) -> Tensor:
    if rho == "l2":
        return d + d
    if rho == "l1":
        return torch.where(d > 0, 1.0, torch.where(d < 0, -1.0, torch.where(d == 0, 0.0, d)))
    if rho == "huber":
        return torch.where(d >= c, c, torch.where(d <= -c, -c, d))
    return d


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
    """The kernel behind `regression_loss`. The slope of pseudo-huber lacks w and the root."""
    dtype, B = out.dtype, out.shape[0]
    n = pred.shape[1:].numel()
    target = _combined(C, _vectors(T, rng, draws, streams, B, n, dtype), B, n, dtype)
    d = pred.to(dtype).reshape(B, n) - target
    w = torch.ones(B, dtype=dtype, device=pred.device) if w is None else w
    limit = torch.tensor(c, dtype=dtype, device=pred.device)
    scale = torch.ones_like(w) if rho == "pseudo_huber" else (w.double() / count).to(dtype)
    q, g = _penalty(rho, d, limit), scale[:, None] * _slope(rho, d, limit)
    if mask is not None:
        k = mask.to(dtype).reshape(mask.shape[0], n)
        q, g = torch.where(k == 0, 0.0, k.double() * q), torch.where(k == 0, 0.0, k * g)
    s = _sum(q)
    if rho == "pseudo_huber":
        a = limit.double()
        s = s / (square_root(s + a * a) + a)
    out.copy_(torch.where(w == 0, 0.0, w.double() * (s / count)))
    if slope is not None:
        slope.copy_(round_to(torch.where(w[:, None] == 0, 0.0, g), slope.dtype).reshape(slope.shape))


# ---- gaussian_kl: value, and derivatives by delta and by the model's log variance


def _kl(delta: Tensor, l1: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    i, r = exponential(-log_var), exponential(l1 - log_var)
    di = delta * i
    q = delta * di
    return 0.5 * (log_var - l1 - 1 + r + q), di, 0.5 * (1 - r - q)


def _bin(
    delta: Tensor, log_var: Tensor, half: float, first: Tensor, last: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Reflected to delta <= 0: the bin's far end at -v, its near one at b, u = |b|, in units of s."""
    flip = delta > 0
    near_open, far_open = torch.where(flip, first, last), torch.where(flip, last, first)
    i, away = exponential(-0.5 * log_var), delta.abs()
    b, v = (half - away) * i, (half + away) * i
    u = b.abs()
    mu, mv, uu, vv = mills(u), mills(v), -0.5 * (u * u), -0.5 * (v * v)
    eu, ev = exponential(uu), exponential(vv)
    left, right = torch.where(far_open, 0.0, ev * mv), torch.where(near_open, 0.0, eu * mu)
    inside = (b > 0) | near_open
    ea = exponential(-0.5 * ((v - u) * (v + u)))
    tail = mu + torch.where(far_open, 0.0, -(ea * mv))
    mass = torch.where(inside, 1 - right - left, tail)  # in the tail over e^uu
    log_p = torch.where(inside, 0.0, uu) + logarithm(mass)
    fu = torch.where(near_open, 0.0, DENSITY * torch.where(inside, eu, 1.0) / mass)
    fv = torch.where(far_open, 0.0, DENSITY * torch.where(inside, ev, ea) / mass)
    value, by_delta, by_log_var = -log_p, (fv - fu) * i, 0.5 * (b * fu + v * fv)

    h, m = (half + half) * i, away * i  # a narrow bin: its width times the density, to the second order
    hh, mm = h * h, m * m
    t = hh * (mm - 1) * (1 / 24) + 1
    narrow = 0.5 * mm - logarithm(h * DENSITY * t)
    narrow_delta = -i * (m - hh * m * (1 / 12) / t)
    narrow_log_var = 0.5 * (1 - mm) + hh * (mm + mm - 1) * (1 / 24) / t
    take = (h * (m + 1) < 2.0**-10) & ~near_open & ~far_open
    value, by_delta = torch.where(take, narrow, value), torch.where(take, narrow_delta, by_delta)
    return value, torch.where(flip, -by_delta, by_delta), torch.where(take, narrow_log_var, by_log_var)


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
    """The kernel behind `gaussian_kl`."""
    B, n = out.shape[0], pred.shape[1:].numel()
    c = [C[:, k : k + 1] for k in range(6)]
    bins = torch.zeros(B, 1, dtype=torch.bool, device=pred.device) if is_bin is None else is_bin[:, None] != 0

    def rows(t: Tensor | None, read: Tensor) -> Tensor:
        if t is None:
            return torch.zeros(B, n, dtype=torch.float64, device=pred.device)
        return torch.where(read, t.double().reshape(B, n), 0.0)

    value_of = rows(x0, (c[1] != 0) | bins)
    delta = c[0] * rows(xt, c[0] != 0) + c[1] * value_of + c[2] * rows(pred, c[2] != 0)
    span = torch.zeros_like(c[5]) if var is None else c[5]
    log_var = c[4] + span * rows(var, span != 0)
    end = 1 - 0.5 * half
    kl, bin_ = _kl(delta, c[3], log_var), _bin(delta, log_var, half, value_of < -end, value_of > end)
    value, by_delta, by_log_var = (torch.where(bins, b, a) for a, b in zip(kl, bin_, strict=True))
    w = torch.ones(B, dtype=torch.float64, device=pred.device) if w is None else w
    scale, off = (w / count)[:, None], (w == 0)[:, None]
    s = _sum(value)
    out.copy_(torch.where(w == 0, 0.0, w * (s / count)))
    for slope, g in ((by_pred, scale * (c[2] * by_delta)), (by_var, scale * (span * by_log_var))):
        if slope is not None:
            slope.copy_(round_to(torch.where(off, 0.0, g), slope.dtype).reshape(slope.shape))
