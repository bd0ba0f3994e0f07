"""The exact modes, "checkpoint" and "reversible": against autograd through the formula run on tensors."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

import fastdiff as fd
from fastdiff.core.direct import Direct
from fastdiff.core.linear import LinearProcess
from fastdiff.core.matrix import Vector
from fastdiff.runtime.schedule import Binomial, Every, backwards

VP = fd.processes.VP()
BRIDGE = fd.processes.DiffusionBridge.vp()
CASES: dict[str, tuple[str, dict[str, Any], Any]] = {  # one of each family
    "one step": ("ddim", {"eta": 0.3}, VP),
    "posterior": ("ddpm", {}, VP),
    "multistep": ("dpmpp-3m", {}, VP),
    "singlestep": ("dpmpp-2s", {}, VP),
    "Adams": ("deis", {"order": 3}, VP),
    "pseudo linear": ("pndm", {}, VP),
    "predictor-corrector": ("unipc", {"order": 3}, VP),
    "stochastic multistep": ("dpmpp-2m-sde", {}, VP),
    "stochastic corrector": ("sa-solver", {}, VP),
    "churn": ("heun", {"churn": 2.0}, VP),
    "stochastic stages": ("seeds", {"order": 2}, VP),
    "bridge": ("dbim", {"eta": 0.5}, BRIDGE),
    "two chains": ("edict", {}, VP),
    "phase space": ("sscs", {}, fd.processes.CLD()),
    "phase space, both scored": ("em", {}, fd.processes.PSLD()),
}
SCALE = 1.7


class Net(nn.Module):
    def __init__(self, width: int = 5):
        super().__init__()
        self.a, self.b = nn.Linear(width, 8), nn.Linear(8, width)
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls += 1
        h = torch.tanh(self.a(x) + t[:, None])
        return self.b(h if y is None else h * y[:, None])


class Soft(fd.Hook):
    """A smooth bound on the data prediction."""

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        return 3 * torch.tanh(xhat / 3)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(1)
    return Net().double()


@cache
def start(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """x, a const, two conditions: the same numbers in each dtype."""
    g = torch.Generator().manual_seed(3)
    x, c = torch.randn(2, 3, 5, generator=g)
    y, u = torch.rand(2, 3, generator=g)
    return tuple(t.to(dtype) for t in (x, c, y, u))


def times_of(process: Any) -> np.ndarray:
    return np.append(np.linspace(0.9, 0.05, 5), 0.01 * isinstance(process, LinearProcess)) * process.t_max


def of_two(net: Callable[..., Tensor], process: LinearProcess) -> Callable[..., Any]:
    """A network of x and v, of outputs for those that are scored."""

    def both(x: Tensor, v: Tensor, t: Tensor, y: Tensor | None = None) -> Any:
        out = net(torch.sin(x) + v, t, y)
        return (net(x - v, t), out) if len(process.scored) == 2 else out

    return both


def by_formula(net: nn.Module, case: str, leaves: tuple[Tensor, ...]) -> Tensor:
    """The solver's formula over torch tensors, guidance and hook written out."""
    key, options, process = CASES[case]
    if isinstance(process, LinearProcess):
        return by_formula_of_two(net, case, leaves)
    x, c, y, u = leaves
    made = fd.solvers.make(key, **options)

    def raw(x: Tensor, node: Any) -> Tensor:
        t = torch.full((len(x),), node.t, dtype=x.dtype)
        off, on = net(x, t, u), net(x, t, y)
        eps = off + SCALE * (on - off)
        inner = x if process.const is None else x - process.offset(node.t) * c
        x0 = 3 * torch.tanh((inner - node.sigma * eps) / node.alpha / 3)
        return (inner - node.alpha * x0) / node.sigma

    def noise(step: int, column: int) -> Tensor:
        stream = fd.noise.streams.column_stream(column)
        return fd.noise.normal(x.shape, 0, stream=stream, draw=step, dtype=x.dtype)

    p = Direct(raw, x, "noise", wanted=made.predicts, noise=noise, consts={str(process.const): c})
    made.record(p, [process.node(float(t)) for t in times_of(process)])
    return p.x


def by_formula_of_two(net: nn.Module, case: str, leaves: tuple[Tensor, ...]) -> Tensor:
    """The same over x and v; on such a process guidance acts, and no hook."""
    key, options, process = CASES[case]
    x, c, y, u = leaves
    made, both = fd.solvers.make(key, **options), of_two(net, process)

    def raw(z: Vector, node: Any) -> Vector:
        t = torch.full((len(x),), float(node.t), dtype=x.dtype)
        pairs = [out if isinstance(out, tuple) else (out,) for out in (both(*z, t, u), both(*z, t, y))]
        return Vector([off + SCALE * (on - off) for off, on in zip(*pairs, strict=True)])

    def noise(step: int, column: int) -> Tensor:
        stream = fd.noise.streams.column_stream(column)
        return fd.noise.normal(x.shape, 0, stream=stream, draw=step, dtype=x.dtype)

    p = Direct(raw, Vector([x, c]), "noise", wanted=made.predicts, noise=noise)
    made.record(p, [process.node(float(t)) for t in times_of(process)])
    return p.x[0]


def by_sampler(net: nn.Module, case: str, leaves: tuple[Tensor, ...], gradient: Any, **more: Any) -> Tensor:
    key, options, process = CASES[case]
    x, c, y, u = leaves
    two, name = isinstance(process, LinearProcess), second(process)
    return fd.sample(
        fd.Denoiser(of_two(net, process) if two else net, process, predicts="noise"), x, solver=key,
        times=times_of(process), seeds=0, cond={"y": y}, guidance=fd.guidance.CFG(SCALE, uncond={"y": u}),
        hooks=[] if two else [Soft()], cond_grad=True, consts=None if name is None else {name: c},
        gradient=gradient, **more, **options,
    )  # fmt: skip


def second(process: Any) -> str | None:
    """What a process wants besides x."""
    return process.registers[1] if isinstance(process, LinearProcess) else process.const


def gradients(run: Callable[..., Tensor], net: nn.Module, case: str, dtype: torch.dtype, *how: Any) -> Tensor:
    """Of everything, in one vector: x, const, conditions, parameters."""
    leaves = tuple(t.clone().requires_grad_() for t in start(dtype))
    y = run(net, case, leaves, *how)
    used = [t for t in leaves if second(CASES[case][2]) is not None or t is not leaves[1]]
    found = torch.autograd.grad((y * y).sum() + y[0].sum(), [*used, *net.parameters()])
    return torch.cat([g.double().flatten() for g in found])


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("case", CASES)
def test_equals_autograd_through_the_formula(net: Net, case: str) -> None:
    """1e-10 in float64. In float32 rounding in other places gives other numbers, but no worse ones: at most
    twice as far from float64 as autograd of the formula in float32 is."""
    want = gradients(by_formula, net, case, torch.float64)
    for mode in ("full", "checkpoint"):
        assert far(gradients(by_sampler, net, case, torch.float64, mode), want) < 1e-10
    single = net.float()
    naive = far(gradients(by_formula, single, case, torch.float32), want)
    for mode in ("full", "checkpoint"):
        ours = far(gradients(by_sampler, single, case, torch.float32, mode), want)
        assert ours <= 2 * naive, (ours, naive)


@pytest.mark.parametrize("case", CASES)
def test_however_states_come_back_the_bits_are_the_same(net: Net, case: str) -> None:
    """(Of a condition that a network uses once in a call; of several uses a call's own sum comes first.)"""
    single = net.float()
    want = gradients(by_sampler, single, case, torch.float32, "full")
    for how in (fd.gradients.Checkpoint(), *(fd.gradients.Checkpoint(every=k) for k in (2, 3, 50)),
                *(fd.gradients.Checkpoint(memory=c) for c in (0, 1, 3, 50))):  # fmt: skip
        assert torch.equal(gradients(by_sampler, single, case, torch.float32, how), want), how


# what the schedules cost


def calls_again(count: int, slots: int) -> dict[tuple[int, int], int]:
    """The fewest segments to be run again, besides once for each product: by dynamic programming over where
    the next snapshot goes."""
    best: dict[tuple[int, int], int] = {}
    for n in range(1, count + 1):
        for s in range(slots + 1):
            if s == 0:
                best[n, s] = n * (n - 1) // 2
            else:
                splits = (m + best[n - m, s - 1] + best[m, s] for m in range(1, n))
                best[n, s] = min(splits, default=0)
    return best


def test_the_binomial_schedule_is_optimal() -> None:
    best = calls_again(40, 6)
    for n in range(1, 41):
        for c in range(7):
            seen: list[int] = []
            done, held = 0, 0
            kept = dict.fromkeys(Binomial(c).kept(n), 0)
            by_forward = max(kept) - 1  # segments that the forward pass ran on its way to the snapshots

            def advance(i: int, j: int, snapshot: Any, all_of_them: bool) -> dict[int, int]:
                nonlocal done
                done += j - i
                return dict.fromkeys(range(i + 1, j + 1) if all_of_them else (j,), 0)

            for j, _ in backwards(1, n + 1, c, kept, advance):
                seen.append(j)
                held = max(held, len(kept))
            assert seen == list(range(n, 0, -1)) and held <= c + 1 and not kept
            assert done + by_forward == best[n, c]
            r = next(r for r in range(1, n + 1) if math.comb(c + 1 + r, r) >= n)
            assert done + by_forward <= n * r


@pytest.mark.parametrize(
    "every, memory, calls", [(None, None, 12), (4, None, 12 + 9), (None, 11, 12), (None, 0, 12 + 66)]
)
def test_network_calls_in_backward(net: Net, every: Any, memory: Any, calls: int) -> None:
    """every=4: of each group of 4 the last 3 states are made again; memory=0: 11 + 10 + ... + 1."""
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    y = fd.sample(fd.Denoiser(net, VP, predicts="noise"), x, solver="ddim", steps=12, gradient="checkpoint",
                  every=every, memory=memory)  # fmt: skip
    assert net.calls == 12
    y.sum().backward()
    assert net.calls == 12 + calls


def kept(run: Callable[[], Tensor], size: int) -> int:
    """How many tensors of a state's size a run keeps for its backward pass."""
    seen: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        seen[t.untyped_storage().data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = run()
    assert y.requires_grad
    return sum(n == size for n in seen.values())


def test_what_is_kept() -> None:
    """One state a step even for multistep methods, for the history is read by no network; a constant number
    for a reversible solver."""
    net = nn.Linear(7, 7)
    den, x = fd.Denoiser(lambda x, t: torch.tanh(net(x)), VP, predicts="noise"), torch.randn(3, 7)
    for n in (50, 200):

        def run(gradient: str, solver: str, n: int = n, **more: Any) -> int:
            return kept(lambda: fd.sample(den, x, solver=solver, steps=n, gradient=gradient, **more), 21)

        assert run("checkpoint", "dpmpp-3m") <= n + 1
        assert run("checkpoint", "dpmpp-3m", every=10) <= 3 * n / 10 + 10
        assert run("checkpoint", "ddim", memory=4) <= 6
        assert run("reversible", "bdia") <= 4
        assert run("reversible", "edict") <= 4
        assert run("reversible", "reversible-heun") <= 4


# runs backwards


@pytest.mark.parametrize("process", [VP, fd.processes.FlowMatching(), fd.processes.VPCosine()], ids=repr)
@pytest.mark.parametrize("solver, options", [
    ("edict", {}), ("edict", {"alternate": True}), ("bdia", {}), ("bdia", {"gamma": 0.9}),
    ("reversible-heun", {}),
])  # fmt: skip
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_reversible(net: Net, process: Any, solver: str, options: dict[str, Any], steps: int) -> None:
    x, _, y, u = (t.clone().requires_grad_() for t in start(torch.float64))
    times = np.append(np.linspace(0.9, 0.05, steps), 0.0) if steps > 1 else [0.9, 0.1]
    den = fd.Denoiser(net, process, predicts="noise")
    net.calls, found = 0, []
    for mode in ("full", "reversible"):
        out = fd.sample(den, x, solver=solver, times=times, cond={"y": y}, cond_grad=True, gradient=mode,
                        guidance=fd.guidance.CFG(SCALE, uncond={"y": u}), **options)  # fmt: skip
        forward, net.calls = net.calls, 0
        found.append(torch.autograd.grad((out * out).sum(), [x, y, u, *net.parameters()]))
        assert net.calls == (forward if mode == "reversible" else 0)
        net.calls = 0
    full, back = (torch.cat([g.flatten() for g in gs]) for gs in found)
    assert far(back, full) < 1e-10


@pytest.mark.parametrize("solver", ["edict", "bdia", "reversible-heun"])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_reversible_in_float32(net: Net, solver: str, steps: int) -> None:
    """As the other modes: at most twice as far from float64 as autograd of the float32 run is, which is some
    2^-24 of each of the steps; the result too."""

    def run(net: Net, dtype: torch.dtype, mode: str) -> tuple[Tensor, Tensor]:
        leaf = start(dtype)[0].clone().requires_grad_()
        den = fd.Denoiser(net, VP, predicts="noise")
        out = fd.sample(den, leaf, solver=solver, steps=steps, gradient=mode)
        assert out.dtype == dtype
        found = torch.autograd.grad((out * out).sum(), [leaf, *net.parameters()])
        return out.detach().double(), torch.cat([g.double().flatten() for g in found])

    want = run(net, torch.float64, "full")
    single = net.float()
    naive, ours = run(single, torch.float32, "full"), run(single, torch.float32, "reversible")
    for w, n, o in zip(want, naive, ours, strict=True):
        assert far(o, w) <= 2 * far(n, w) + 2**-24


def test_drift_is_told(net: Net) -> None:
    x = start(torch.float64)[0].clone().requires_grad_()
    out = fd.sample(fd.Denoiser(net, VP, predicts="noise"), x, solver="bdia", gamma=0.5, steps=60,
                    gradient="reversible")  # fmt: skip
    with pytest.warns(UserWarning, match="came back"):  # rounding grows by 2^60
        out.sum().backward()


def test_what_cannot_be_run_backwards_says_so(net: Net) -> None:
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    den = fd.Denoiser(net, VP, predicts="noise")
    with pytest.raises(ValueError, match="ddim has no explicit inverse"):
        fd.sample(den, x, solver="ddim", steps=4, gradient="reversible")
    with pytest.raises(ValueError, match="a hook"):
        fd.sample(den, x, solver="bdia", steps=4, gradient="reversible", hooks=[Soft()])
    with pytest.raises(ValueError, match="float32 or float64"):
        fd.sample(den, x.half(), solver="bdia", steps=4, gradient="reversible")


# what gradients reach


def test_scale_times_and_tables(net: Net) -> None:
    """Against central differences of 1e-6: 1e-12 of third derivatives and 1e-16 / 1e-6 of rounding, relative
    to gradients of order up to 1e4."""
    x, _, y, u = start(torch.float64)
    den = fd.Denoiser(net, VP, predicts="noise")
    how = {"cond": {"y": y}}

    def scaled(w: Any, **more: Any) -> Tensor:
        cfg = fd.guidance.CFG(w, uncond={"y": u})
        return (fd.sample(den, x, solver="dpmpp-2m", steps=5, guidance=cfg, **how, **more) ** 2).sum()

    w = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    slope = (scaled(2.5 + 1e-6) - scaled(2.5 - 1e-6)) / 2e-6
    for mode in ("full", "checkpoint"):
        (g,) = torch.autograd.grad(scaled(w, gradient=mode), w)
        assert float(g) == pytest.approx(float(slope), rel=1e-7)

    plan = fd.plan("dpmpp-2m", VP, fd.grid("logsnr", VP, steps=5, final="sigma_min"))
    sampler = fd.Sampler(den, plan)

    def timed(times: list[Any], **more: Any) -> Tensor:
        return (sampler(x, coefficients=plan.coefficients(times), **how, **more) ** 2).sum()

    t = torch.tensor(plan.times, requires_grad=True)
    for mode in ("full", "checkpoint"):
        (g,) = torch.autograd.grad(timed(list(t), gradient=mode), t)
        for i in range(len(t)):
            up, down = plan.times.copy(), plan.times.copy()
            up[i] += 1e-6
            down[i] -= 1e-6
            slope = (timed(up.tolist()) - timed(down.tolist())) / 2e-6
            assert float(g[i]) == pytest.approx(float(slope), rel=1e-6)

    tables = [torch.tensor(c) for c in plan.coeffs]
    tables[2].requires_grad_()
    v = torch.randn(tables[2].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mode in ("full", "checkpoint"):
        out = (sampler(x, coefficients=tables, gradient=mode, **how) ** 2).sum()
        (g,) = torch.autograd.grad(out, tables[2])
        ends = []
        for h in (1e-6, -1e-6):
            moved = [c.detach() if k != 2 else c.detach() + h * v for k, c in enumerate(tables)]
            ends.append((sampler(x, coefficients=moved, **how) ** 2).sum())
        assert float((g * v).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_tensors_of_a_closure_and_of_the_callers_graph(net: Net) -> None:
    """Leaves that the network merely uses are found; so is what stands behind tensors made before."""
    base = torch.randn(5, dtype=torch.float64, requires_grad=True)
    free = torch.randn(5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    found = []
    for mode in ("full", "checkpoint"):
        made = torch.sin(base)
        den = fd.Denoiser(lambda x, t, made=made: net(x, t) * made + free, VP, predicts="noise")
        y = fd.sample(den, x * 2, solver="dpmpp-2m", steps=5, gradient=mode)
        first = torch.autograd.grad(y.sum(), [base, free, x], retain_graph=True)
        found.append((*first, *torch.autograd.grad(y.pow(2).sum(), [base, free, x])))
    for a, b in zip(*found, strict=True):
        assert far(a, b) < 1e-12


def test_a_leaf_that_comes_later_is_no_silent_zero() -> None:
    late = torch.ones((), dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    den = fd.Denoiser(lambda x, t: torch.tanh(x) * (late if t[0] < 0.5 else 1.0), VP, predicts="noise")
    y = fd.sample(den, x, solver="ddim", steps=6, gradient="checkpoint")
    with pytest.raises(RuntimeError, match="later network call"):
        y.sum().backward()


def test_noise_of_a_callable(net: Net) -> None:
    """Draws that carry gradients, and draws that would not come twice."""
    z = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    x, den = torch.randn(3, 5, dtype=torch.float64), fd.Denoiser(net, VP, predicts="noise")
    found = []
    for mode in ("full", "checkpoint"):
        y = fd.sample(den, x, solver="ddpm", steps=6, gradient=mode, noise=lambda like, d: z[d.step] * 2)
        found.append(torch.autograd.grad(y.pow(2).sum(), [z, *net.parameters()]))
        torch.manual_seed(5)
        y = fd.sample(
            den, x, solver="ddpm", steps=6, gradient=mode, noise=lambda like, d: torch.randn_like(like)
        )
        found[-1] += torch.autograd.grad(y.pow(2).sum(), list(net.parameters()))
    for a, b in zip(*found, strict=True):
        assert far(a, b) < 1e-12
    path = [
        torch.autograd.grad(
            fd.sample(den, x, solver="ddpm", steps=20, seeds=0, gradient=mode, noise="path").sum(),
            list(net.parameters()),
        )
        for mode in ("full", fd.gradients.Checkpoint(memory=2))
    ]
    for a, b in zip(*path, strict=True):
        assert far(b, a) < 1e-12


# hooks


class Momentum(fd.Hook):
    """Keeps a tensor from step to step, and has parameters."""

    def __init__(self, w: Tensor):
        self.w = w

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        before = ctx.registers.get("m", torch.zeros_like(xhat))
        ctx.registers["m"] = 0.5 * before + torch.tanh(xhat) * self.w
        return xhat + 0.1 * ctx.registers["m"] + 0.01 * ctx.normal(xhat)


class Classifier(fd.Hook):
    """Its own gradient by autograd, with a leaf of its own."""

    def state(self, ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (g,) = torch.autograd.grad(torch.cos(leaf).sum(), leaf)
        return x + 0.05 * g


def test_hooks_that_remember(net: Net) -> None:
    w = torch.randn(5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    found = []
    for mode in ("full", *(fd.gradients.Checkpoint(memory=c) for c in (None, 1, 2))):
        den, hooks = fd.Denoiser(net, VP, predicts="noise"), [Momentum(w), Classifier()]
        y = fd.sample(den, x, solver="dpmpp-2m", steps=6, seeds=1, gradient=mode, hooks=hooks)
        found.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(y.pow(2).sum(), [x, w, *net.parameters()])])
        )
    for g in found[1:]:
        assert far(g, found[0]) < 1e-12


@pytest.mark.parametrize("mode", ["full", "checkpoint"])
def test_hooks_without_a_derivative_are_named(net: Net, mode: str) -> None:
    class Through(fd.Hook):
        def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
            return torch.from_numpy(np.clip(xhat.detach().numpy(), -1, 1))

    class Said(Through):
        adjoint = "stop"

    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    run = {"solver": "ddim", "steps": 3, "gradient": mode}
    with pytest.raises(ValueError, match="hook Through at point 'predict'"):
        fd.sample(fd.Denoiser(net, VP, predicts="noise"), x, hooks=[Through()], **run)
    y = fd.sample(fd.Denoiser(net, VP, predicts="noise"), x, hooks=[Said()], **run)
    if mode == "checkpoint":  # the last step gives the prediction alone, which is said to be constant
        assert not torch.autograd.grad(y.sum(), x, allow_unused=True)[0]
    with torch.no_grad():
        fd.sample(fd.Denoiser(net, VP, predicts="noise"), x, hooks=[Through()], **run)


# where it runs


def test_autocast_and_compiled_networks(net: Net) -> None:
    """The same bits. (With autocast's cache "full" sums a weight's gradients in bfloat16, over all calls; one
    call at a time they are summed in float32, as they are by both without the cache.)"""
    single = net.float()
    x = start(torch.float32)[0]

    def slopes(made: Any, mode: str, **cast: Any) -> tuple[Tensor, ...]:
        leaf, den = x.clone().requires_grad_(), fd.Denoiser(made, VP, predicts="noise")
        with torch.autocast("cpu", torch.bfloat16, **cast):
            y = fd.sample(den, leaf, solver="dpmpp-2m", steps=4, gradient=mode)
        return torch.autograd.grad(y.sum(), [leaf, *single.parameters()])

    want = slopes(single, "full", cache_enabled=False)
    for got in (
        slopes(single, "checkpoint", cache_enabled=False),
        slopes(single, "checkpoint", cache_enabled=True),
    ):
        assert all(map(torch.equal, got, want))
    compiled = torch.compile(single, backend="aot_eager")
    pair = [slopes(compiled, mode, enabled=False) for mode in ("full", "checkpoint")]
    assert all(map(torch.equal, *pair))


def test_frozen_parameters_and_no_grad(net: Net) -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    den = fd.Denoiser(net, VP, predicts="noise")
    with torch.no_grad():
        assert not fd.sample(den, x, solver="bdia", steps=3, gradient="reversible").requires_grad
    net.a.requires_grad_(False)
    fd.sample(den, x, solver="bdia", steps=3, gradient="checkpoint").sum().backward()
    assert net.a.weight.grad is None and net.b.weight.grad is not None and x.grad is not None
    net.requires_grad_(False)
    assert not fd.sample(den, x.detach(), solver="bdia", steps=3, gradient="checkpoint").requires_grad


def test_hooks_on_parameters_see_the_whole_gradient_once(net: Net) -> None:
    x, seen = torch.randn(3, 5, dtype=torch.float64), []
    handle = net.b.weight.register_hook(lambda g: seen.append(g) or g / 2)
    for mode in ("full", "checkpoint"):
        fd.sample(fd.Denoiser(net, VP, predicts="noise"), x, steps=3, gradient=mode).sum().backward()
    handle.remove()
    assert len(seen) == 2 and torch.equal(*seen)
    assert torch.allclose(net.b.weight.grad, seen[0], rtol=1e-14)


def test_modes_that_do_not_fit_raise(net: Net) -> None:
    x = torch.randn(2, 5, dtype=torch.float64)
    den = fd.Denoiser(net, VP, predicts="noise")
    for bad, match in (
        ({"gradient": "full", "every": 2}, "every and memory"),
        ({"gradient": "checkpoint", "every": 2, "memory": 2}, "not both"),
        ({"gradient": "checkpoint", "every": 0}, "every must be a whole number >= 1"),
        ({"gradient": "checkpoint", "memory": True}, "memory must be"),
    ):
        with pytest.raises(ValueError, match=match):
            fd.sample(den, x, steps=3, **bad)
    for mode in ("checkpoint", "reversible", "adjoint"):
        with pytest.raises(ValueError, match="forward mode"):
            torch.func.jvp(
                lambda x, mode=mode: fd.sample(den, x, solver="bdia", steps=3, gradient=mode), (x,), (x,)
            )
    with pytest.raises(ValueError, match="other than 0 and 1"):
        fd.guidance.CFG(torch.ones((), requires_grad=True))


def alive() -> tuple[int, int]:
    """Tensors that Python knows of, and their elements."""
    gc.collect()
    found = [o for o in gc.get_objects() if issubclass(type(o), Tensor)]
    return len(found), sum(t.numel() for t in found)


def nothing_is_left(one_round: Callable[[], object], what: str, rounds: int = 200) -> None:
    for _ in range(3):  # what is made once
        one_round()
    before = alive()
    for _ in range(rounds):
        one_round()
    assert alive() == before, what


@pytest.mark.parametrize("where", ["plain", "compiled", "autocast", "frozen", "no_grad"])
def test_two_hundred_rounds_leave_nothing(net: Net, where: str) -> None:
    """Of each of the four modes, and where something else is asked 200 of them in turn. Every tensor that
    Python knows of is counted; what C++ alone holds would keep its node, which is one."""
    dtype = torch.float32 if where == "autocast" else torch.float64
    net, x = net.to(dtype), torch.randn(3, 5, dtype=dtype)
    if where == "frozen":
        net.requires_grad_(False)
    compiled = torch.compile(nn.Linear(5, 5).to(dtype), backend="aot_eager")
    network = (lambda x, t: torch.tanh(compiled(x))) if where == "compiled" else net
    denoiser = fd.Denoiser(network, VP, predicts="noise")
    times = fd.grid("logsnr", VP, steps=2, final="sigma_min")
    sampler = fd.Sampler(denoiser, fd.plan("bdia", VP, times))
    modes = ("full", "checkpoint", "reversible", "adjoint")

    def one(mode: str) -> None:
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=where == "autocast"):
            with torch.set_grad_enabled(where != "no_grad"):
                y = sampler(leaf, gradient=mode)
        if where == "no_grad":
            assert not y.requires_grad
        else:
            (y**2).sum().backward()
            assert leaf.grad is not None

    nothing_is_left(lambda: [one(mode) for mode in modes], where, 200 if where == "plain" else 50)


def ranks(number: int, count: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=number, world_size=count)
    torch.manual_seed(1)
    net = Net().double()
    parallel = nn.parallel.DistributedDataParallel(net)
    found = {}
    for mode, wrapped in (("checkpoint", parallel), ("reversible", lambda x, t: parallel(x, t))):
        net.zero_grad()
        mine = distributed_start()[number::count]
        y = fd.sample(fd.Denoiser(wrapped, VP, predicts="noise"), mine, solver="bdia", steps=3, gradient=mode)
        (y * y).sum().backward()
        found[mode] = [p.grad.clone() for p in net.parameters()]
    sampler = fd.Sampler(
        fd.Denoiser(parallel, VP, predicts="noise"),
        fd.plan("bdia", VP, fd.grid("logsnr", VP, steps=2, final="sigma_min")),
    )
    nothing_is_left(lambda: (sampler(mine, gradient="checkpoint") ** 2).sum().backward(), "two ranks")
    torch.save(found, f"{folder}/{number}.pt")
    dist.destroy_process_group()


def distributed_start() -> Tensor:
    return torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_two_ranks_give_one_process_gradients(tmp_path: Path) -> None:
    """DDP averages over ranks, so twice its gradient is that of the whole batch. After that each rank goes
    through 200 rounds, which leave nothing."""
    started = [
        subprocess.Popen([sys.executable, __file__, str(number), "2", str(tmp_path)]) for number in range(2)
    ]
    assert [p.wait(120) for p in started] == [0, 0]
    torch.manual_seed(1)
    net = Net().double()
    y = fd.sample(
        fd.Denoiser(net, VP, predicts="noise"), distributed_start(), solver="bdia", steps=3, gradient="full"
    )
    want = torch.autograd.grad((y * y).sum(), list(net.parameters()))
    for number in range(2):
        for got in torch.load(tmp_path / f"{number}.pt").values():
            for a, b in zip(got, want, strict=True):
                torch.testing.assert_close(2 * a, b, rtol=1e-10, atol=1e-12)


def test_every_schedule_is_what_it_says() -> None:
    assert Every(4).kept(10) == {1, 5, 9} and Every(1).kept(3) == {1, 2, 3}


if __name__ == "__main__":
    ranks(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
