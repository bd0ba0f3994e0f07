"""torch.func and forward mode over a whole sampler: right, or refused in words. Never a silent zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fw
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fastdiff as fd

TIMES = np.append(np.linspace(0.9, 0.05, 4), 0.0)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.fixture(params=["dpmpp-2m", "ddpm", "unipc"])
def sampler(request: pytest.FixtureRequest, net: nn.Module, vp: fd.processes.VP) -> fd.Sampler:
    made = fd.Sampler(
        fd.Denoiser(lambda x, t: net(x) + t[:, None], vp, predicts="noise"), fd.plan(request.param, vp, TIMES)
    )
    made(torch.zeros(2, 3, dtype=torch.float64), seeds=0)  # a C++ loop is ready and must not be taken
    return made


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, dtype=torch.float64)


def differences(f: Any, x: Tensor, v: Tensor, h: float = 1e-5) -> Tensor:
    return (f(x + h * v) - f(x - h * v)) / (2 * h)


def test_reverse_mode(sampler: fd.Sampler, x: Tensor) -> None:
    leaf = x.clone().requires_grad_(True)
    (want,) = torch.autograd.grad(sampler(leaf, seeds=0, gradient="full").pow(2).sum(), [leaf])
    v = torch.randn_like(x)
    slope = differences(lambda x: sampler(x, seeds=0).pow(2).sum(), x, v)
    torch.testing.assert_close((want * v).sum(), slope, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        grad(lambda x: sampler(x, seeds=0, gradient="full").pow(2).sum())(x), want, rtol=1e-12, atol=1e-12
    )
    _, pull = vjp(lambda x: sampler(x, seeds=0, gradient="full").pow(2).sum(), x)
    torch.testing.assert_close(pull(torch.ones((), dtype=x.dtype))[0], want, rtol=1e-12, atol=1e-12)


def test_forward_mode_against_finite_differences(sampler: fd.Sampler, x: Tensor) -> None:
    v = torch.randn_like(x)
    want = differences(lambda x: sampler(x, seeds=0), x, v)
    for mode in (None, "full"):
        value, tangent = jvp(lambda x, mode=mode: sampler(x, seeds=0, gradient=mode), (x,), (v,))
        torch.testing.assert_close(tangent, want, rtol=1e-6, atol=1e-6)
        assert torch.equal(value, sampler(x, seeds=0))
        with fw.dual_level():
            tangent = fw.unpack_dual(sampler(fw.make_dual(x, v), seeds=0, gradient=mode)).tangent
        torch.testing.assert_close(tangent, want, rtol=1e-6, atol=1e-6)


def test_jacobians_agree(sampler: fd.Sampler, x: Tensor) -> None:
    a = jacrev(lambda x: sampler(x, seeds=0, gradient="full"))(x)
    b = jacfwd(lambda x: sampler(x, seeds=0))(x)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    h = hessian(lambda x: sampler(x, seeds=0, gradient="full").pow(2).sum())(x)
    v = torch.randn_like(x)
    slope = differences(grad(lambda x: sampler(x, seeds=0, gradient="full").pow(2).sum()), x, v)
    torch.testing.assert_close((h * v).sum((-1, -2)), slope, rtol=1e-5, atol=1e-5)


def test_parameters_by_functional_call(sampler: fd.Sampler, net: nn.Module, vp: Any, x: Tensor) -> None:
    parameters = dict(net.named_parameters())

    def loss(p: dict[str, Tensor], mode: str | None) -> Tensor:
        den = fd.Denoiser(lambda x, t: functional_call(net, p, (x,)) + t[:, None], vp, predicts="noise")
        return fd.Sampler(den, sampler.plan)(x, seeds=0, gradient=mode).pow(2).sum()

    got = grad(lambda p: loss(p, "full"))(parameters)
    want = torch.autograd.grad(sampler(x, seeds=0, gradient="full").pow(2).sum(), list(parameters.values()))
    for g, w in zip(got.values(), want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-12, atol=1e-12 * float(w.abs().max()))
    with pytest.raises(ValueError, match="gradient='full'"):
        grad(lambda p: loss(p, None))(parameters)


@pytest.mark.parametrize("mode", [None, "checkpoint"])
def test_a_derivative_of_zero_is_refused(sampler: fd.Sampler, x: Tensor, mode: str | None) -> None:
    with pytest.raises(ValueError, match="gradient='full'"):
        grad(lambda x: sampler(x, seeds=0, gradient=mode).sum())(x)
    with pytest.raises(ValueError, match="gradient='full'"):
        fd_sample = fd.sample(
            sampler.denoiser, (2, 3), dtype=torch.float64, steps=2, seeds=0
        )  # outside: fine
        grad(lambda x: fd.sample(sampler.denoiser, x, steps=2, gradient=mode).sum())(fd_sample)

    def target(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = sampler(x, seeds=0)
        return (x * y).sum()

    assert torch.equal(grad(target)(x), sampler(x, seeds=0)), (
        "a constant of the loss, when it is said to be one"
    )


@pytest.mark.parametrize("solver", ["dpmpp-2m", "ddpm", "unipc"])
def test_vmap_is_a_loop(nets: Any, vp: Any, solver: str) -> None:
    """Bit for bit: the network's arithmetic does not depend on the place of an element."""
    many = torch.randn(4, 2, 3)
    sampler = fd.Sampler(fd.Denoiser(nets.exact, vp, predicts="noise"), fd.plan(solver, vp, TIMES))
    each = torch.stack([sampler(x, seeds=7) for x in many])
    assert torch.equal(vmap(lambda x: sampler(x, seeds=7))(many), each)
    inner = vmap(lambda x: sampler(x, seeds=7), in_dims=1, out_dims=1)(many.transpose(0, 1))
    assert torch.equal(inner.transpose(0, 1), each)
    seeds = torch.arange(8).reshape(4, 2) * 5
    each = torch.stack([sampler(x, seeds=s) for x, s in zip(many, seeds, strict=True)])
    assert torch.equal(vmap(lambda x, s: sampler(x, seeds=s))(many, seeds), each)
    y = torch.randn(4, 2)
    each = torch.stack([sampler(many[0], seeds=1, cond={"y": c}) for c in y])
    assert torch.equal(vmap(lambda c: sampler(many[0], seeds=1, cond={"y": c}))(y), each)
    states = vmap(lambda x: sampler(x, seeds=7, trajectory=True).states)(many)
    assert torch.equal(states, torch.stack([sampler(x, seeds=7, trajectory=True).states for x in many]))


def test_vmap_of_grad(sampler: fd.Sampler) -> None:
    many = torch.randn(4, 2, 3, dtype=torch.float64)
    g = grad(lambda x: sampler(x, seeds=0, gradient="full").sum())
    torch.testing.assert_close(vmap(g)(many), torch.stack([g(x) for x in many]), rtol=1e-10, atol=1e-10)


def test_what_vmap_cannot_do_it_says(sampler: fd.Sampler) -> None:
    many = torch.randn(4, 2, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="vmap"):
        vmap(lambda x: sampler(x, seeds=0, check_finite=True))(many)


def test_afterwards_the_sampler_is_what_it_was(sampler: fd.Sampler, x: Tensor) -> None:
    want = sampler(x, seeds=0)
    vmap(lambda x: sampler(x, seeds=0))(x[None])
    jvp(lambda x: sampler(x, seeds=0), (x,), (x,))
    grad(lambda x: sampler(x, seeds=0, gradient="full").sum())(x)
    assert torch.equal(sampler(x, seeds=0), want)
