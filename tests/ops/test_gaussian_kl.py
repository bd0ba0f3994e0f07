"""gaussian_kl: against torch.distributions and 60 digits of mpmath, its slopes, the same bits everywhere."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from fastdiff import _C
from fastdiff.ops import gaussian_kl

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
SHAPES = [(), (1,), (3,), (31, 7), (1024,), (1025,), (3000,), (0,)]


def case(dtype: torch.dtype, shape: tuple[int, ...] = (31, 7), batch: int = 4) -> dict[str, Any]:
    """The first two samples diverge, the others are bins; x0 is 8-bit data with both ends in it."""
    g = torch.Generator().manual_seed(sum(shape) + batch)
    x0 = torch.randint(0, 256, (batch, *shape), generator=g).double() / 127.5 - 1
    x0 = torch.where(torch.rand(x0.shape, generator=g) < 0.1, x0.sign(), x0)
    xt, pred, var = (torch.randn(batch, *shape, generator=g) for _ in range(3))
    c = torch.rand(3, batch, generator=g, dtype=F64)
    return {
        "pred": pred.to(dtype), "x0": x0.to(dtype), "xt": xt.to(dtype), "var": var.to(dtype),
        "by_xt": c[0] - 0.5,
        "by_x0": torch.tensor([0.4, 0.0, 1.0, 1.0], dtype=F64)[:batch], "by_pred": -c[1], "low": -6 + c[2],
        "high": -2.0, "log_var": -4 + c[2], "bin": torch.tensor([False, False, True, True])[:batch],
        "w": torch.tensor([1.0, 0.7, 1.5, 0.3])[:batch],
    }  # fmt: skip


def by_column(a: dict[str, Any], k: str) -> Tensor:
    return torch.as_tensor(a[k], dtype=F64).expand(a["pred"].shape[0])[:, None]


def moments(a: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """delta and the model's log variance, (B, n) float64."""
    B, n = a["pred"].shape[0], a["pred"].shape[1:].numel()
    pairs = (("by_xt", "xt"), ("by_x0", "x0"), ("by_pred", "pred"))
    delta = sum(by_column(a, c) * a[t].double().reshape(B, n) for c, t in pairs)
    v = (a["var"].double().reshape(B, n) + 1) / 2
    return delta, v * by_column(a, "high") + (1 - v) * by_column(a, "low")


def written_out(a: dict[str, Any]) -> Tensor:
    """torch.distributions for the divergence, log_ndtr in the left tail for the bins (open ends
    one-sided)."""
    delta, log_var = moments(a)
    normal = torch.distributions.Normal
    zero = torch.zeros_like(delta)
    true = normal(delta, (0.5 * by_column(a, "log_var")).exp().expand_as(delta))
    kl = torch.distributions.kl_divergence(true, normal(zero, (0.5 * log_var).exp()))
    x, s, h = a["x0"].double().reshape(delta.shape), (0.5 * log_var).exp(), 1 / 255
    log_ndtr = torch.special.log_ndtr
    low, high = (-delta.abs() - h) / s, (-delta.abs() + h) / s
    inner = log_ndtr(high) + torch.log1p(-(log_ndtr(low) - log_ndtr(high)).exp())
    bins = torch.where(
        x < -0.999, log_ndtr((delta + h) / s), torch.where(x > 0.999, log_ndtr((h - delta) / s), inner)
    )
    nats = torch.where(a["bin"][:, None], -bins, kl)
    return by_column(a, "w")[:, 0] * nats.sum(1)


def test_value_and_gradients_in_float64() -> None:
    """Some ten functions good to 4e-16 of values up to 1e3, summed: 1e-12 of the sum; log1p in the oracle
    loses as much. The gradient of a bin divides two small numbers in the oracle: 1e-10."""
    a = case(F64)
    names = ["pred", "var"]
    t = {k: a[k].clone().requires_grad_() for k in names}
    got, want = gaussian_kl(**a | t), written_out(a | t)
    assert got.dtype == F64
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    g = torch.randn(4, dtype=F64)
    for x, y in zip(
        torch.autograd.grad(got, list(t.values()), g),
        torch.autograd.grad(want, list(t.values()), g),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


def cost(delta: float, s: float, h: float) -> Any:
    a, b = (-abs(mpmath.mpf(delta)) - h) / s, (-abs(mpmath.mpf(delta)) + h) / s
    return -mpmath.log(mpmath.ncdf(b) - mpmath.ncdf(a))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bins_far_out_and_very_narrow(backend: str) -> None:
    """Where float64 differences of Phi are 0 or noise. The narrow bin takes its density, to h^4 / 640 =
    2e-15."""
    h, one = 1 / 255, torch.ones(1, dtype=F64)
    with mpmath.workdps(60):
        for s in (1e-3, 0.03, 1.0, 1e3, 1e9):
            for z in (0.0, 0.3, 3.0, 30.0, 3000.0):
                if z * s > 1e6:
                    continue
                log_var = 2 * mpmath.log(mpmath.mpf(s))
                delta = float(z * s)
                x = torch.zeros(1, 1, dtype=F64, requires_grad=True)
                lv = torch.tensor([float(log_var)], dtype=F64)
                got = gaussian_kl(
                    x, x.detach(), torch.tensor([[delta]], dtype=F64),
                    by_xt=one, by_x0=one, by_pred=one, low=lv,
                    bin=torch.tensor([True]), backend=backend,
                )  # fmt: skip
                sd, hh = mpmath.exp(mpmath.mpf(float(lv)) / 2), mpmath.mpf(h)
                want = cost(delta, sd, hh)
                assert abs(got.item() - want) <= 2e-13 * max(1, abs(want)), (s, z, got.item(), want)
                (g,) = torch.autograd.grad(got.sum(), x)
                slope = mpmath.diff(lambda d: cost(d, sd, hh), mpmath.mpf(delta)) if z else mpmath.mpf(0)  # noqa: B023
                bound = max(abs(slope), mpmath.mpf(1) / sd)  # of two numbers of that size, the difference
                assert abs(g.item() - slope) <= 2e-11 * bound, (s, z, g.item(), slope)


def test_the_bins_of_a_value_have_mass_one() -> None:
    """256 of them, 1e-15 each."""
    x0 = (torch.arange(256, dtype=F64) / 127.5 - 1)[:, None]
    for mean, log_var in ((0.1, -3.0), (-0.9, -8.0), (2.0, 1.0)):
        nats = gaussian_kl(
            x0, x0, torch.full_like(x0, mean), by_xt=-1.0, by_x0=1.0, by_pred=0.0, low=log_var,
            bin=torch.ones(256, dtype=torch.bool),
        )  # fmt: skip
        assert abs(float((-nats).exp().sum()) - 1) < 256e-15
    two = torch.tensor([[-1.0], [1.0]])
    half = gaussian_kl(
        two, two, 0 * two, by_xt=1.0, by_x0=1.0, by_pred=0.0, low=0.0, bins=2, bin=torch.ones(2) > 0
    )
    torch.testing.assert_close(half, torch.full((2,), 2.0).log(), rtol=2**-23, atol=0)


@pytest.mark.parametrize("name", _C.isas())
@pytest.mark.parametrize("dtype", [F32, F16, BF16, F64])
def test_the_same_bits_on_every_backend(name: str, dtype: torch.dtype, isa: Any, same_bits: Any) -> None:
    isa(name)
    for shape in SHAPES:
        a = case(dtype, shape)
        for learned in (True, False):
            some = a if learned else {k: v for k, v in a.items() if k not in ("var", "high", "bin", "w")}
            found = []
            for backend in ("reference", "cpu"):
                names = ("pred", "var") if learned else ("pred",)
                t = {k: a[k].clone().requires_grad_() for k in names}
                y = gaussian_kl(**some | t, backend=backend, reduction="mean")
                found.append((y.detach(), *torch.autograd.grad(y.sum(), list(t.values()))))
            for x, y in zip(*found, strict=True):
                same_bits(x, y)


def test_float32_is_float64_rounded(same_bits: Any) -> None:
    """All of the arithmetic is float64: of values that float32 has, only the result is rounded."""
    a = case(F32)
    wide = {k: v.double() if k in ("pred", "x0", "xt", "var") else v for k, v in a.items()}
    same_bits(gaussian_kl(**a), gaussian_kl(**wide).float())


def test_batch_threads_and_memory_do_not_matter(threads: Any, same_bits: Any) -> None:
    a = case(F32, (4, 120, 120))
    threads(1)
    whole = gaussian_kl(**a)
    threads(2)
    same_bits(gaussian_kl(**a), whole)
    for part in (slice(0, 1), slice(1, 4)):
        some = {k: v[part] if isinstance(v, Tensor) else v for k, v in a.items()}
        same_bits(gaussian_kl(**some), whole[part])
    last = {
        k: v.contiguous(memory_format=torch.channels_last) if isinstance(v, Tensor) and v.dim() == 4 else v
        for k, v in a.items()
    }
    same_bits(gaussian_kl(**last), whole)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_weight_and_a_stopped_mean(backend: str) -> None:
    a = case(F32) | {"w": torch.tensor([0.0, 1.0, 0.0, 1.0])}
    a["pred"][0], a["pred"][2] = torch.inf, torch.nan
    pred, var = (a[k].clone().requires_grad_() for k in ("pred", "var"))
    y = gaussian_kl(**a | {"pred": pred, "var": var}, stop_mean=True, backend=backend)
    assert (y[[0, 2]] == 0).all() and (y[[1, 3]] > 0).all()
    g, v = torch.autograd.grad(y.sum(), (pred, var), allow_unused=True)
    assert g is None and (v[[0, 2]] == 0).all() and v.isfinite().all() and (v[[1, 3]] != 0).any()


def test_derivatives_by_everything() -> None:
    """gradcheck's finite differences in float64, reverse, forward and twice."""
    a = case(F64, (2,), 4)
    a["x0"] = a["x0"] * 0.9  # no bin changes ends under a small step
    names = ["pred", "var", "x0", "xt", "by_xt", "low", "log_var"]
    tensors = [a[k].clone().requires_grad_() for k in names]

    def f(*t: Tensor) -> Tensor:
        return gaussian_kl(**a | dict(zip(names, t, strict=True)))

    assert torch.autograd.gradcheck(f, tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, tensors, atol=1e-4)


def test_transforms(same_bits: Any) -> None:
    a = case(F32, (40,))
    pred, var = (a[k].clone().requires_grad_() for k in ("pred", "var"))
    C = torch.rand(4, 6, dtype=F64)
    args = (pred, var, a["x0"], a["xt"], C, a["bin"].int(), None, 1 / 255, True, True, True)
    torch.library.opcheck(torch.ops.fastdiff.gaussian_kl.default, args)

    def f(y: Tensor, v: Tensor) -> Tensor:
        return gaussian_kl(**a | {"pred": y, "var": v}).sum()

    want = torch.autograd.grad(f(pred, var), (pred, var))
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        compiled = torch.compile(f, fullgraph=True, backend=backend)
        for x, y in zip(torch.autograd.grad(compiled(pred, var), (pred, var)), want, strict=True):
            same_bits(x, y)
    (g,) = (torch.func.grad(f)(a["pred"], a["var"]),)
    torch.testing.assert_close(g, want[0], rtol=1e-6, atol=1e-6)  # by float64 autograd, to float32's digits
    many = torch.stack([a["pred"], -a["pred"]])
    y = torch.vmap(lambda t: gaussian_kl(**a | {"pred": t}))(many)
    same_bits(y[1], gaussian_kl(**a | {"pred": -a["pred"]}))


X = torch.ones(2, 3)
GOOD = {"pred": X, "x0": X, "xt": X, "by_xt": 1.0, "by_x0": 1.0, "by_pred": 1.0, "low": 0.0}
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "pred": ({"pred": 1.0}, TypeError, "must be a torch.Tensor, got float"),
    "x0 shape": ({"x0": X[:1]}, ValueError, r"x0 has shape \(1, 3\)"),
    "xt int": ({"xt": X.int()}, ValueError, "xt is torch.int32"),
    "var alone": ({"var": X}, ValueError, "high is missing but var is given"),
    "high alone": ({"high": 1.0}, ValueError, "var is missing but high is given"),
    "low shape": ({"low": torch.ones(3)}, ValueError, r"low has shape \(3,\)"),
    "bin dtype": ({"bin": torch.ones(2)}, ValueError, "bin is torch.float32; torch.bool"),
    "bins": ({"bins": 1}, ValueError, "bins is 1; at least 2"),
    "bins type": ({"bins": 2.0}, TypeError, "bins must be an int"),
    "stop": ({"stop_mean": 1}, TypeError, "stop_mean must be a bool"),
    "reduction": ({"reduction": "x"}, ValueError, "reduction is 'x'"),
    "w": ({"w": "1"}, TypeError, "w must be a torch.Tensor"),
    "backend": ({"backend": "no"}, ValueError, "backend='no' is unknown"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(name: str) -> None:
    given, error, words = BAD[name]
    with pytest.raises(error, match=words):
        gaussian_kl(**GOOD | given)
