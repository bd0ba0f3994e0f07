"""dots: against exact sums, its derivatives, and the same bits however it is cut."""

from __future__ import annotations

from math import fsum
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdiff import _C
from fastdiff.noise import Seeds, resolve
from fastdiff.ops import dots, dots_, normal

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
PAIRS = [(0, 0), (0, 1), (2, 1), (3, 3), (4, 0), (5, 5), (3, 5)]  # x, y, c, 1, xi, xi'
KINDS = ["dot", "l1", "dot", "dot", "l1", "dot", "l1"]
SHAPES = [(), (1,), (3,), (31, 7), (1024,), (1025,), (5000,), (0,)]


def case(dtype: torch.dtype, shape: tuple[int, ...], batch: int = 3) -> tuple[list[Tensor], dict[str, Any]]:
    g = torch.Generator().manual_seed(sum(shape) + batch)
    T = [torch.randn(b, *shape, generator=g).to(dtype) for b in (batch, batch, 1)]
    return T, {"rng": resolve(9, batch), "draws": [1, 2], "streams": [0, 193]}


def vectors(T: list[Tensor], o: dict[str, Any]) -> list[Tensor]:
    B, n = o["rng"].shape[0], T[0].shape[1:].numel()
    u = [t.double().reshape(t.shape[0], n).expand(B, n) for t in T] + [torch.ones(B, n, dtype=F64)]
    noise = (normal(T[0].shape, o["rng"], d, s) for d, s in zip(o["draws"], o["streams"], strict=True))
    return u + [z.double().reshape(B, n) for z in noise]


def exact(u: list[Tensor], pairs: Any, kinds: Any) -> Tensor:
    """fsum rounds once."""

    def one(a: Tensor, b: Tensor, kind: str) -> float:
        return fsum(
            abs(x * y) if kind == "l1" else x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)
        )

    return torch.tensor(
        [
            [one(u[i][b], u[j][b], k) for (i, j), k in zip(pairs, kinds, strict=True)]
            for b in range(len(u[0]))
        ],
        dtype=F64,
    )


@pytest.mark.parametrize("dtype", [F32, F16, BF16, F64])
def test_against_exact_sums(dtype: torch.dtype) -> None:
    """Products of floats are exact in float64; a tree of 13 levels is within 13 x 2^-53 of sum |u v|, under
    1e4 here. The result is rounded to float32 where it is such."""
    for shape in SHAPES:
        T, o = case(dtype, shape)
        got, want = dots(T, PAIRS, kinds=KINDS, **o), exact(vectors(T, o), PAIRS, KINDS)
        assert got.dtype == (F64 if dtype == F64 else F32) and got.shape == (3, len(PAIRS))
        torch.testing.assert_close(got.double(), want, rtol=1e-14 if dtype == F64 else 2**-24, atol=2e-11)


def test_rows_are_linear_steps() -> None:
    """Three products and two sums of float32 a row element: 5 x 2^-24 of up to 10 each, against up to 5000 of
    them; the random walk of these is 1e-6 of the sum of the sizes."""
    T, o = case(F32, (5000,))
    for R in (torch.randn(2, 6), torch.randn(3, 2, 6)):
        R[..., 1, 2] = 0.0
        u = vectors(T, o)
        rows = [sum(R.expand(3, 2, 6)[:, k, i, None].double() * u[i] for i in range(6)) for k in range(2)]
        pairs = [(0, 0), (0, 1), (1, 1)]
        got, want = dots(T, pairs, rows=R, **o), exact(rows, pairs, ["dot"] * 3)
        size = exact(rows, pairs, ["l1"] * 3)
        assert ((got - want).abs() <= 1e-6 * size).all()


@pytest.mark.parametrize("name", _C.isas())
@pytest.mark.parametrize("dtype", [F32, F16, BF16, F64])
def test_the_same_bits_on_every_backend(name: str, dtype: torch.dtype, isa: Any, same_bits: Any) -> None:
    isa(name)
    real = F64 if dtype == F64 else F32
    g = torch.Generator().manual_seed(1)
    R = torch.randn(3, 6, 6, generator=g, dtype=real)
    R[:, 1, 3] = 0.0
    for shape in SHAPES:
        T, o = case(dtype, shape)
        for rows in (None, R, R[0]):
            a, b = (dots(T, PAIRS, kinds=KINDS, rows=rows, **o, backend=k) for k in ("cpu", "reference"))
            same_bits(a, b)


def test_batch_threads_and_memory_do_not_matter(threads: Any, same_bits: Any) -> None:
    T, o = case(F32, (4, 200, 100), 4)
    threads(1)
    whole = dots(T, PAIRS, **o)
    threads(2)
    same_bits(dots(T, PAIRS, **o), whole)
    for part in (slice(0, 1), slice(1, 4)):
        same_bits(dots([T[0][part], T[1][part], T[2]], PAIRS, **o | {"rng": o["rng"][part]}), whole[part])
    order = torch.tensor([3, 1, 0, 2])
    moved = o | {"rng": resolve(Seeds(9, order), 4)}
    same_bits(dots([T[0][order], T[1][order], T[2]], PAIRS, **moved), whole[order])
    same_bits(dots([t.contiguous(memory_format=torch.channels_last) for t in T], PAIRS, **o), whole)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_running_total(backend: str, same_bits: Any) -> None:
    """Unrounded sums, pair after pair: what a loop over exact float64 dots gives."""
    T, o = case(F32, (2500,))
    weights, total = torch.randn(3, 2, dtype=F64), torch.randn(3, dtype=F64)
    want = total.clone()
    sums = dots([t.double() for t in T], PAIRS[:2], **o)
    for p in range(2):
        want += weights[:, p] * sums[:, p]
    version = total._version
    dots_(total, weights, T, PAIRS[:2], **o, backend=backend)
    assert total._version > version
    same_bits(total, want)
    dots_(total, weights[0], T, PAIRS[:2], **o, backend=backend)
    for p in range(2):
        want += weights[0, p] * sums[:, p]
    same_bits(total, want)


def test_what_no_pair_names_is_not_read() -> None:
    x = torch.ones(2, 5)
    assert (dots([x, x * torch.nan], [(0, 0), (0, 2)]) == 5).all()
    R = torch.tensor([[1.0, 0.0, 1.0]])
    assert (dots([x, x * torch.nan], [(0, 0)], rows=R) == 20).all()


@pytest.mark.parametrize("rows", [None, (3, 5), (2, 3, 5)])
def test_derivatives(rows: Any) -> None:
    """gradcheck's finite differences in float64, reverse, forward and twice."""
    torch.manual_seed(2)
    T = [torch.randn(b, 3, dtype=F64, requires_grad=True) for b in (2, 1)]
    o = {"rng": resolve(9, 2), "draws": [1, 2], "streams": [0, 9]}
    R = [] if rows is None else [torch.randn(*rows, dtype=F64, requires_grad=True)]
    for kinds in ("dot", ["l1", "dot", "dot", "dot"]):

        def f(x: Tensor, y: Tensor, *R: Tensor) -> Tensor:
            return dots([x, y], [(0, 0), (0, 1), (2, 1), (0, 2)], kinds=kinds, rows=R[0] if R else None, **o)  # noqa: B023

        assert torch.autograd.gradcheck(f, (*T, *R), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, (*T, *R))
        if R:
            assert torch.autograd.gradcheck(lambda x, y: f(x, y, R[0].detach()), T)  # noqa: B023


def test_gradients_in_float32() -> None:
    """A linear step of at most six columns of up to 10: 11 roundings of 2^-24, 1e-5."""
    T, o = case(F32, (31, 7))
    a, b = ([t.to(d).requires_grad_() for t in T] for d in (F32, F64))
    pairs = [(0, 0), (0, 1), (2, 1), (4, 0)]
    g = torch.randn(3, 4)
    found = torch.autograd.grad(dots(a, pairs, **o), a, g)
    u = [t.reshape(t.shape[0], -1).expand(3, -1) for t in b] + vectors(T, o)[3:]
    want = torch.autograd.grad(torch.stack([(u[i] * u[j]).sum(1) for i, j in pairs], 1), b, g.double())
    for x, y in zip(found, want, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=1e-5)


def test_transforms(same_bits: Any) -> None:
    T, o = case(F32, (40,))
    rest = ([0, 1, 2, 3], [False, True], None, o["rng"], o["draws"], o["streams"])
    torch.library.opcheck(torch.ops.fastdiff.dots.default, ([t.clone().requires_grad_() for t in T], *rest))
    total, weights = torch.zeros(3, dtype=F64), torch.ones(2, dtype=F64)
    torch.library.opcheck(torch.ops.fastdiff.dots_.default, (total, weights, T, *rest))

    def f(x: Tensor, R: Tensor) -> Tensor:
        return dots([x, *T[1:]], [(0, 1), (1, 1)], rows=R, **o)

    R = torch.randn(2, 6)
    same_bits(torch.compile(f, fullgraph=True, backend="eager")(T[0], R), f(T[0], R))
    many = torch.stack([T[0], 2 * T[0]])
    same_bits(torch.vmap(f, (0, None))(many, R)[1], f(many[1], R))
    same_bits(torch.vmap(f, (0, 0))(many, torch.stack([R, -R]))[1], f(many[1], -R))


X = torch.ones(2, 3)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "T a tensor": ({"T": X}, TypeError, "T must be a list"),
    "no T": ({"T": []}, ValueError, r"T has 0 tensors; 1 \.\. 8"),
    "T int": ({"T": [X.int()]}, ValueError, r"T\[0\] is torch.int32"),
    "T shape": ({"T": [X, X[:, :2]]}, ValueError, r"T\[1\] has shape \(2, 2\)"),
    "no pairs": ({"pairs": []}, ValueError, r"pairs has 0; 1 \.\. 16"),
    "pairs of three": ({"pairs": [(0, 0, 0)]}, TypeError, "pairs must be a list of pairs"),
    "pairs of floats": ({"pairs": [(0, 0.5)]}, TypeError, "pairs must be of ints"),
    "pairs too far": ({"pairs": [(0, 2)]}, ValueError, r"pairs names 0 \.\. 2; there are vectors 0 \.\. 1"),
    "kinds": ({"kinds": "l2"}, ValueError, "kinds is 'l2'"),
    "kinds of two": ({"kinds": ["dot", "l1"]}, ValueError, "for each of 1 pairs"),
    "rows shape": ({"rows": torch.ones(1, 3)}, ValueError, r"rows has shape \(1, 3\)"),
    "rows double": ({"rows": torch.ones(1, 2).double()}, ValueError, "rows is torch.float64; torch.float32"),
    "rows many": ({"rows": torch.ones(9, 2)}, ValueError, r"rows has 9; 1 \.\. 8"),
    "no rng": ({"draws": [0], "streams": [0]}, ValueError, "rng is None"),
    "streams": ({"draws": [0], "rng": resolve(1, 2)}, ValueError, "have lengths 1 and 0"),
    "backend": ({"backend": "no"}, ValueError, "backend='no' is unknown"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(name: str) -> None:
    given, error, words = BAD[name]
    args = {"T": [X], "pairs": [(0, 0)], **given}
    with pytest.raises(error, match=words):
        dots(args.pop("T"), args.pop("pairs"), **args)


def test_what_is_wrong_with_a_total_is_said() -> None:
    total, weights = torch.zeros(2, dtype=F64), torch.ones(1, dtype=F64)
    with pytest.raises(ValueError, match="total is torch.float32; torch.float64"):
        dots_(total.float(), weights, [X], [(0, 0)])
    with pytest.raises(ValueError, match=r"weights has shape \(2,\); \(1,\) or \(2, 1\)"):
        dots_(total, torch.ones(2, dtype=F64), [X], [(0, 0)])
    with pytest.raises(ValueError, match="cannot carry a derivative"):
        dots_(total, weights, [X.clone().requires_grad_()], [(0, 0)])
