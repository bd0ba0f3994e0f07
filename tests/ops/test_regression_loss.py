"""regression_loss: against torch's losses in float64, their gradients, and the same bits however it is
cut."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdiff import _C
from fastdiff.noise import Seeds, resolve
from fastdiff.ops import normal, perturb, regression_loss

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
RHO = ("l2", "l1", "huber", "pseudo_huber")
SHAPES = [(), (1,), (3,), (31, 7), (1024,), (1025,), (5000,), (0,)]


def case(dtype: torch.dtype, shape: tuple[int, ...] = (31, 7), batch: int = 3, masked: bool = False) -> Any:
    g = torch.Generator().manual_seed(sum(shape) + batch)
    pred, x0, xt = (torch.randn(batch, *shape, generator=g).to(dtype) for _ in range(3))
    p, q, r, e, w = torch.randn(5, batch, generator=g, dtype=F64 if dtype == F64 else F32)
    p[0] = 0.0
    options = {"x0": x0, "xt": xt, "extra": torch.randn(1, *shape, generator=g).to(dtype)}
    options |= {"p": p, "q": q, "r": r, "e": e, "w": w, "rng": resolve(5, batch), "draw": 4}
    if masked:
        options["mask"] = torch.rand(1, *shape, generator=g) > 0.4
    return pred, options


def c_of(rho: str) -> dict[str, Any]:
    return {"rho": rho, "c": 0.8 if "huber" in rho else None}


def written_out(pred: Tensor, o: dict[str, Any], rho: str, reduction: str = "mean") -> Tensor:
    """With torch's own losses, element by element, in float64."""
    B, n = pred.shape[0], pred.shape[1:].numel()
    xi = normal(pred.shape, o["rng"], o.get("draw", 0), 2)
    rows = {"p": o["x0"], "r": o["xt"], "e": o["extra"], "q": xi}
    target = sum(o[k].double().reshape(B, 1) * t.double().reshape(t.shape[0], n) for k, t in rows.items())
    y, target = pred.double().reshape(B, n), target.expand(B, n)
    mask = o["mask"].double().reshape(1, n) if o.get("mask") is not None else torch.ones(1, n, dtype=F64)
    if rho == "pseudo_huber":
        total = ((mask * (y - target) ** 2).sum(1) + 0.64).sqrt() - 0.8
    else:
        name = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": lambda *a, **k: F.huber_loss(*a, **k, delta=0.8)}[
            rho
        ]
        total = (mask * name(y, target, reduction="none")).sum(1)
    return o["w"].double() * total / (max(n, 1) if reduction == "mean" else 1)


@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("dtype", [F32, BF16, F64])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient(rho: str, dtype: torch.dtype, masked: bool) -> None:
    """float64: the orders of sums differ, 217 roundings of 2^-53. float32: d has 7 of 2^-24 of up to 10, that
    is 4e-6 of a d of 1, and rho' is Lipschitz; bfloat16 rounds the slope and its product with what comes from
    above, 2^-8 each."""
    pred, o = case(dtype, masked=masked)
    y, y64 = pred.clone().requires_grad_(), pred.double().requires_grad_()
    loss, want = regression_loss(y, **o, **c_of(rho)), written_out(y64, o, rho)
    assert loss.dtype == (F64 if dtype == F64 else F32)
    tight = {F64: 1e-13, F32: 1e-5, BF16: 1e-5}[dtype]
    torch.testing.assert_close(loss.double(), want, rtol=tight, atol=tight)
    above = torch.tensor([0.7, -2.0, 1.0], dtype=F64)
    (g,) = torch.autograd.grad(loss, y, above.to(loss.dtype))
    (g64,) = torch.autograd.grad(want, y64, above)
    if rho == "l1":  # a sign: where d is rounded across 0 it is another
        same = (g.double().sign() == g64.sign()).double().mean()
        assert same > 0.999
    else:
        scale = float(g64.abs().max())
        torch.testing.assert_close(
            g.double(), g64, rtol=2**-7 if dtype == BF16 else 2 * tight, atol=2 * tight * scale
        )


@pytest.mark.parametrize("name", _C.isas())
@pytest.mark.parametrize("dtype", [F32, F16, BF16, F64])
def test_the_same_bits_on_every_backend(name: str, dtype: torch.dtype, isa: Any, same_bits: Any) -> None:
    isa(name)
    for shape, (k, rho), masked in itertools.product(SHAPES, enumerate(RHO), (False, True)):
        pred, o = case(dtype, shape, masked=masked)
        o["w"][k % 3] = 0.0
        found = []
        for backend in ("reference", "cpu"):
            y = pred.clone().requires_grad_()
            loss = regression_loss(y, **o, **c_of(rho), backend=backend, reduction=("mean", "sum")[k % 2])
            found.append((loss, *torch.autograd.grad(loss.sum(), y)))
        for a, b in zip(*found, strict=True):
            same_bits(a.detach(), b)
        same_bits(
            regression_loss(pred, **o, **c_of(rho), reduction=("mean", "sum")[k % 2]), found[1][0].detach()
        )


def test_batch_threads_and_memory_do_not_matter(threads: Any, same_bits: Any) -> None:
    pred, o = case(F32, (4, 150, 150), 5)
    threads(1)
    whole = regression_loss(pred, **o)
    threads(2)
    same_bits(regression_loss(pred, **o), whole)
    for part in (slice(0, 2), slice(2, 5)):
        some = {k: v[part] if isinstance(v, Tensor) and v.shape[0] == 5 else v for k, v in o.items()}
        same_bits(regression_loss(pred[part], **some), whole[part])
    order = torch.tensor([4, 0, 2, 1, 3])
    some = {k: v[order] if isinstance(v, Tensor) and v.shape[0] == 5 else v for k, v in o.items()}
    same_bits(regression_loss(pred[order], **some | {"rng": resolve(Seeds(5, order), 5)}), whole[order])
    last = [t.contiguous(memory_format=torch.channels_last) for t in (pred, o["x0"], o["xt"])]
    same_bits(regression_loss(last[0], **o | {"x0": last[1], "xt": last[2]}), whole)


def test_stored_noise_is_the_noise_that_is_made_again(same_bits: Any) -> None:
    """perturb and then the loss, noise read or not: loss and gradient."""
    x0, rng, w = torch.randn(4, 3, 50), resolve(3, 4), torch.rand(4)
    x_t, xi = perturb(x0, 0.6, 0.8, rng, draw=7, column=2, noise=True)
    found = []
    for source in ({"noise": xi}, {"rng": rng, "draw": 7, "column": 2}):
        y = x_t.clone().requires_grad_()
        loss = regression_loss(y, x0, p=-0.8, q=0.6, w=w, **source)
        found.append((loss.detach(), *torch.autograd.grad(loss.sum(), y)))
    for a, b in zip(*found, strict=True):
        same_bits(a, b)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_weight_and_no_mask_are_exact_zeros(backend: str) -> None:
    pred = torch.tensor([[1.0, torch.inf], [torch.nan, 2.0], [3.0, torch.inf]], requires_grad=True)
    mask = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    for rho in RHO:
        loss = regression_loss(
            pred,
            torch.zeros(1, 2),
            p=1.0,
            w=torch.tensor([0.0, 1.0, 2.0]),
            mask=mask,
            **c_of(rho),
            backend=backend,
        )
        (g,) = torch.autograd.grad(loss.sum(), pred)
        assert loss[0] == 0 and loss[1:].isfinite().all() and (loss[1:] > 0).all()
        assert (g[0] == 0).all() and g[1, 0] == 0 and g[2, 1] == 0 and g[1, 1] > 0 and g[2, 0] > 0


def test_a_sum_of_losses_needs_no_second_pass(same_bits: Any) -> None:
    """What comes from above as ones leaves the slope as it is; anything else is one more product."""
    pred, o = case(F32)
    y = pred.clone().requires_grad_()
    (one,) = torch.autograd.grad(regression_loss(y, **o).sum(), y)
    (two,) = torch.autograd.grad(2 * regression_loss(y, **o).sum(), y)
    same_bits(two, 2 * one)
    loss = regression_loss(y, **o).sum()
    a, b = (torch.autograd.grad(loss, y, retain_graph=True)[0] for _ in range(2))
    same_bits(a, b)


@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("dtype", [F32, BF16, F64])
def test_the_loss_of_a_batch(rho: str, dtype: torch.dtype, same_bits: Any) -> None:
    """That of its samples, added in float64 and rounded once; their slopes, with 1 / B in the weights."""
    pred, o = case(dtype)
    for batch, weighted, above in itertools.product(("mean", "sum"), (True, False), (1.0, -0.3)):
        w = o["w"] if weighted else torch.ones_like(o["w"])
        found = []
        for given in ({"w": w / 3 if batch == "mean" else w}, {"w": w if weighted else None, "batch": batch}):
            y = pred.clone().requires_grad_()
            loss = regression_loss(y, **o | c_of(rho) | given)
            total = loss.double().sum().to(loss.dtype)
            found.append((total.detach(), *torch.autograd.grad(total, y, torch.tensor(above).to(total))))
        for a, b in zip(*found, strict=True):
            same_bits(a, b)


@pytest.mark.parametrize("rho", RHO)
def test_the_straight_way_is_the_general_way(rho: str, same_bits: Any) -> None:
    """A target with a gradient of its own takes the general one; the slope times ones is the slope."""
    halves = () if rho == "pseudo_huber" else (F16,)  # its slope is rounded before the root, there it is not
    for dtype, masked, noise in itertools.product((F32, F64, *halves), (False, True), (False, True)):
        pred, o = case(dtype, masked=masked)
        if noise:
            o |= {"noise": normal(pred.shape, o.pop("rng"), o.pop("draw"), 2, dtype=dtype)}
        found = []
        for own in (False, True):
            y, x0 = pred.clone().requires_grad_(), o["x0"].clone().requires_grad_(own)
            loss = regression_loss(y, **o | c_of(rho) | {"x0": x0})
            found.append((loss.detach(), *torch.autograd.grad(loss, y, torch.ones_like(loss))))
        for a, b in zip(*found, strict=True):
            same_bits(a, b)


def test_a_graph_is_told_what_changed_and_lets_go() -> None:
    pred, o = case(F32)
    noise = torch.randn_like(pred)
    for changed in (noise, o["x0"], o["w"], o["p"]):
        y = pred.clone().requires_grad_()
        given = {k: v for k, v in o.items() if k not in ("rng", "draw")} | {"noise": noise}
        loss = regression_loss(y, **given).sum()
        changed.add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, y, create_graph=True)
    y = pred.clone().requires_grad_()
    seen = weakref.ref(noise)
    loss = regression_loss(y, noise=noise, q=1.0, batch="mean")
    loss.backward()
    del noise, given, changed
    assert seen() is None and loss.grad_fn is not None


@pytest.mark.parametrize("rho", RHO)
def test_derivatives_by_everything(rho: str) -> None:
    """gradcheck's finite differences in float64, reverse, forward and twice."""
    pred, o = case(F64, (3,), 2)
    o["mask"] = torch.tensor([[1.0, 0.0, 0.5]], dtype=F64)
    names = ["x0", "xt", "extra", "p", "q", "r", "e", "w"]
    tensors = [t.clone().requires_grad_() for t in (pred, *(o[k] for k in names))]

    def f(pred: Tensor, *t: Tensor) -> Tensor:
        return regression_loss(pred, **o | dict(zip(names, t, strict=True)), **c_of(rho))

    assert torch.autograd.gradcheck(f, tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, tensors)

    def mean(pred: Tensor) -> Tensor:
        return regression_loss(pred, **o, **c_of(rho), batch="mean")

    assert torch.autograd.gradcheck(mean, tensors[:1], check_forward_ad=True)
    assert torch.autograd.gradgradcheck(mean, tensors[:1])


def test_gradients_by_the_target_in_float32() -> None:
    """One rounding of the slope more than by the prediction: 1e-5 as there."""
    pred, o = case(F32)
    names = ["x0", "extra", "p", "q"]
    a = [t.clone().requires_grad_() for t in (pred, *(o[k] for k in names))]
    b = [t.detach().double().requires_grad_() for t in a]
    found = torch.autograd.grad(regression_loss(a[0], **o | dict(zip(names, a[1:], strict=True))).sum(), a)
    want = torch.autograd.grad(written_out(b[0], o | dict(zip(names, b[1:], strict=True)), "l2").sum(), b)
    for g, v in zip(found, want, strict=True):
        torch.testing.assert_close(g.double(), v, rtol=1e-5, atol=1e-5)


def test_transforms(same_bits: Any) -> None:
    pred, o = case(F32, (40,))
    op, C = torch.ops.fastdiff.regression_loss.default, torch.randn(3, 2)
    args = (pred.clone().requires_grad_(), [o["x0"]], C, o["w"], None, o["rng"], 0, 2, "huber", 0.5, True, 1)
    torch.library.opcheck(op, args)

    def f(y: Tensor) -> Tensor:
        return regression_loss(y, **o).sum()

    y = pred.clone().requires_grad_()
    (want,) = torch.autograd.grad(f(y), y)
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        same_bits(torch.autograd.grad(torch.compile(f, fullgraph=True, backend=backend)(y), y)[0], want)
    torch.testing.assert_close(torch.func.grad(f)(pred), want, rtol=1e-6, atol=1e-7)
    many = torch.stack([pred, -pred])
    same_bits(torch.vmap(lambda t: regression_loss(t, **o))(many)[1], regression_loss(-pred, **o))


X, RNG = torch.ones(2, 3), resolve(1, 2)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "pred": ({"pred": 1.0}, TypeError, r"must be a torch.Tensor, got float"),
    "pred int": ({"pred": X.int()}, ValueError, "pred is torch.int32"),
    "x0 alone": ({"p": None}, ValueError, "p is missing but x0 is given"),
    "p alone": ({"x0": None}, ValueError, "x0 is missing but p is given"),
    "q alone": ({"q": 1.0}, ValueError, r"noise \(or rng\) is missing but q is given"),
    "rng alone": ({"rng": RNG}, ValueError, "q is missing"),
    "two noises": ({"noise": X, "rng": RNG, "q": 1.0}, ValueError, "rng is given with noise"),
    "x0 shape": ({"x0": X[:, :2]}, ValueError, r"x0 has shape \(2, 2\)"),
    "x0 text": ({"x0": "x"}, TypeError, "x0 must be a torch.Tensor"),
    "w shape": ({"w": torch.ones(3)}, ValueError, r"w has shape \(3,\)"),
    "rho": ({"rho": "l3"}, ValueError, "rho is 'l3'; l2, l1"),
    "no c": ({"rho": "huber"}, ValueError, "c is missing; huber needs it"),
    "c for nothing": ({"c": 1.0}, ValueError, "c is given with rho='l2'"),
    "c negative": ({"rho": "huber", "c": -1.0}, ValueError, "c is -1.0; finite and above 0"),
    "reduction": ({"reduction": "none"}, ValueError, "reduction is 'none'"),
    "batch": ({"batch": "each"}, ValueError, "batch is 'each'; None, 'mean' or 'sum'"),
    "mask shape": ({"mask": X[:, :1]}, ValueError, r"mask has shape \(2, 1\)"),
    "rng shape": ({"rng": RNG[:1], "q": 1.0}, ValueError, r"rng has shape \(1, 3\)"),
    "backend": ({"backend": "no"}, ValueError, "backend='no' is unknown"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(name: str) -> None:
    given, error, words = BAD[name]
    args = {"pred": X, "x0": X, "p": 1.0, **given}
    with pytest.raises(error, match=words):
        regression_loss(args.pop("pred"), **args)


def test_a_derivative_by_the_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="mask has no derivative"):
        regression_loss(X, X, p=1.0, mask=X.clone().requires_grad_())
