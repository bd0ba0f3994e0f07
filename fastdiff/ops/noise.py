"""noise: one fill for every law, and what the words of the counter become.

The number at a position of a sample is that of one element: of the row-major index, or where `strides` are
given of offset + sum_d i_d strides[d], so that a shard draws what the whole would. `symmetric=n` takes (i, j)
of the last two, n x n, to (min, max) and gives 0 where i = j. An element's block (word c0), its words:

    family           c0      words of element e                                        parameters
    normal           e >> 2  w0 w1 (e & 3 = 0, 1) or w2 w3: Box-Muller, cos or sin
    uniform          e >> 2  w = word e & 3: u23(w)
    exponential      e >> 2  w: E = 1/2 m2log(uni(min(w, ffffff00))), in [5.96e-8, 22.9]
    gumbel           e >> 2  w: 1/2 m2log(E), in [-3.13, 16.64]
    bernoulli        e >> 2  w: 1 if w < floor(2^32 p), else 0; exact at p = 0 and 1   p
    laplace          e >> 2  w: +-C m2log((float(2 w mod 2^32) + 1) 2^-32); - if w >> 31; variance 1
    bimodal          e >> 2  z normal, S z +- m; - if bit e & 1 of the angle's word    m
    multivariate_t   e >> 2  z normal, f z; f of the sample, below                     nu, unit
    rademacher       e >> 7  bit e & 31 of word (e >> 5) & 3: 1 for +1, 0 for -1
    student_t        e >> 1  w0 w1 (e even) or w2 w3: below                            nu, unit
    gamma            e       four words an attempt: below                              k, centred

uni, u23, m2log, cos and sin (of the angle 2 pi (w + 1/2) / 2^32): `_reference`. C = 3eb504f3 = sqrt(1/8),
S = sqrt(1 - m^2). Float32: multiply, add and square root, each rounded, in the order written; bits in hex.
unit = 1 divides a t by its deviation sqrt(nu / (nu - 2)); centred = 1 makes gamma (gamma(k) - k) / sqrt(k).

exp(y), y = k ln 2 + r. t = y 3fb8aa3b + 1.5 2^23; k = t - 1.5 2^23; r = y - k 3f317200; r = r - k 35bfbe8e;
    q = 3ab5cb46, q = q r + c for c in 3c0912a1, 3d2aab7b, 3e2aaa5a, 3effffff; p = (r r) q + r;
    exp(y) = 2^k (p + 1), with min(y, 88); one_minus_exp(x) = (1 - 2^k) - 2^k p of y = -min(x, 87)
student_t. x = m2log(uni(wa)) (1/nu); r = sqrt(one_minus_exp(x)) exp(x / 2); r cos(wb) times s, the product
    (cos s) first; s = sqrt(nu), with unit sqrt(nu - 2). |t| ends at about 1e38 sqrt(nu): nu < 1/4 gets there.
    One of Bailey's pair: the other would be uncorrelated with it and not independent.
gamma(k). Attempt a < 256 has c1 = draw + (a << 24), so draw < 2^24. d = k - 1/3 for k >= 1, else k + 2/3;
    c = 1 / sqrt(9 d). x = cos of Box-Muller (w0, w1); t = x c; s = t + 1; a = s - 1; l = m2log(s) / 2;
    q = (l + a) 3 + (a a)(a - 1.5); accepted if s > 0 and q d < m2log(uni(w2)) / 2
    g = ((d s) s) s; if k < 1, g = g exp(-min(b, 87)), b = (m2log(uni(w3)) / 2) (1/k)
    (no g is below about 1e-38: for k < 0.2 seen, with probability e^(-87 k))
    centred: (g - k) (1 / sqrt k), where for k >= 1 g - k is (d t)(((t + 3) t) + 3) + (d - k)
multivariate_t. chi2_nu = 2 gamma(nu / 2) from stream 14, element = the stream of the normals:
    f = exp(3/4 m2log(s) + b) s', b = (m2log(uni(w3)) / 2) (1/nu) if nu < 2, else left out;
    s' = sqrt(nu / (2 d)), with unit sqrt((nu - 2) / (2 d)); d, s of k = nu / 2.
    All of a sample's elements share a chi-square; those of two streams or draws do not

Constants are worked out in float64 and rounded once. float64 results are the float32 number widened, float16
and bfloat16 are it rounded once.

Source: Bailey 1994 (Math. Comp. 62); Marsaglia and Tsang 2000 (ACM TOMS 26), their test with the terms in x^2
cancelled by hand, so that it stays exact for large k. Measured on 4e6 points, relative: exp 8.1e-8,
one_minus_exp 9.2e-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from . import _backends, _checks
from ._library import DISPATCH, Op, route

PARAMETERS: dict[str, tuple[str, ...]] = {
    "normal": (),
    "uniform": (),
    "exponential": (),
    "gumbel": (),
    "bernoulli": ("p",),
    "laplace": (),
    "bimodal": ("m",),
    "multivariate_t": ("nu", "unit"),
    "rademacher": (),
    "student_t": ("nu", "unit"),
    "gamma": ("k", "centred"),
}
BLOCK_SHIFT = {"rademacher": 7, "student_t": 1, "gamma": 0}  # of an element, to its block; else 2
REJECTS = ("gamma", "multivariate_t")  # attempts take the top byte of the draw
FLOAT32_SQUARED = 1e-30, 1e30  # nu and k: the constants and their products stay float32 numbers


def _squeeze(k: float) -> tuple[float, float]:
    d = k - 1 / 3 if k >= 1 else k + 2 / 3
    return 1 / sqrt(9 * d), d


def _t(nu: float, unit: float) -> float:
    return nu - 2 if unit else nu


def constants(family: str, parameters: Sequence[float]) -> list[float]:
    """What a family's kernels are given, rounded to float32 there (bernoulli: the words that are a one)."""
    if family == "bernoulli":
        return [float(floor(parameters[0] * 2**32))]
    if family == "bimodal":
        return [parameters[0], sqrt(1 - parameters[0] * parameters[0])]
    if family == "student_t":
        nu, unit = parameters
        return [1 / nu, sqrt(_t(nu, unit))]
    if family == "multivariate_t":
        nu, unit = parameters
        c, d = _squeeze(nu / 2)
        return [c, d, 1 / nu if nu < 2 else 0.0, sqrt(_t(nu, unit) / (2 * d))]
    if family == "gamma":
        k, centred = parameters
        c, d = _squeeze(k)
        if not centred:
            return [c, d, 1 / k if k < 1 else -1.0, 0.0, 1.0]
        return [c, d, 1 / k if k < 1 else 0.0, d - k if k >= 1 else -k, 1 / sqrt(k)]
    return []


def noise(
    family: str,
    shape: Sequence[int],
    rng: Tensor,
    draw: int = 0,
    stream: int = 0,
    *,
    parameters: Sequence[float] = (),
    offset: int = 0,
    strides: Sequence[int] | None = None,
    symmetric: int = 0,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> Tensor:
    """Numbers of one of PARAMETERS, of `shape` = (B, *), on rng's device.

    rng (B, 3) int64: seed, sample id, draw base, to which draw is added; fastdiff.noise.resolve makes it.
    strides: one for each of a sample's at most 4 dimensions. None: row-major from offset on.
    """
    if not isinstance(shape, (list, tuple)):
        raise TypeError(f"{family}: shape must be a list of ints, got {type(shape).__name__}")
    numbers = [float(v) for v in parameters]
    mapped = None if strides is None else list(strides)
    if route((rng,)) == DISPATCH:
        _backends.must_be_automatic(family, backend, rng)
        return _op.dispatch(family, list(shape), rng, draw, stream, numbers, offset, mapped, symmetric, dtype)
    return _run(family, backend, shape, rng, draw, stream, numbers, offset, mapped, symmetric, dtype)


def _run(
    family: str,
    backend: str | None,
    shape: Sequence[int],
    rng: Tensor,
    draw: int,
    stream: int,
    parameters: Sequence[float],
    offset: int,
    strides: Sequence[int] | None,
    symmetric: int,
    dtype: torch.dtype,
) -> Tensor:
    check(family, shape, rng, draw, stream, parameters, offset, strides, symmetric, dtype)
    out = _backends.fresh(shape, dtype, rng.device)
    if out.is_meta:
        return out
    kernel = _backends.kernel(_backends.choose(family, backend, rng.device.type), "fill_")
    kernel(
        out,
        rng.contiguous(),
        draw,
        stream,
        family,
        constants(family, parameters),
        offset,
        [] if strides is None else list(strides),
        symmetric,
    )
    return out


def check(
    family: str,
    shape: Sequence[int],
    rng: Any,
    draw: Any,
    stream: Any,
    parameters: Sequence[float],
    offset: Any,
    strides: Sequence[int] | None,
    symmetric: Any,
    dtype: Any,
) -> None:
    """All that `noise` requires, beyond what every fill does."""
    if family not in PARAMETERS:
        _checks.say("noise", "family", f"is {family!r}", f"one of {', '.join(PARAMETERS)}")
    _checks.fill(family, shape, rng, draw, stream, dtype)
    _check_parameters(family, parameters)
    if family in REJECTS and not 0 <= draw < 2**24:
        _checks.say(family, "draw", f"is {draw}", "0 .. 2^24 - 1: above are the attempts")
    for name, v in (("offset", offset), ("symmetric", symmetric), *(("strides", s) for s in strides or ())):
        if isinstance(v, bool) or not hasattr(v, "__index__"):
            raise TypeError(f"{family}: {name} must be of ints, got {v!r}")
    sample = list(shape[1:])
    if strides is None:
        sample, steps = [_checks.product(sample)], [1]
    else:
        steps = list(strides)
        if len(steps) != len(sample) or len(steps) > 4 or not steps:
            _checks.say(
                family,
                "strides",
                f"are {len(steps)} for a sample of shape {tuple(sample)}",
                "one for each of its dimensions, 1 .. 4 of them",
            )
    first = last = offset
    for n, s in zip(sample, steps, strict=True):
        if n == 0:
            return
        first, last = (first + (n - 1) * s, last) if s < 0 else (first, last + (n - 1) * s)
    limit = 32 + BLOCK_SHIFT.get(family, 2)
    if first < 0 or last >= min(2**limit, _checks.MAX_ELEMENTS):
        what = f"elements {first} .. {last}"
        _checks.say(
            family, "offset and strides", f"reach {what}", f"0 .. 2^{min(limit, 34)} - 1: those have numbers"
        )
    if symmetric < 0 or symmetric >= 2**31:
        _checks.say(family, "symmetric", f"is {symmetric}", "0, or the number of rows of the whole")


def _check_parameters(family: str, parameters: Sequence[float]) -> None:
    names = PARAMETERS[family]
    if len(parameters) != len(names):
        allowed = f"{len(names)}: {', '.join(names) or 'none'}"
        _checks.say(family, "parameters", f"are {list(parameters)}", allowed)
    for name, v in zip(names, parameters, strict=True):
        if name == "p" and not 0 <= v <= 1:
            _checks.say(family, "p", f"is {v}", "0 .. 1")
        if name == "m" and not -1 <= v <= 1:
            _checks.say(family, "m", f"is {v}", "-1 .. 1: the variance is m^2 + (1 - m^2)")
        if name in ("k", "nu"):
            low, high = FLOAT32_SQUARED
            if not isfinite(v) or not low <= v <= high:
                _checks.say(family, name, f"is {v}", f"above 0: {low:g} .. {high:g}")
            if name == "nu" and parameters[1] and v <= 2:
                _checks.say(family, "nu", f"is {v}", "above 2 with unit variance: else it is infinite")


def _op_run(
    family: str,
    shape: Sequence[int],
    rng: Tensor,
    draw: int,
    stream: int,
    parameters: Sequence[float],
    offset: int,
    strides: Sequence[int] | None,
    symmetric: int,
    *,
    dtype: torch.dtype,
) -> Tensor:
    return _run(family, None, shape, rng, draw, stream, parameters, offset, strides, symmetric, dtype)


def _fake(
    family: str,
    shape: Sequence[int],
    rng: Tensor,
    draw: int,
    stream: int,
    parameters: Sequence[float],
    offset: int,
    strides: Sequence[int] | None,
    symmetric: int,
    *,
    dtype: torch.dtype,
) -> Tensor:
    check(family, shape, rng, draw, stream, parameters, offset, strides, symmetric, dtype)
    return rng.new_empty(shape, dtype=dtype)


def _vmap(n: int, dims: Any, a: Any) -> Any:
    rng = a.rng.movedim(dims.rng, 0).flatten(0, 1)
    y = noise(
        a.family,
        (n * a.shape[0], *a.shape[1:]),
        rng,
        a.draw,
        a.stream,
        parameters=a.parameters,
        offset=a.offset,
        strides=a.strides,
        symmetric=a.symmetric,
        dtype=a.dtype,
    )
    return y.unflatten(0, (n, a.shape[0])), 0


_op = Op(
    "noise(str family, SymInt[] shape, Tensor rng, SymInt draw, int stream, float[] parameters, "
    "SymInt offset, SymInt[]? strides, SymInt symmetric, *, ScalarType dtype) -> Tensor",
    run=_op_run,
    fake=_fake,
    vmap=_vmap,
)
