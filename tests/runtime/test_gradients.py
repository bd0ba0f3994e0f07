"""Gradients through sampling: against autograd of the formula run on tensors, in float64 to 1e-12."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.core.direct import Direct

SOLVERS: dict[str, dict[str, Any]] = {
    "ddim": {},
    "ddpm": {},
    "dpmpp-2m": {},
    "dpmpp-2s": {},
    "heun": {"churn": 2.0},
    "unipc": {"order": 3},
    "dpmpp-2m-sde": {},
    "euler-a": {},
}
MODES = ["full", "checkpoint"]


class Net(nn.Module):
    """Small and smooth, with parameters, of x, t and y."""

    def __init__(self, width: int = 5):
        super().__init__()
        self.a, self.b = nn.Linear(width, 8), nn.Linear(8, width)
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls += 1
        h = torch.tanh(self.a(x) + t[:, None])
        return self.b(h if y is None else h * y[:, None])


@pytest.fixture
def net() -> Net:
    torch.manual_seed(1)
    return Net().double()


def draw(like: Tensor, seeds: Any) -> Callable[[int, int], Tensor]:
    return lambda step, column: fd.noise.normal(
        like.shape, seeds, stream=fd.noise.streams.column_stream(column), draw=step, dtype=like.dtype
    )


def directly(
    net: Any,
    process: Any,
    x: Tensor,
    times: np.ndarray,
    solver: str,
    options: dict[str, Any],
    seeds: Any = 0,
    predicts: str = "noise",
    **cond: Any,
) -> Tensor:
    """The solver's formula over torch tensors; everything is seen by autograd."""
    made = fd.solvers.make(solver, **options)
    nodes = [process.node(float(t)) for t in times]
    p = Direct(
        lambda x, node: net(x, torch.full((len(x),), node.t, dtype=x.dtype), **cond),
        x,
        predicts,
        wanted=made.predicts,
        noise=draw(x, seeds),
    )
    made.record(p, nodes)
    return p.x


def gradients(y: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((y**2).sum() + y[0].sum(), leaves))


def same(a: list[Tensor], b: list[Tensor]) -> None:
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12 * max(1.0, float(q.abs().max())))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_equals_autograd_through_the_formula(net: Net, vp: Any, solver: str, mode: str) -> None:
    times = np.append(np.linspace(0.9, 0.05, 5), 0.0)
    x, y = (
        torch.randn(3, 5, dtype=torch.float64, requires_grad=True),
        torch.rand(3, dtype=torch.float64, requires_grad=True),
    )
    leaves = [x, y, *net.parameters()]
    den = fd.Denoiser(net, vp, predicts="noise")
    run = {"solver": solver, "times": times, "seeds": 0, "cond": {"y": y}, **SOLVERS[solver]}
    got = fd.sample(den, x, gradient=mode, cond_grad=True, **run)
    want = directly(net, vp, x, times, solver, SOLVERS[solver], y=y)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    same(gradients(got, *leaves), gradients(want, *leaves))
    with torch.no_grad():
        torch.testing.assert_close(fd.sample(den, x, **run), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["data", "velocity", "flow", "score"])
def test_every_prediction(net: Net, vp: Any, kind: str, mode: str) -> None:
    times = np.append(np.linspace(0.9, 0.05, 4), 0.0)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    got = fd.sample(fd.Denoiser(net, vp, predicts=kind), x, solver="dpmpp-2m", times=times, gradient=mode)
    want = directly(net, vp, x, times, "dpmpp-2m", {}, predicts=kind)
    same(gradients(got, x, *net.parameters()), gradients(want, x, *net.parameters()))


@pytest.mark.parametrize("mode", MODES)
def test_conditions_take_part_only_when_asked(net: Net, vp: Any, mode: str) -> None:
    x, y = torch.randn(3, 5, dtype=torch.float64), torch.rand(3, dtype=torch.float64, requires_grad=True)
    u = torch.rand(3, dtype=torch.float64, requires_grad=True)
    den = fd.Denoiser(net, vp, predicts="noise")
    run = {"steps": 4, "gradient": mode, "cond": {"y": y}, "guidance": fd.guidance.CFG(2.0, uncond={"y": u})}
    out = fd.sample(den, x, **run)
    assert torch.autograd.grad(out.sum(), [y, u], allow_unused=True, retain_graph=True) == (None, None)
    assert all(g is not None for g in torch.autograd.grad(out.sum(), list(net.parameters())))
    out = fd.sample(den, x, cond_grad=True, **run)
    got = torch.autograd.grad(out.sum(), [y, u])

    def guided(x: Tensor, t: Tensor) -> Tensor:
        return net(x, t, u) + 2.0 * (net(x, t, y) - net(x, t, u))

    times = fd.grid("logsnr", vp, steps=4)
    want = torch.autograd.grad(directly(guided, vp, x, times, "dpmpp-2m", {}).sum(), [y, u])
    same(list(got), list(want))
    assert y.requires_grad and u.requires_grad, "the caller's tensors are not touched"


def test_conditions_nested_in_dicts(net: Net, vp: Any) -> None:
    y = torch.rand(3, dtype=torch.float64, requires_grad=True)
    den = fd.Denoiser(lambda x, t, more: net(x, t, more["y"]), vp, predicts="noise")
    x = torch.randn(3, 5, dtype=torch.float64)
    out = fd.sample(den, x, steps=3, gradient="full", cond={"more": {"y": y}})
    assert torch.autograd.grad(out.sum(), [y], allow_unused=True) == (None,)
    out = fd.sample(den, x, steps=3, gradient="full", cond={"more": {"y": y}}, cond_grad=True)
    assert torch.autograd.grad(out.sum(), [y])[0].abs().sum() > 0


def test_nothing_is_recorded_for_None(net: Net, vp: Any) -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    seen = []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return net(x, t)

    for more in ({}, {"check_finite": True}, {"trajectory": True}):
        y = fd.sample(fd.Denoiser(watched, vp, predicts="noise"), x, steps=4, **more)
        y = y.x if more.get("trajectory") else y
        assert not y.requires_grad and y.grad_fn is None
    assert not any(seen) and torch.is_grad_enabled() and x.grad is None


def test_noise_is_made_again_in_backward_not_kept(vp: Any) -> None:
    """A plan with a draw each step keeps no more between forward and backward than one without."""
    saved: dict[str, int] = {}
    x = torch.randn(3, 50, dtype=torch.float64, requires_grad=True)
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    for solver in ("ddim", "ddpm"):
        kept: dict[int, Tensor] = {}

        def pack(t: Tensor, kept: dict[int, Tensor] = kept) -> Tensor:
            kept[t.untyped_storage().data_ptr()] = t
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = fd.sample(
                fd.Denoiser(lambda x, t: w * x, vp, predicts="noise"),
                x,
                solver=solver,
                steps=8,
                seeds=0,
                gradient="full",
            )
        saved[solver] = sum(t.numel() for t in kept.values() if t.numel() >= x.numel())
        y.sum().backward()
    assert saved["ddpm"] == saved["ddim"]


def test_checkpoint_calls_the_network_twice_and_keeps_states_only(net: Net, vp: Any) -> None:
    den = fd.Denoiser(net, vp, predicts="noise")
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    sizes = {}
    for mode in MODES:
        net.calls, kept = 0, []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t
        ):
            y = fd.sample(den, x, solver="dpmpp-2m", steps=8, gradient=mode)
        assert net.calls == 8
        y.sum().backward()
        assert net.calls == (8 if mode == "full" else 16)
        sizes[mode] = sum(kept)
    assert sizes["checkpoint"] < sizes["full"] / 3


@pytest.mark.parametrize("mode", MODES)
def test_dropout_is_the_same_in_backward(vp: Any, mode: str) -> None:
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 50, dtype=torch.float64)
    masks = []

    def dropout(x: Tensor, t: Tensor) -> Tensor:
        mask = (torch.rand(x.shape) > 0.5).double()
        masks.append(mask)
        return w * mask * x

    y = fd.sample(fd.Denoiser(dropout, vp, predicts="noise"), x, steps=3, gradient=mode, solver="ddim")
    first = masks[:3]
    (got,) = torch.autograd.grad(y.sum(), [w])
    replay = iter(first)
    times = fd.grid("logsnr", vp, steps=3)
    (want,) = torch.autograd.grad(
        directly(lambda x, t: w * next(replay) * x, vp, x, times, "ddim", {}).sum(), [w]
    )
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives(net: Net, vp: Any, mode: str) -> None:
    times = np.append(np.linspace(0.9, 0.05, 3), 0.0)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def hessian_vector(y: Tensor) -> Tensor:
        (g,) = torch.autograd.grad((y**2).sum(), [x], create_graph=True)
        return torch.autograd.grad((g**2).sum(), [x])[0]

    got = hessian_vector(
        fd.sample(fd.Denoiser(net, vp, predicts="noise"), x, solver="dpmpp-2m", times=times, gradient=mode)
    )
    want = hessian_vector(directly(net, vp, x, times, "dpmpp-2m", {}))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11 * float(want.abs().max()))


@pytest.mark.parametrize("mode", MODES)
def test_trajectory_carries_gradients(net: Net, vp: Any, mode: str) -> None:
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    t = fd.sample(
        fd.Denoiser(net, vp, predicts="noise"), x, solver="ddim", steps=4, gradient=mode, trajectory=True
    )
    times = fd.grid("logsnr", vp, steps=4)
    (got,) = torch.autograd.grad(t.states[2].sum(), [x], retain_graph=True)
    (want,) = torch.autograd.grad(directly(net, vp, x, times[:3], "ddim", {}).sum(), [x])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.autograd.grad(t.states[0].sum(), [x])[0], torch.ones_like(x))


@pytest.mark.parametrize("mode", MODES)
def test_in_chunks_and_with_other_flags(net: Net, vp: Any, mode: str) -> None:
    x = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    den, run = (
        fd.Denoiser(net, vp, predicts="noise"),
        {"solver": "ddpm", "steps": 4, "seeds": 3, "gradient": mode},
    )
    want = gradients(fd.sample(den, x, **run), x, *net.parameters())
    for more in ({"chunk": 2}, {"check_finite": True}, {"progress": True}, {"backend": "reference"}):
        same(gradients(fd.sample(den, x, **run, **more), x, *net.parameters()), want)


@pytest.mark.parametrize("mode", MODES)
def test_networks_with_odd_memory(vp: Any, mode: str) -> None:
    """x itself, views and tensors kept between calls: nothing is overwritten where a graph is kept."""
    w = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    times = fd.grid("logsnr", vp, steps=4)
    for net in (
        lambda x, t: x,
        lambda x, t: w,
        lambda x, t: x[:, :1].expand(2, 5),
        lambda x, t: (w * x).t().contiguous().t(),
    ):
        got = fd.sample(fd.Denoiser(net, vp, predicts="noise"), x, solver="dpmpp-2m", steps=4, gradient=mode)
        want = directly(net, vp, x, times, "dpmpp-2m", {})
        for p, q in zip(
            *(torch.autograd.grad(y.sum(), [x, w], allow_unused=True) for y in (got, want)), strict=True
        ):
            assert (p is None) == (q is None)
            if p is not None:
                torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_halves_and_mixed_dtypes(vp: Any) -> None:
    """Gradients come back in the dtype of each tensor and agree with float64 to its precision."""
    for state, inner in (
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
    ):
        w = torch.full((), 0.5, dtype=inner, requires_grad=True)
        x = torch.randn(3, 4).to(state).requires_grad_(True)
        y = fd.sample(
            fd.Denoiser(lambda x, t, w=w, d=inner: w * torch.tanh(x.to(d)), vp, predicts="data"),
            x,
            solver="ddim",
            steps=3,
            gradient="full",
        )
        assert y.dtype == state
        gx, gw = torch.autograd.grad(y.sum(), [x, w])
        assert gx.dtype == state and gw.dtype == inner
        w64, x64 = w.detach().double().requires_grad_(True), x.detach().double().requires_grad_(True)
        y64 = fd.sample(
            fd.Denoiser(lambda x, t, w=w64: w * torch.tanh(x), vp, predicts="data"),
            x64,
            solver="ddim",
            steps=3,
            gradient="full",
        )
        hx, hw = torch.autograd.grad(y64.sum(), [x64, w64])
        torch.testing.assert_close(gw.double(), hw, rtol=0.05, atol=0.05)
        torch.testing.assert_close(gx.double(), hx, rtol=0.1, atol=0.05)


def test_guided_by_a_vjp(net: Net, vp: Any) -> None:
    """A hook that uses ctx.vjp is differentiated too, its own derivative of the network included."""

    class Guide(fd.Hook):
        grad = "input"

        def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
            return xhat + 0.1 * ctx.vjp(1.0 - xhat)

    times = np.append(np.linspace(0.9, 0.05, 3), 0.0)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, dtype=torch.float64)
    den = fd.Denoiser(net, vp, predicts="noise")

    def by_hand(x: Tensor) -> Tensor:
        for s, t in zip(times, times[1:], strict=False):
            a, b = vp.alpha(s), vp.sigma(s)
            x = x if x.requires_grad else x.requires_grad_(True)
            m = (x - b * net(x, torch.full((2,), s, dtype=x.dtype), y)) / a
            (g,) = torch.autograd.grad(m, x, 1.0 - m, create_graph=True)
            m = m + 0.1 * g
            x = vp.alpha(t) * m + vp.sigma(t) * (x - a * m) / b
        return x

    want = gradients(by_hand(x), x, *net.parameters())
    for mode in MODES:
        got = gradients(
            fd.sample(den, x, solver="ddim", times=times, cond={"y": y}, gradient=mode, hooks=[Guide()]),
            x,
            *net.parameters(),
        )
        same(got, want)
    detached = x.detach()  # only the parameters are wanted: the hook has a leaf of its own at the first step
    got = fd.sample(
        den, detached, solver="ddim", times=times, cond={"y": y}, gradient="full", hooks=[Guide()]
    )
    same(gradients(got, *net.parameters()), gradients(by_hand(x), *net.parameters()))


def test_graphs_die_with_their_result(net: Net, vp: Any) -> None:
    import weakref

    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    sampler = fd.Sampler(
        fd.Denoiser(net, vp, predicts="noise"), fd.plan("dpmpp-2m", vp, fd.grid("logsnr", vp, steps=4))
    )
    y = sampler(x, gradient="full")
    ref = weakref.ref(y.grad_fn)
    del y
    gc.collect()
    assert ref() is None


def test_under_no_grad_there_is_no_graph(net: Net, vp: Any) -> None:
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert not fd.sample(
            fd.Denoiser(net, vp, predicts="noise"), x, steps=3, gradient="full"
        ).requires_grad


def test_inference_mode(net: Net, vp: Any) -> None:
    """Sampling works inside it and leaves nothing behind that a later gradient could trip over."""
    den = fd.Denoiser(net, vp, predicts="noise")
    x = torch.randn(2, 5, dtype=torch.float64)
    sampler = fd.Sampler(den, fd.plan("dpmpp-2m", vp, fd.grid("logsnr", vp, steps=4)))
    for look in ({}, {"check_finite": True}):
        with torch.inference_mode():
            inner = sampler(x.clone(), **look)
            assert torch.equal(inner, sampler(x, **look))
            with pytest.raises(ValueError, match="inference_mode"):
                sampler(x, gradient="full")
        assert torch.equal(sampler(x, **look), inner)
    leaf = x.clone().requires_grad_(True)
    assert torch.autograd.grad(sampler(leaf, gradient="full").sum(), [leaf])[0].abs().sum() > 0
