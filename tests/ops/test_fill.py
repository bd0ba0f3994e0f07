"""noise: every law against an implementation in numpy, frozen bits, and the same bits everywhere."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from fastdiff import _C
from fastdiff.noise import Seeds, resolve
from fastdiff.ops import _reference as ref
from fastdiff.ops import noise
from fastdiff.ops.noise import PARAMETERS

# every family at parameters that take each of its branches
LAWS = [
    ("normal", ()),
    ("uniform", ()),
    ("exponential", ()),
    ("gumbel", ()),
    ("laplace", ()),
    ("rademacher", ()),
    *[("bernoulli", (p,)) for p in (0.0, 0.3, 1.0)],
    *[("bimodal", (m,)) for m in (0.6, -1.0)],
    *[("student_t", p) for p in ((5.0, 0.0), (0.2, 0.0), (3.0, 1.0), (1e6, 0.0))],
    *[("multivariate_t", p) for p in ((5.0, 0.0), (0.7, 0.0), (3.0, 1.0))],
    *[("gamma", p) for p in ((0.1, 1.0), (1.0, 1.0), (3.7, 1.0), (1e5, 1.0), (0.3, 0.0), (2.0, 0.0))],
]
EACH = pytest.mark.parametrize(("family", "parameters"), LAWS, ids=lambda v: str(v))
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SEED, SAMPLES = 0x0123456789ABCDEF, [5, 2**40 + 3]

# ---- the definition once more, in numpy: arrays of one number for each element

F, U = np.float32, np.uint64
M32 = U(0xFFFFFFFF)


def f32(bits: int) -> np.float32:
    return np.array(bits, np.uint32).view(F)[()]


def philox(c0, c1, c2, c3, seed):
    c = [np.broadcast_to(np.asarray(v, U), np.shape(c0)).copy() for v in (c0, c1, c2, c3)]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = U(0xD2511F53) * c[0], U(0xCD9E8D57) * c[2]
        c = [(b >> U(32)) ^ c[1] ^ U(k[0]), b & M32, (a >> U(32)) ^ c[3] ^ U(k[1]), a & M32]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c)


def horner(coefficients, x):
    p = np.full_like(x, f32(coefficients[0]))
    for c in coefficients[1:]:
        p = p * x + f32(c)
    return p


def m2log(x):
    i = (x.view(np.uint32) - np.uint32(0x3F3504F3)).view(np.int32)
    a = ((i & 0x7FFFFF) + 0x3F3504F3).view(F) - F(1)
    p = horner(
        [0x3E1C6480, 0xBE82AF32, 0x3E86C11A, 0xBE916C9B, 0x3EAA3946, 0xBECCD00E, 0x3F000113, 0xBF2AAAAA], a
    )
    e = (i >> 23).astype(F)
    a2 = a * a
    return a * a2 * p + a2 + e * f32(0xB63FBE8E) - (a + a) + e * f32(0xBFB17200)


def uni(w):
    return (w.astype(F) + F(0.5)) * F(2.0**-32)


def turn(w):
    q = ((w + U(0x20000000)) & M32) >> U(30)
    s = ((w << U(2)) & M32).astype(np.uint32).view(np.int32) >> 2
    t = (s.astype(F) + F(0.5)) * F(2.0**-30)
    z = t * t
    sine = horner([0xBB998CC7, 0x3DA34052, 0xBF255E12, 0x3FC90FDB], z) * t
    cosine = horner([0x3A6A3EA3, 0xBCAAD8A3, 0x3E81E0D7, 0xBF9DE9E6], z) * z + F(1)
    a, b = np.where(q & U(1), sine, cosine), np.where(q & U(1), cosine, sine)
    return np.where((q + U(1)) & U(2), -a, a), np.where(q & U(2), -b, b)


def box_muller(w0, w1):
    r, (c, s) = np.sqrt(m2log(uni(w0))), turn(w1)
    return r * c, r * s


def exponent(y):
    k = (y * f32(0x3FB8AA3B) + F(12582912)) - F(12582912)
    r = y - k * f32(0x3F317200)
    r = r - k * f32(0x35BFBE8E)
    q = horner([0x3AB5CB46, 0x3C0912A1, 0x3D2AAB7B, 0x3E2AAA5A, 0x3EFFFFFF], r)
    return np.exp2(k.astype(np.float64)).astype(F), r * r * q + r


def exp(y):
    s, p = exponent(np.minimum(y, F(88)))
    return s * (p + F(1))


def squeeze(k):
    d = k - 1 / 3 if k >= 1 else k + 2 / 3
    return F(1 / math.sqrt(9 * d)), F(d)


def marsaglia_tsang(k, element, draw, sample, stream):
    """1 + t, t and the last word, each element by itself."""
    c, d = squeeze(k)
    out = []
    for e in element:
        for attempt in range(256):
            w = philox(
                [int(e)], draw + (attempt << 24), sample & 0xFFFFFFFF, stream << 24 | sample >> 32, SEED
            )
            t = box_muller(w[0], w[1])[0] * c
            s = t + F(1)
            if s[0] <= 0:
                continue
            a = s - F(1)
            q = (m2log(s) * F(0.5) + a) * F(3) + a * a * (a - F(1.5))
            if q[0] * d < (m2log(uni(w[2])) * F(0.5))[0]:
                break
        out.append((s, t, w[3]))
    return [np.concatenate(v) for v in zip(*out, strict=True)]


def oracle(family, parameters, element, draw, sample, stream):
    """The numbers of these elements of one sample, float32."""
    element = np.asarray(element, U)

    def block(shift):
        return philox(element >> U(shift), draw, sample & 0xFFFFFFFF, stream << 24 | sample >> 32, SEED)

    def boost(w, over):
        return m2log(uni(w)) * F(0.5) * F(1 / over)

    def pick(w, i):
        return np.take_along_axis(w, i.astype(np.int64)[None], 0)[0]

    if family == "gamma":
        k, centred = parameters
        s, t, last = marsaglia_tsang(k, element, draw, sample, stream)
        d = squeeze(k)[1]
        exact = k - 1 / 3 if k >= 1 else k + 2 / 3
        g = d * s * s * s
        if k < 1:
            g = g * exp(-np.minimum(boost(last, k), F(87)))
        if not centred:
            return g
        g = d * t * ((t + F(3)) * t + F(3)) + F(exact - k) if k >= 1 else g + F(-k)
        return g * F(1 / math.sqrt(k))
    if family == "rademacher":
        w = pick(block(7), element >> U(5) & U(3))
        return np.where(w >> (element & U(31)) & U(1), F(1), F(-1))
    if family == "student_t":
        nu, unit = parameters
        w, first = block(1), 2 * (element & U(1))
        x = m2log(uni(pick(w, first))) * F(1 / nu)
        s, p = exponent(-np.minimum(x, F(87)))
        r = np.sqrt(F(1) - s - s * p) * exp(x * F(0.5))
        return r * (turn(pick(w, first + U(1)))[0] * F(math.sqrt(nu - 2 if unit else nu)))
    w = block(2)
    one = pick(w, element & U(3))
    if family == "uniform":
        return (one >> U(9)).astype(F) * F(2.0**-23) + F(2.0**-24)
    if family == "bernoulli":
        return (one < U(math.floor(parameters[0] * 2**32))).astype(F)
    if family == "laplace":
        x = m2log(((one << U(1) & M32).astype(F) + F(1)) * F(2.0**-32)) * f32(0x3EB504F3)
        return np.where(one >> U(31), -x, x)
    if family in ("exponential", "gumbel"):
        x = m2log(uni(np.minimum(one, U(0xFFFFFF00)))) * F(0.5)
        return x if family == "exponential" else m2log(x) * F(0.5)
    angle = pick(w, element & U(2) | U(1))
    c, s = box_muller(pick(w, element & U(2)), angle)
    z = np.where(element & U(1), s, c)
    if family == "bimodal":
        (m,) = parameters
        sign = angle >> (element & U(1)) & U(1)
        return z * F(math.sqrt(1 - m * m)) + np.where(sign, F(-m), F(m))
    if family == "multivariate_t":
        nu, unit = parameters
        s, _, last = marsaglia_tsang(nu / 2, [stream], draw, sample, 14)
        y = m2log(s) * F(0.75)
        if nu < 2:
            y = y + boost(last, nu)
        exact = nu / 2 - 1 / 3 if nu >= 2 else nu / 2 + 2 / 3
        return z * (exp(y) * F(math.sqrt((nu - 2 if unit else nu) / (2 * exact))))
    return z


@pytest.fixture(params=["reference", *_C.isas()])
def backend(request, isa) -> str:
    if request.param == "reference":
        return "reference"
    isa(request.param)
    return "cpu"


@EACH
def test_numpy(family, parameters, backend):
    """Far into a sample too, at an offset that is no block's first element."""
    rng = resolve(Seeds(SEED, SAMPLES), 2)
    for offset, n in ((0, 131), (2**32 - 200, 70)):
        x = noise(family, (2, n), rng, 17, 40, parameters=parameters, offset=offset, backend=backend).numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            for row, sample in zip(x, SAMPLES, strict=True):
                y = oracle(family, parameters, offset + np.arange(n), 17, sample, 40)
                assert y.dtype == F and (row.view(np.int32) == y.view(np.int32)).all()


FROZEN = {
    ("uniform", ()): (0x3F4880F9, 0x3D9D86B8, 0x3EEDD77E, 0x3E9BF43E),
    ("exponential", ()): (0x3E7A355C, 0x40242964, 0x3F4447B5, 0x3F982962),
    ("gumbel", ()): (0x3FB45FEE, 0xBF7124DD, 0x3E880145, 0xBE311028),
    ("laplace", ()): (0xBECDC793, 0x3FA96C54, 0x3D551651, 0x3EB36E9B),
    ("rademacher", ()): (0x3F800000, 0xBF800000, 0x3F800000, 0x3F800000),
    ("bernoulli", (0.3,)): (0x00000000, 0x3F800000, 0x00000000, 0x00000000),
    ("bimodal", (0.6,)): (0x3F8C2F8C, 0xBEAE2479, 0xBF6EE74A, 0x3EAA766C),
    ("student_t", (5.0, 0.0)): (0x3F226A91, 0xBEE6B43B, 0xBF4D86C1, 0xBFED2294),
    ("multivariate_t", (5.0, 0.0)): (0x3F2E338C, 0x3EB6D6DD, 0xBEEA6FF5, 0x3FA417EF),
    ("multivariate_t", (0.7, 0.0)): (0x3F103527, 0x3E975BBA, 0xBEC2127F, 0x3F87D712),
    ("gamma", (3.7, 1.0)): (0x3EF8DC5D, 0xBF477F4F, 0xBF398F2C, 0x3F65BEAD),
    ("gamma", (0.1, 1.0)): (0xBEA1E47C, 0xBEA0D8B0, 0xBD594F55, 0xBEA1E86F),
    ("gamma", (0.3, 0.0)): (0x3D0554D9, 0x3D5E5B98, 0x3E945F6E, 0x3C5AF17D),
}


@pytest.mark.parametrize(("family", "parameters"), FROZEN, ids=str)
def test_frozen_bits(family, parameters, backend):
    """seed 0123456789abcdef, sample 5, draw 17, stream 40, elements 0 .. 3: part of every saved run."""
    x = noise(family, (1, 4), resolve(Seeds(SEED, [5]), 1), 17, 40, parameters=parameters, backend=backend)
    got = [v & 0xFFFFFFFF for v in x[0].view(torch.int32).tolist()]
    assert got == list(FROZEN[family, parameters])


# ---- the same bits everywhere


@EACH
def test_reference_and_cpu_agree(family, parameters, isa, same_bits):
    rng = resolve(Seeds(987654321987654321, [0, 2**40 + 3, 5]), 3)
    for name, dtype, shape in itertools.product(_C.isas(), DTYPES, [(), (3,), (5, 7), (257,), (0,)]):
        isa(name)
        a, b = (
            noise(family, (3, *shape), rng, 2**24 - 1, 200, parameters=parameters, dtype=dtype, backend=which)
            for which in ("cpu", "reference")
        )
        same_bits(a, b)


@EACH
def test_threads_do_not_matter(family, parameters, threads, same_bits):
    rng = resolve(1, 2)
    results = []
    for n in (1, 2):
        threads(n)
        results.append(
            [
                noise(family, (2, 50_001), rng, parameters=parameters),
                noise(family, (2, 224, 224), rng, parameters=parameters, strides=[1, 224], symmetric=224),
            ]
        )
    for a, b in zip(*results, strict=True):
        same_bits(a, b)


@EACH
def test_shape_and_batch_do_not_matter(family, parameters, same_bits):
    def draw(shape, rng, **options):
        return noise(family, shape, rng, 3, 33, parameters=parameters, **options)

    rng = resolve(3, 64)
    x = draw((64, 6, 5), rng)
    same_bits(x[2:3], draw((1, 6, 5), rng[2:3].contiguous()))
    order = [63, 1, 0, 2]
    same_bits(x[order], draw((4, 6, 5), resolve(Seeds(3, order), 4)))
    same_bits(x.flatten(1), draw((64, 30), rng))
    same_bits(x.flatten(1)[:, :7], draw((64, 7), rng))
    for dtype in DTYPES:
        same_bits(draw((64, 6, 5), rng, dtype=dtype), x.to(dtype))


@EACH
def test_shards_are_slices_of_the_whole(family, parameters, isa, same_bits):
    rng = resolve(3, 2)
    shape, steps = (6, 5, 4, 7), [140, 28, 7, 1]
    whole = noise(family, (2, *shape), rng, 1, 40, parameters=parameters)
    cuts = [
        (slice(2, 4), slice(0, 5), slice(0, 4), slice(0, 7)),
        (slice(0, 6), slice(1, 3), slice(3, 4), slice(2, 7)),
    ]
    for name, cut in itertools.product(["reference", *_C.isas()], cuts):
        if name != "reference":
            isa(name)
        part = whole[(slice(None), *cut)]
        got = noise(
            family,
            part.shape,
            rng,
            1,
            40,
            parameters=parameters,
            offset=sum(c.start * s for c, s in zip(cut, steps, strict=True)),
            strides=steps,
            backend="reference" if name == "reference" else "cpu",
        )
        same_bits(got, part.contiguous())
    rows = noise(family, (2, 2, 5, 4, 7), rng, 1, 40, parameters=parameters, offset=2 * 140)
    same_bits(rows, whole[:, 2:4].contiguous())  # without strides: a run of elements
    turned = noise(family, (2, 7, 6), rng, 1, 40, parameters=parameters, offset=6, strides=[-1, 140])
    same_bits(turned, whole[:, :, 0, 0].flip(-1).transpose(1, 2).contiguous())  # any affine map


@EACH
def test_symmetric(family, parameters, isa, same_bits):
    """(i, j) and (j, i) have the number that the row-major upper one has; shards of rows have their part."""
    rng, n = resolve(5, 3), 9
    whole = noise(family, (3, 2, n, n), rng, 0, 40, parameters=parameters)
    upper = torch.triu(whole, 1)
    for name in ("reference", *_C.isas()):
        if name != "reference":
            isa(name)
        options = {"parameters": parameters, "backend": "reference" if name == "reference" else "cpu"}
        x = noise(family, (3, 2, n, n), rng, 0, 40, symmetric=n, **options)
        same_bits(torch.triu(x, 1), upper)
        same_bits(torch.tril(x, -1), upper.transpose(-1, -2).tril(-1))
        assert (x.diagonal(dim1=-2, dim2=-1).view(torch.int32) == 0).all()
        part = noise(
            family, (3, 2, 4, n), rng, 0, 40, symmetric=n, offset=3 * n, strides=[n * n, n, 1], **options
        )
        same_bits(part, x[:, :, 3:7].contiguous())


def test_every_bit_of_the_counter_counts():
    """Of the families that have counters of their own."""
    for family, parameters in (("student_t", (4.0, 0.0)), ("gamma", (2.0, 1.0)), ("gamma", (0.5, 1.0))):

        def first(seed=0, sample=0, draw=0, stream=0, element=0, family=family, parameters=parameters):
            rng = torch.tensor([[seed, sample, 0]])
            return noise(family, (1, 1), rng, draw, stream, parameters=parameters, offset=element).item()

        seen = {first()}
        seen |= {first(seed=1 << k) for k in range(63)} | {first(sample=1 << k) for k in range(56)}
        seen |= {first(draw=1 << k) for k in range(24)} | {first(stream=1 << k) for k in range(8)}
        seen |= {first(element=1 << k) for k in range(32)}
        assert len(seen) == 1 + 63 + 56 + 24 + 8 + 32


# ---- the functions under the laws


def test_exponential_function():
    """Dense against float64: below two float32 roundings of 6.0e-8, the polynomial's 1.4e-8 included."""
    g = torch.Generator().manual_seed(0)
    for scale in (88.0, 1.0, 1e-3, 1e-6):
        y = ((torch.rand(2 * 10**5, generator=g, dtype=torch.float64) * 2 - 1) * scale).clamp(-87, 88).float()
        wide = y.double()
        assert ((ref.exp(y).double() / wide.exp()) - 1).abs().max() < 1e-7
        x = y.abs().clamp(1e-30, 87)
        assert ((ref.one_minus_exp(x).double() / -torch.expm1(-x.double())) - 1).abs().max() < 1e-7
    x = torch.logspace(-38, 1.9, 2 * 10**5, dtype=torch.float64).float()
    assert ((ref.one_minus_exp(x).double() / -torch.expm1(-x.double())) - 1).abs().max() < 1e-7
    assert ref.exp(torch.tensor([1e9])).isfinite() and ref.one_minus_exp(
        torch.tensor([1e9, 0.0])
    ).tolist() == [1, 0]


def test_ranges_of_exponential_gumbel_laplace():
    ends = torch.tensor([0, 0xFFFFFEFF, 0xFFFFFF00, 0xFFFFFFFF])
    e = ref.exponential(ends)
    assert e.max().item() == pytest.approx(33 * math.log(2), rel=1e-7)  # -ln 2^-33
    assert e[1:].tolist() == [2.0**-24] * 3  # -ln(1 - 2^-24) in float32
    gumbel = ref.m2log(e) * 0.5
    assert gumbel[0].item() == pytest.approx(-math.log(33 * math.log(2)), rel=1e-6)
    assert gumbel[3].item() == pytest.approx(24 * math.log(2), rel=1e-7)
    laplace = ref.laplace(torch.tensor([0, 1 << 31, 0x7FFFFFFF, 0xFFFFFFFF]))
    assert laplace.tolist() == [laplace[0].item(), -laplace[0].item(), 0, 0]
    assert laplace[0].item() == pytest.approx(32 * math.log(2) / math.sqrt(2), rel=1e-7)


def test_words_to_exponentials_and_gumbels_are_exact():
    """Against float64 of the same uniform. 8.2e-8 relative is m2log's own bound; a gumbel takes it twice,
    absolutely where ln E is small."""
    w = torch.randint(2**32, (2 * 10**5,), generator=torch.Generator().manual_seed(1), dtype=torch.int64)
    w[: 2**16] = torch.arange(2**16)
    w[2**16 : 2**17] = torch.arange(2**32 - 2**16, 2**32)
    e = -ref.uni(w.clamp(max=0xFFFFFF00)).double().log()
    got = ref.exponential(w)
    assert (got.double() / e - 1).abs().max() < 8.3e-8
    g = -e.log()
    assert ((ref.m2log(got) * 0.5).double() - g).abs().div(g.abs().clamp(min=1)).max() < 2 * 8.3e-8


# ---- as a torch op


@pytest.mark.parametrize(
    ("family", "parameters"), [("gamma", (0.5, 1.0)), ("rademacher", ()), ("bernoulli", (0.3,))]
)
def test_opcheck_vmap_compile(family, parameters, same_bits):
    rng = resolve(4, 3)
    torch.library.opcheck(
        torch.ops.fastdiff.noise.default,
        (family, [3, 5], rng, 2, 40, list(parameters), 7, [9], 0),
        {"dtype": torch.bfloat16},
    )

    def draw(r):
        return noise(family, (3, 5, 5), r, 1, 2, parameters=parameters, strides=[5, 1], symmetric=5)

    many = torch.stack([rng, rng + torch.tensor([0, 5, 1])])
    for a, r in zip(torch.vmap(draw)(many), many, strict=True):
        same_bits(a, draw(r))
    same_bits(torch.compile(draw, fullgraph=True, backend="aot_eager")(rng), draw(rng))
    assert noise(family, (3, 5), rng.to("meta"), parameters=parameters).device.type == "meta"


BAD = [
    ("cauchy", (), {}, r"noise: family is 'cauchy'; one of normal, uniform, "),
    ("normal", (1.0,), {}, r"normal: parameters are \[1.0\]; 0: none"),
    ("gamma", (1.0,), {}, r"gamma: parameters are \[1.0\]; 2: k, centred"),
    *[("gamma", (k, 1.0), {}, "gamma: k is .*; above 0") for k in (0.0, -1.0, math.inf, math.nan, 1e31)],
    *[("student_t", (nu, 0.0), {}, rf"student_t: nu is {nu}; above 0") for nu in (0.0, -2.0, math.nan)],
    ("student_t", (2.0, 1.0), {}, "student_t: nu is 2.0; above 2 with unit variance"),
    ("multivariate_t", (1.5, 1.0), {}, "multivariate_t: nu is 1.5; above 2 with unit variance"),
    *[("bernoulli", (p,), {}, rf"bernoulli: p is {p}; 0 \.\. 1") for p in (-0.1, 1.1, math.nan)],
    *[("bimodal", (m,), {}, rf"bimodal: m is {m}; -1 \.\. 1") for m in (-1.5, 1.1, math.nan)],
    ("gamma", (1.0, 1.0), {"draw": 2**24}, r"gamma: draw is 16777216; 0 \.\. 2\^24 - 1"),
    ("multivariate_t", (1.0, 0.0), {"draw": -1}, r"multivariate_t: draw is -1; 0 \.\. 2\^24 - 1"),
    ("normal", (), {"strides": [1]}, r"normal: strides are 1 for a sample of shape \(2, 3\); one for each"),
    ("normal", (), {"strides": []}, r"normal: strides are 0 for a sample of shape \(2, 3\)"),
    ("normal", (), {"offset": -1}, r"offset and strides reach elements -1 \.\. 4; 0 \.\. 2\^34 - 1"),
    ("normal", (), {"strides": [-1, 1]}, r"reach elements -1 \.\. 2; 0 \.\. 2\^34"),
    ("student_t", (1.0, 0.0), {"offset": 2**33}, r"reach elements .*; 0 \.\. 2\^33 - 1"),
    ("gamma", (1.0, 1.0), {"offset": 2**32 - 5}, r"reach elements .*; 0 \.\. 2\^32 - 1"),
    ("rademacher", (), {"offset": 2**34 - 5}, r"reach elements .*; 0 \.\. 2\^34 - 1"),
    ("normal", (), {"symmetric": -1}, "normal: symmetric is -1; 0, or the number of rows"),
    ("normal", (), {"stream": 256}, r"stream is 256; 0 \.\. 255"),
]


@pytest.mark.parametrize("way", ["eager", "compiled"])
@pytest.mark.parametrize(("family", "parameters", "options", "words"), BAD)
def test_bad_arguments(family, parameters, options, words, way):
    def call(rng):
        return noise(family, (4, 2, 3), rng, parameters=parameters, **options)

    if way == "eager":
        with pytest.raises(ValueError, match=words):
            call(resolve(0, 4))
    else:
        with pytest.raises(ValueError, match=words), torch._subclasses.FakeTensorMode() as mode:
            call(mode.from_tensor(torch.zeros(4, 3, dtype=torch.int64)))


def test_bad_types():
    rng = resolve(0, 4)
    for name, value in (("offset", 0.5), ("offset", True), ("strides", [1.0, 2.0]), ("symmetric", "n")):
        with pytest.raises(TypeError, match=f"normal: {name} must be of ints"):
            noise("normal", (4, 2, 3), rng, **{name: value})
    with pytest.raises(ValueError, match="strides are 5 for a sample"):
        noise("normal", (4, 1, 1, 1, 1, 1), rng, strides=[1] * 5)


def test_the_compiled_module_checks_for_itself():
    out, rng = torch.empty(2, 3), resolve(0, 2)
    for args, words in (
        (("cauchy",), "fill: family is 'cauchy'; there are normal, uniform, "),
        (("gamma", [1.0]), "fill: constants are 1; gamma needs 5"),
        (("bernoulli", [2.0**33]), r"fill: constants hold .*; bernoulli needs 0 \.\. 2\^32"),
        (("normal", [], 0, [1, 1]), r"fill: strides are 2 numbers for an out of \(2, 3\)"),
        (("normal", [], -1), r"fill: offset and strides leave 0 \.\. 17179869184 - 1"),
        (("normal", [], 0, [2**62]), "fill: offset and strides leave"),
        (("normal", [], 2**63 - 1, [1]), "fill: offset and strides leave"),
        (("normal", [], 0, [], 2**31), "fill: symmetric is 2147483648"),
    ):
        with pytest.raises(ValueError, match=words):
            _C.fill_(out, rng, 0, 0, *args)


def test_every_family_is_tested():
    assert {family for family, _ in LAWS} == set(PARAMETERS)
