"""The definition itself, against published vectors, numpy's arithmetic and exact rational rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from fastdiff import _C
from fastdiff.ops import _reference as ref

# DEShawResearch/random123, tests/kat_vectors: counter, key, words
KNOWN = [
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SEVEN_ROUNDS = [
    (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48),
    (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662),
    (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A),
]


def words(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def bits(x: torch.Tensor) -> list[int]:
    return [v & 0xFFFFFFFF for v in x.view(torch.int32).tolist()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter, key, expected):
    got = ref.philox([words(c) for c in counter], [words(k) for k in key])
    assert tuple(int(w) for w in got) == expected
    assert tuple(_C.philox(counter, key)) == expected


def test_philox_known_answers_of_seven_rounds():
    for (counter, key, _), expected in zip(KNOWN, SEVEN_ROUNDS, strict=True):
        got = ref.philox([words(c) for c in counter], [words(k) for k in key], rounds=7)
        assert tuple(int(w) for w in got) == expected


def test_logarithm_bits():
    w = words(0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFEFF, 0xFFFFFF80, 0xFFFFFFFF)
    assert bits(ref.m2log(ref.uni(w))) == [0x4236FDA9, 0x422E33B3, 0x3FB17218, 0x3FB17218, 0x34000000, 0, 0]


def test_angle_bits():
    cos, sin = ref.cos_sin(
        words(0, 0x1FFFFFFF, 0x20000000, 0x3FFFFFFF, 0x40000000, 0x80000000, 0xC0000000, 0xFFFFFFFF)
    )
    assert bits(cos) == [
        0x3F800000,
        0x3F3504F3,
        0x3F3504F3,
        0x30490FDB,
        0xB0490FDB,
        0xBF800000,
        0x30490FDB,
        0x3F800000,
    ]
    assert bits(sin) == [
        0x30490FDB,
        0x3F3504F3,
        0x3F3504F3,
        0x3F800000,
        0x3F800000,
        0xB0490FDB,
        0xBF800000,
        0xB0490FDB,
    ]


def test_accuracy_of_the_polynomials():
    """Bounds measured over all 2^32 words when the polynomials were made: 8.2e-8 relative, 1.02e-7."""
    w = torch.randint(2**32 - 2**24, (10**5,), dtype=torch.int64)
    u = ref.uni(w).double()
    assert ((ref.m2log(ref.uni(w)).double() + 2 * u.log()) / (2 * u.log())).abs().max() < 8.3e-8
    angle = 2 * torch.pi * (w.double() + 0.5) / 2**32
    cos, sin = ref.cos_sin(w)
    assert (cos.double() - angle.cos()).abs().max() < 1.03e-7
    assert (sin.double() - angle.sin()).abs().max() < 1.03e-7


def test_uniforms_are_odd_multiples_of_2_to_the_minus_24():
    u = ref.u23(words(0, 511, 512, 0xFFFFFFFF)).double() * 2**24
    assert u.tolist() == [1, 1, 3, 2**24 - 1]


def test_square_root_is_rounded_correctly():
    """numpy's float32 sqrt is IEEE's; torch's on CPU is not, so the definition goes through float64."""
    x = torch.rand(10**5) * 44
    assert np.array_equal(x.double().sqrt().float().numpy(), np.sqrt(x.numpy()))


def test_arithmetic_is_numpys(make_case):
    """Multiply, then add, each rounded, columns in order: numpy has no fused multiply-add."""
    case = make_case(wild=False, noise=2)
    out = [torch.empty_like(case.T[0]) for _ in range(2)]
    o = case.options
    ref.linear_step_(case.T, case.A, None, o["rng"], o["draws"], o["streams"], out)
    shape = case.T[0].shape
    columns = [t.expand(shape).numpy() for t in case.T]
    columns += [
        ref.normal(o["rng"], shape[1:], d, s).numpy() for d, s in zip(o["draws"], o["streams"], strict=True)
    ]
    for y, row in zip(out, case.A.numpy(), strict=True):
        acc = row[0] * columns[0]
        for a, c in zip(row[1:], columns[1:], strict=True):
            acc = acc + a * c
        assert acc.dtype == np.float32 and np.array_equal(y.numpy(), acc)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float64_is_rounded_once(dtype):
    """Numbers a hair beside the middle of two neighbours: float32 puts them on it, and even wins wrongly."""
    patterns = torch.cat([torch.arange(0, 2000), torch.arange(0x3C00, 0x3D00)]).to(
        torch.int16
    )  # subnormals first
    low, high = patterns.view(dtype), (patterns + 1).view(dtype)
    low, high = torch.cat([low, -low]), torch.cat([high, -high])
    middle = (low.double() + high.double()) / 2
    for side in (-1, 1):
        x = middle * (1 + side * 2.0**-50)
        got = ref.round_to(x, dtype).double()
        for value, g, a, b in zip(x.tolist(), got.tolist(), low.tolist(), high.tolist(), strict=True):
            nearest = min((a, b), key=lambda c: abs(Fraction(c) - Fraction(value)))
            assert g == nearest
    assert torch.equal(
        ref.round_to(torch.tensor([1e300, -1e300, 0.0, -0.0]).double(), dtype),
        torch.tensor([torch.inf, -torch.inf, 0.0, -0.0], dtype=dtype),
    )
    assert ref.round_to(torch.tensor([torch.nan]).double(), dtype).isnan()
