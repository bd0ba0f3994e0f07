"""error_norm: against float64, and the same bits on every backend, instruction set and number of threads."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdiff import _C
from fastdiff.ops import error_norm

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
SHAPES = [(), (1,), (2,), (3,), (31, 7), (1000,), (1024,), (1025,), (3, 50, 50), (0,)]


def case(dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...], per_sample: bool, batch: int = 3) -> Any:
    """E of these dtypes, the first also that of a and b."""
    g = torch.Generator().manual_seed(len(shape) + sum(shape))
    a, b, *E = (torch.randn(batch, *shape, generator=g).to(d) for d in (dtypes[0], dtypes[0], *dtypes))
    C = torch.randn(batch, len(E), generator=g) if per_sample else torch.randn(len(E), generator=g)
    C[..., 0] = 0.0  # reads nothing
    return E, a, b, C.double() if F64 in dtypes else C


def exact(E: list[Tensor], a: Tensor, b: Tensor, C: Tensor, atol: float, rtol: float, norm: str) -> Tensor:
    rows = [t.double().reshape(len(t), -1) for t in (*E, a, b)]
    e = sum(C[..., i].double().reshape(-1, 1) * t for i, t in enumerate(rows[:-2]))
    q = (e / (rtol * torch.maximum(rows[-2].abs(), rows[-1].abs())).clamp(min=atol)).abs()
    if q.shape[1] == 0:
        return q.new_zeros(len(q))
    return q.amax(1) if norm == "max" else (q * q).mean(1).sqrt()


@pytest.mark.parametrize("norm", ["rms", "max"])
@pytest.mark.parametrize("dtypes", [(F32, F32, F32), (BF16, F32, BF16), (F16, F16), (F64, F32, F64), (F64,)])
def test_against_float64_and_the_same_bits(
    dtypes: tuple[torch.dtype, ...], norm: str, isa: Any, same_bits: Any
) -> None:
    """float32: q has 4 roundings and a combination of 3, 2^-24 each of sums up to 10 times the result; the
    result is rounded to float32 in any case."""
    for shape, per_sample in itertools.product(SHAPES, (True, False)):
        E, a, b, C = case(dtypes, shape, per_sample)
        for atol, rtol in ((0.01, 0.05), (0.0078, 0.0)):
            want = exact(E, a, b, C, atol, rtol, norm)
            got = error_norm(E, a, b, atol=atol, rtol=rtol, C=C, norm=norm, backend="reference")
            tight = 2**-23 if F64 in dtypes else 1e-5
            torch.testing.assert_close(got.double(), want, rtol=tight, atol=1e-30)
            for name in _C.isas():
                isa(name)
                same_bits(error_norm(E, a, b, atol=atol, rtol=rtol, C=C, norm=norm, backend="cpu"), got)


def test_threads_and_the_batch_do_not_matter(threads: Any, same_bits: Any) -> None:
    E, a, b, C = case((F32, BF16), (300_001,), True, 4)
    results = []
    for n in (1, 2):
        threads(n)
        results.append(error_norm(E, a, b, atol=1e-3, rtol=1e-2, C=C))
    same_bits(*results)
    for i in range(4):
        one = error_norm(
            [t[i : i + 1] for t in E], a[i : i + 1], b[i : i + 1], atol=1e-3, rtol=1e-2, C=C[i : i + 1]
        )
        same_bits(one, results[0][i : i + 1])


def test_a_tree_of_three_levels(same_bits: Any) -> None:
    """More than 1024 chunks."""
    a = torch.rand(1, 1024 * 1024 + 77)
    x = error_norm([a], a, atol=0.5, rtol=0.0)
    same_bits(x, error_norm([a], a, atol=0.5, rtol=0.0, backend="reference"))
    assert float(x) == pytest.approx(float((2 * a.double()).square().mean().sqrt()), rel=2**-22)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("norm", ["rms", "max"])
def test_odd_numbers(backend: str, norm: str) -> None:
    """No error is none; an error where none is allowed is infinite; a NaN stays in its own sample."""
    zero, one, nan = torch.zeros(1, 5), torch.ones(1, 5), torch.full((1, 5), float("nan"))
    some = one.clone()
    some[0, 3] = float("nan")
    E = torch.cat([zero, one, zero, some, one, one])
    a = torch.cat([zero, zero, one, one, some, one])
    got = error_norm([E], a, atol=0.0, rtol=0.5, norm=norm, backend=backend)
    assert got[0] == 0 and got[1] == float("inf") and got[2] == 0 and got[3:5].isnan().all() and got[5] == 2
    got = error_norm([one, nan], one, one, atol=1.0, rtol=0.0, C=torch.tensor([3.0, 0.0]), backend=backend)
    assert got == 3  # a zero coefficient reads nothing
    got = error_norm([1e30 * one], 1e38 * one, nan, atol=0.0, rtol=1e-20, norm=norm, backend=backend)
    assert got.isnan()


def test_views_and_a_strided_table(same_bits: Any) -> None:
    x = torch.randn(4, 6, 5)
    C = torch.randn(2, 4)
    got = error_norm(
        [x.transpose(1, 2), x[:, :5, :].reshape(4, 5, 5)[:, :, [0, 1, 2, 3, 4, 0]]],
        x.mT,
        atol=1,
        rtol=0,
        C=C.T,
    )
    want = error_norm(
        [x.mT.contiguous(), x[:, :5][:, :, [0, 1, 2, 3, 4, 0]].contiguous()],
        x.mT.contiguous(),
        atol=1,
        rtol=0,
        C=C.T.contiguous(),
    )
    same_bits(got, want)


def test_compile_vmap_opcheck(same_bits: Any) -> None:
    E, a, b, C = case((F32, F32), (40,), True)
    args = (E, a, b, 0.01, 0.05, C, "rms")
    torch.library.opcheck(torch.ops.fastdiff.error_norm.default, args)

    def f(e: Tensor, c: Tensor) -> Tensor:
        return error_norm([e, E[1]], a, b, atol=0.01, rtol=0.05, C=c)

    same_bits(torch.compile(f, fullgraph=True, backend="eager")(E[0], C), f(E[0], C))
    many = torch.stack([E[0], 2 * E[0]])
    same_bits(torch.vmap(f, (0, None))(many, C)[1], f(many[1], C))
    same_bits(torch.vmap(f, (0, 0))(many, torch.stack([C[0], C[1]]))[1], f(many[1], C[1]))


def test_a_derivative_is_refused() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="no derivative"):
        error_norm([x], x, atol=1.0, rtol=0.0)
    with torch.no_grad():
        assert (error_norm([x], x, atol=1.0, rtol=0.0) == 1).all()


X = torch.ones(2, 3)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "E a tensor": ({"E": X}, TypeError, "E must be a list"),
    "no E": ({"E": []}, ValueError, r"E has 0 tensors; 1 \.\. 12"),
    "E int": ({"E": [X.int()]}, ValueError, r"E\[0\] is torch.int32"),
    "E shape": ({"E": [X[:, :2]]}, ValueError, r"E\[0\] has shape \(2, 2\); \(2, 3\) like a"),
    "a number": ({"a": 1.0}, TypeError, "a must be a torch.Tensor, got float"),
    "a scalar": ({"a": X[0, 0]}, ValueError, "a has no dimension"),
    "b shape": ({"b": X[:1]}, ValueError, r"b has shape \(1, 3\)"),
    "b device": ({"b": X.to("meta")}, ValueError, "b is on meta"),
    "atol negative": ({"atol": -1.0}, ValueError, "atol is -1.0; finite and at least 0"),
    "rtol nan": ({"rtol": float("nan")}, ValueError, "rtol is nan"),
    "rtol text": ({"rtol": "1"}, TypeError, "rtol must be a number, got str"),
    "C shape": ({"C": torch.ones(3)}, ValueError, r"C has shape \(3,\); \(1,\) or \(2, 1\)"),
    "C double": ({"C": torch.ones(1).double()}, ValueError, "C is torch.float64; float32"),
    "norm": ({"norm": "l2"}, ValueError, "norm is 'l2'; 'rms' or 'max'"),
    "backend": ({"backend": "cuda"}, ValueError, "backend='cuda' is not available"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(name: str) -> None:
    given, error, words = BAD[name]
    args = {"E": [X], "a": X, "atol": 1.0, "rtol": 0.0, **given}
    if name == "backend" and torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(error, match=words):
        error_norm(args.pop("E"), args.pop("a"), **args)
