"""perturb: against the written-out sum, its derivatives, and the same bits however it is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastdiff import _C
from fastdiff.noise import Seeds, resolve, streams
from fastdiff.ops import linear_step, normal, perturb
from fastdiff.ops import perturb as op

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
DTYPES = (F32, F16, BF16, F64)


def case(dtype: torch.dtype, shape: tuple[int, ...] = (5, 7), batch: int = 3) -> dict[str, Any]:
    g = torch.Generator().manual_seed(sum(shape) + batch)
    x0, endpoint = (torch.randn(batch, *shape, generator=g).to(dtype) for _ in range(2))
    a, s, k, e = torch.rand(4, batch, generator=g, dtype=F64 if dtype == F64 else F32)
    mu = torch.randn(1, *shape, generator=g).to(dtype)
    return {
        "x0": x0,
        "a": a,
        "s": s,
        "rng": resolve(11, batch),
        "mu": mu,
        "k": k,
        "endpoint": endpoint,
        "e": e,
    }


def written_out(a: dict[str, Any], xi: torch.Tensor) -> torch.Tensor:
    def wide(c: torch.Tensor) -> torch.Tensor:
        return c.double().view(-1, *[1] * (a["x0"].dim() - 1))

    pairs = (("a", "x0"), ("k", "mu"), ("e", "endpoint"))
    return sum(wide(a[c]) * a[t].double() for c, t in pairs) + wide(a["s"]) * xi.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("column", [0, 3])
def test_against_the_sum(dtype: torch.dtype, column: int) -> None:
    """Four products and three sums of float32 (float64), each within half a unit of at most 8, then one
    rounding."""
    a = case(dtype)
    x_t, xi = op(**a, draw=5, column=column, noise=True)
    assert x_t.dtype == xi.dtype == dtype
    stream = streams.TRAINING if column == 0 else 192 + column
    same = normal(a["x0"].shape, a["rng"], 5, stream)
    torch.testing.assert_close(xi, same.to(dtype), rtol=0, atol=0)
    unit = torch.finfo(dtype).eps / 2
    slack = 7 * 8 * torch.finfo(F64 if dtype == F64 else F32).eps / 2
    torch.testing.assert_close(x_t.double(), written_out(a, same), rtol=unit, atol=slack)
    torch.testing.assert_close(op(**a, draw=5, column=column), x_t, rtol=0, atol=0)


@pytest.mark.parametrize("name", _C.isas())
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_on_every_backend(name: str, dtype: torch.dtype, isa: Any, same_bits: Any) -> None:
    isa(name)
    for shape in ((), (1,), (3,), (31, 7), (4099,), (0,)):
        a = case(dtype, shape)
        for got, want in zip(
            op(**a, noise=True, backend="cpu"), op(**a, noise=True, backend="reference"), strict=True
        ):
            same_bits(got, want)


def test_batch_threads_and_memory_do_not_matter(threads: Any, same_bits: Any) -> None:
    a = case(F32, (4, 120, 120), 6)
    threads(1)
    whole = op(**a, noise=True)
    threads(2)
    for got, want in zip(op(**a, noise=True), whole, strict=True):
        same_bits(got, want)
    shared = ("mu",)
    for part in (slice(0, 1), slice(1, 6)):
        some = {k: v if k in shared else v[part] for k, v in a.items()}
        for got, want in zip(op(**some, noise=True), whole, strict=True):
            same_bits(got, want[part])
    order = torch.tensor([5, 3, 0, 1, 4, 2])
    moved = {k: v if k in shared else v[order] for k, v in a.items()} | {"rng": resolve(Seeds(11, order), 6)}
    same_bits(op(**moved), whole[0][order])
    last = a | {k: a[k].contiguous(memory_format=torch.channels_last) for k in ("x0", "endpoint")}
    same_bits(op(**last), whole[0])


def test_it_is_the_linear_step(same_bits: Any) -> None:
    a = case(BF16)
    A = torch.stack([a["a"], a["k"], a["e"], a["s"]], -1)[:, None]
    (want,) = linear_step([a["x0"], a["mu"], a["endpoint"]], A, rng=a["rng"], draws=[2], streams=[2])
    same_bits(op(**a, draw=2), want)


def test_numbers_and_dtype(same_bits: Any) -> None:
    x0, rng = torch.randn(2, 9), resolve(1, 2)
    want = perturb(x0, torch.full((2,), 0.5), torch.tensor([2.0, 2.0]), rng)
    same_bits(perturb(x0, 0.5, torch.tensor(2.0), rng), want)
    same_bits(perturb(x0, 0.5, 2.0, rng, dtype=BF16), want.bfloat16())
    same_bits(perturb(x0[:1], 0.5, 2.0, rng)[:1], want[:1])  # one image, many noises
    same_bits(torch.ops.fastdiff.perturb(x0, torch.full((2,), 0.5), torch.full((2,), 2.0), rng)[0], want)


def test_nothing_is_read_behind_a_zero() -> None:
    x0 = torch.full((2, 3), torch.nan)
    assert (perturb(x0, 0.0, 0.0, resolve(1, 2)) == 0).all()


def test_derivatives() -> None:
    """gradcheck's finite differences in float64, reverse and forward, twice."""
    a = case(F64, (3,), 2)
    names = [k for k in a if k != "rng"]
    tensors = [a[k].clone().requires_grad_() for k in names]

    def f(*t: torch.Tensor) -> Any:
        return op(**dict(zip(names, t, strict=True)), rng=a["rng"], noise=True)[0]

    assert torch.autograd.gradcheck(f, tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, tensors)


def test_transforms(same_bits: Any) -> None:
    a = case(F32)
    args = (a["x0"], a["a"], a["s"], a["rng"])
    torch.library.opcheck(torch.ops.fastdiff.perturb.default, args, {"noise": True})
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        same_bits(torch.compile(op, fullgraph=True, backend=backend)(*args), op(*args))
    many = torch.stack([a["x0"], -a["x0"]])
    same_bits(torch.vmap(lambda x: op(x, *args[1:]))(many)[1], op(many[1], *args[1:]))


X, RNG = torch.ones(2, 3), resolve(1, 2)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x0 a number": ({"x0": 1.0}, TypeError, "x0 must be a torch.Tensor, got float"),
    "x0 int": ({"x0": X.int()}, ValueError, r"T\[0\] is torch.int32"),
    "mu alone": ({"mu": X}, ValueError, "k is missing but mu is given"),
    "e alone": ({"e": 1.0}, ValueError, "endpoint is missing but e is given"),
    "a shape": ({"a": torch.ones(3)}, ValueError, r"a has shape \(3,\); a number or \(2,\)"),
    "s int": ({"s": torch.ones(2, dtype=torch.int64)}, ValueError, "s is torch.int64"),
    "s text": ({"s": "1"}, TypeError, "s must be a torch.Tensor, got str"),
    "rng": ({"rng": torch.ones(2, 3)}, ValueError, "rng is torch.float32"),
    "rng none": ({"rng": None}, TypeError, "rng must be a torch.Tensor, got NoneType"),
    "column": ({"column": 64}, ValueError, r"column is 64; 0 \.\. 63"),
    "column type": ({"column": 1.0}, TypeError, "column must be an int"),
    "noise": ({"noise": 1}, TypeError, "noise must be a bool"),
    "backend": ({"backend": "no"}, ValueError, "backend='no' is unknown"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(name: str) -> None:
    given, error, words = BAD[name]
    with pytest.raises(error, match=words):
        perturb(**{"x0": X, "a": 1.0, "s": 1.0, "rng": RNG, **given})
