"""Hooks at their six points: what they see, what they may not disturb, what is said when they go wrong."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd

SOLVERS = ["ddim", "ddpm", "dpmpp-2m", "dpmpp-2s", "heun", "unipc", "dpmpp-2m-sde"]
POINTS = ["inputs", "predict", "noise", "state", "population", "route"]


def identity(*points: str, **more: Any) -> fd.Hook:
    """A hook that does nothing at these points, or what `more` says."""
    nothing: dict[str, Any] = {
        "inputs": lambda self, ctx: ({},),
        "predict": lambda self, ctx, xhat: xhat,
        "noise": lambda self, ctx, xi: xi,
        "state": lambda self, ctx, x: x,
        "population": lambda self, ctx, x, history: (x, history),
        "route": lambda self, nodes: range(len(nodes)),
    }
    members = {p: nothing[p] for p in points} | ({"branches": 1} if "inputs" in points else {}) | more
    return type("Identity", (fd.Hook,), members)()


@pytest.fixture
def denoiser(nets: Any, vp: fd.processes.VP) -> fd.Denoiser:
    return fd.Denoiser(nets.exact, vp, predicts="noise")


# identity


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("point", POINTS)
def test_identity_hooks_change_nothing(denoiser: fd.Denoiser, point: str, solver: str) -> None:
    """Bit for bit where the arithmetic passes the hook's point unchanged: an extra branch of weight 0, the
    straight route, a state after a step of a solver without history. Elsewhere a combination is written out
    that the plain plan leaves folded (the data prediction, the draw, the history), so it is rounded once
    more: equal within float64's rounding."""
    x = torch.randn(3, 4, dtype=torch.float64)
    run = {"solver": solver, "steps": 6, "seeds": 0}
    plain, hooked = fd.sample(denoiser, x, **run), fd.sample(denoiser, x, hooks=[identity(point)], **run)
    if point in ("inputs", "route") or point in ("state", "population") and solver == "ddim":
        assert torch.equal(plain, hooked)
    torch.testing.assert_close(plain, hooked, rtol=1e-11, atol=1e-11)
    same = fd.Denoiser(
        denoiser.net, denoiser.process, predicts="data"
    )  # no conversion at the predict point: nothing is rounded
    if point == "predict" and solver == "ddim":
        assert torch.equal(fd.sample(same, x, **run), fd.sample(same, x, hooks=[identity(point)], **run))


def test_an_absent_hook_inserts_nothing(vp: fd.processes.VP) -> None:
    times = fd.grid("logsnr", vp, steps=6)
    for solver in SOLVERS:
        plain = fd.plan(solver, vp, times)
        idle = fd.plan(solver, vp, times, hooks=[identity(*POINTS, active=lambda self, node, step: False)])
        assert [s.coeffs.tolist() for s in plain.stages] == [s.coeffs.tolist() for s in idle.stages]
        assert [(s.inputs, s.outputs, s.draws) for s in plain.stages] == [
            (s.inputs, s.outputs, s.draws) for s in idle.stages
        ]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_hooks_draw_does_not_move_the_solvers(denoiser: fd.Denoiser, solver: str) -> None:
    drawn: list[Tensor] = []

    def draws(self: Any, ctx: Any, x: Tensor) -> Tensor:
        drawn.append(ctx.normal(x))
        torch.rand(3), ctx.normal(x)
        return x

    run = {"solver": solver, "steps": 6, "seeds": 0}
    quiet = fd.sample(denoiser, (3, 4), hooks=[identity("state")], **run)
    assert torch.equal(quiet, fd.sample(denoiser, (3, 4), hooks=[identity("state", state=draws)], **run))
    first = [d.clone() for d in drawn]
    drawn.clear()
    other = identity(
        "state"
    )  # another hook before it has another stream, and its own draws stay what they are
    again = fd.sample(denoiser, (3, 4), hooks=[identity("state", state=draws), other], **run)
    assert torch.equal(
        again, fd.sample(denoiser, (3, 4), hooks=[identity("state"), identity("state")], **run)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, drawn, strict=True))
    flat = torch.stack(first)
    assert len(torch.unique(flat)) == flat.numel(), "every step draws anew"
    assert torch.equal(first[0], fd.noise.normal((3, 4), 0, stream=96, draw=0)), (
        "stream 96 is the first hook's"
    )


def test_a_hooks_draws_are_per_sample(denoiser: fd.Denoiser) -> None:
    noisy = identity("state", state=lambda self, ctx, x: x + 0.1 * ctx.normal(x))
    many = fd.sample(denoiser, (8, 4), seeds=3, steps=5, hooks=[noisy])
    assert torch.equal(
        fd.sample(denoiser, (1, 4), seeds=fd.Seeds(3, ids=[6]), steps=5, hooks=[noisy])[0], many[6]
    )
    assert torch.equal(fd.sample(denoiser, (8, 4), seeds=3, steps=5, hooks=[noisy], chunk=3), many)
    assert torch.equal(
        fd.sample(denoiser, (8, 4), seeds=3, steps=5, hooks=[noisy], backend="reference"), many
    )


# what they see and do


@pytest.mark.parametrize("kind", ["noise", "data", "velocity"])
def test_context_at_predict(nets: Any, vp: fd.processes.VP, kind: str) -> None:
    mixture, seen = nets.Mixture(vp, kind), []

    def predict(self: Any, ctx: Any, xhat: Tensor) -> Tensor:
        seen.append(
            (
                ctx.step,
                ctx.t,
                ctx.alpha,
                ctx.sigma,
                ctx.rho,
                ctx.x.clone(),
                xhat.clone(),
                ctx.steps,
                ctx.outputs[0].clone(),
            )
        )
        torch.testing.assert_close(ctx.model(ctx.x, ctx.t), xhat, rtol=1e-9, atol=1e-9)
        ctx.registers["count"] = ctx.registers.get("count", 0) + 1
        assert ctx.registers["count"] == ctx.step + 1 and ctx.xhat is xhat
        return xhat

    x = torch.randn(3, 4, dtype=torch.float64)
    t = fd.sample(
        fd.Denoiser(mixture, vp, predicts=kind),
        x,
        solver="ddim",
        steps=5,
        trajectory=True,
        hooks=[identity("predict", predict=predict)],
    )
    assert (
        [s[0] for s in seen] == list(range(5))
        and [s[1] for s in seen] == t.times[:-1].tolist()
        and {s[7] for s in seen} == {5}
    )
    for k, (_, time, alpha, sigma, rho, x_t, xhat, _, raw) in enumerate(seen):
        assert (alpha, sigma) == (
            pytest.approx(vp.alpha(time)),
            pytest.approx(vp.sigma(time)),
        ) and rho == pytest.approx(sigma / alpha)
        torch.testing.assert_close(x_t, t.states[k], rtol=1e-10, atol=1e-10)
        at = (torch.tensor(v, dtype=torch.float64) for v in (alpha, sigma))
        torch.testing.assert_close(xhat, mixture.data(x_t, *at), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(
            raw, mixture(x_t, torch.full((3,), time, dtype=torch.float64)), rtol=1e-9, atol=1e-9
        )


def ddpm_by_hand(
    vp: fd.processes.VP, x: Tensor, times: np.ndarray, net: Any, xi: Any, data: Any = None, state: Any = None
) -> Tensor:
    """Ancestral sampling as Ho et al. write it, in alpha and sigma."""
    for i, (s, t) in enumerate(zip(times, times[1:], strict=False)):
        a, b, c, d = vp.alpha(s), vp.sigma(s), vp.alpha(t), vp.sigma(t)
        x0 = (x - b * net(x, torch.full((len(x),), s, dtype=x.dtype))) / a
        x0 = data(i, x0) if data else x0
        r = a / c
        var = b * b - r * r * d * d  # of x_s given x_t
        mean = (r * d * d * x + c * var * x0) / (b * b)
        x = mean + d / b * var**0.5 * xi(i) if d else c * x0
        x = state(i, x) if state else x
    return x


def test_each_point_acts_where_it_says(nets: Any, vp: fd.processes.VP) -> None:
    """predict on the data prediction, noise on the draw, state after the step, against a loop by hand."""
    times, x = np.append(np.linspace(0.9, 0.05, 5), 0.0), torch.randn(3, 4, dtype=torch.float64)

    def draw(i: int) -> Tensor:
        return fd.noise.normal((3, 4), 0, stream=0, draw=i, dtype=torch.float64)

    got = fd.sample(
        fd.Denoiser(nets.exact, vp, predicts="noise"),
        x,
        solver="ddpm",
        times=times,
        seeds=0,
        hooks=[
            identity("predict", predict=lambda self, ctx, xhat: xhat.tanh()),
            identity("noise", noise=lambda self, ctx, xi: xi.flip(1) * 0.5),
            identity("predict", predict=lambda self, ctx, xhat: xhat + 0.1 * ctx.step),
            identity("state", state=lambda self, ctx, x: x * 1.1 + ctx.sigma),
            identity(
                "state", state=lambda self, ctx, x: x.clamp(-3, 3), active=lambda self, node, step: step != 2
            ),
        ],
    )
    want = ddpm_by_hand(
        vp,
        x,
        times,
        nets.exact,
        lambda i: draw(i).flip(1) * 0.5,
        lambda i, x0: x0.tanh() + 0.1 * i,
        lambda i, y: (y * 1.1 + vp.sigma(times[i + 1])).clamp(*((-3, 3) if i != 2 else (-1e9, 1e9))),
    )
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp-2m", "unipc"])
def test_population_permutes_state_and_history_alike(denoiser: fd.Denoiser, solver: str) -> None:
    """Resampling by a fixed permutation after step 2: the whole run of each sample goes with it."""
    order, x = torch.tensor([2, 0, 1]), torch.randn(3, 4, dtype=torch.float64)

    def population(self: Any, ctx: Any, x: Tensor, history: Sequence[Tensor]) -> Any:
        return (x[order], [h[order] for h in history]) if ctx.step == 2 else (x, history)

    run = {"solver": solver, "steps": 6}
    got = fd.sample(denoiser, x, hooks=[identity("population", population=population)], **run)
    torch.testing.assert_close(got, fd.sample(denoiser, x, **run)[order], rtol=1e-11, atol=1e-11)


def test_history_reset_starts_the_solver_anew(denoiser: fd.Denoiser) -> None:
    """history = "reset" after step 2 of dpmpp-2m: the same as two runs, one after the other."""
    times, x = fd.grid("logsnr", denoiser.process, steps=6), torch.randn(3, 4, dtype=torch.float64)
    run = {"solver": "dpmpp-2m", "lower_order_final": "never"}
    hook = identity(
        "state",
        state=lambda self, ctx, x: 0.9 * x,
        active=lambda self, node, step: step == 2,
        history="reset",
    )
    got = fd.sample(denoiser, x, times=times, hooks=[hook], **run)
    middle = fd.sample(denoiser, x, times=times[:4], **run) * 0.9
    torch.testing.assert_close(
        got, fd.sample(denoiser, middle, times=times[3:], **run), rtol=1e-11, atol=1e-11
    )
    keep = identity("state", state=lambda self, ctx, x: 0.9 * x, active=lambda self, node, step: step == 2)
    assert not torch.allclose(got, fd.sample(denoiser, x, times=times, hooks=[keep], **run), rtol=1e-6)


def test_inputs_may_change_from_step_to_step(nets: Any, vp: fd.processes.VP) -> None:
    """A branch is asked for its condition at every call."""
    seen: list[int] = []

    class Fade(fd.Hook):
        branches = 1

        def weights(self, node: Any, step: int) -> Any:
            return 1.5, -0.5

        def inputs(self, ctx: Any) -> Any:
            seen.append(ctx.step)
            return ({"y": torch.full((3,), 0.1 * ctx.step, dtype=torch.float64)},)

    times, x = fd.grid("logsnr", vp, steps=5), torch.randn(3, 4, dtype=torch.float64)
    y = torch.ones(3, dtype=torch.float64)
    den = fd.Denoiser(nets.exact, vp, predicts="noise")
    got = fd.sample(den, x, times=times, cond={"y": y}, hooks=[Fade()])
    steps = iter(range(5))

    def by_hand(x: Tensor, t: Tensor) -> Tensor:
        return 1.5 * nets.exact(x, t, y=y) - 0.5 * nets.exact(x, t, y=0.1 * next(steps) * y)

    want = fd.sample(fd.Denoiser(by_hand, vp, predicts="noise"), x, times=times)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    assert seen == list(range(5))


@pytest.mark.parametrize("given", [[], [{}, {}], [None], [[]]])
def test_wrong_inputs_are_named(denoiser: fd.Denoiser, given: list[Any]) -> None:
    hook = identity("inputs", inputs=lambda self, ctx: given, weights=lambda self, node, step: (1.5, -0.5))
    with pytest.raises(ValueError, match="inputs must return 1 dicts") as info:
        fd.sample(denoiser, (3, 4), steps=3, hooks=[hook])
    assert any("'inputs', step 0" in note for note in getattr(info.value, "__notes__", ["'inputs', step 0"]))


class Route(fd.Hook):
    def __init__(self, visits: Sequence[int]):
        self.visits = visits

    def route(self, nodes: Sequence[Any]) -> Sequence[int]:
        return self.visits


def test_route_travels_in_time(nets: Any, vp: fd.processes.VP) -> None:
    """RePaint's route with jump 2, twice: nodes visited, steps counted, and a jump up by the forward process
    with fresh noise."""
    visits = [0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5]
    times, x = np.append(np.linspace(0.9, 0.05, 5), 0.0), torch.randn(3, 4, dtype=torch.float64)
    counted = nets.Counted()
    den = fd.Denoiser(counted, vp, predicts="noise")
    got = fd.sample(den, x, solver="ddpm", times=times, seeds=0, hooks=[Route(visits)], trajectory=True)
    assert got.states.shape[0] == len(visits) and got.times.tolist() == times[visits].tolist()
    down = [i for i, (a, b) in enumerate(zip(visits, visits[1:], strict=False)) if b > a]
    assert [float(t[0]) for _, t, _ in counted.seen] == [times[visits[i]] for i in down]

    y = x
    for i, (a, b) in enumerate(zip(visits, visits[1:], strict=False)):
        xi = fd.noise.normal((3, 4), 0, stream=0, draw=i, dtype=torch.float64)
        if b < a:
            ratio = vp.alpha(times[b]) / vp.alpha(times[a])
            y = ratio * y + (vp.sigma(times[b]) ** 2 - ratio**2 * vp.sigma(times[a]) ** 2) ** 0.5 * xi
        else:
            y = ddpm_by_hand(vp, y, times[[a, b]], nets.exact, lambda _, xi=xi: xi)
        torch.testing.assert_close(got.states[i + 1], y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        fd.sample(den, x, solver="ddpm", times=times, seeds=0, hooks=[Route(visits)]), y, rtol=1e-9, atol=1e-9
    )


def test_stop_and_resume_on_a_route(denoiser: fd.Denoiser) -> None:
    visits, x = [0, 1, 2, 3, 1, 2, 3, 4], torch.randn(3, 4)
    sampler = fd.Sampler(
        denoiser, fd.plan("ddpm", denoiser.process, np.linspace(0.9, 0.1, 5), hooks=[Route(visits)])
    )
    want = sampler(x, seeds=0)
    for stop in range(1, 7):
        assert torch.equal(sampler(sampler(x, seeds=0, stop=stop)), want), stop


@pytest.mark.parametrize("visits", [[0, 1], [1, 2, 3], [0, 9, 3], [], [0, 1, 2, -1]])
def test_routes_that_lead_nowhere(vp: fd.processes.VP, visits: list[int]) -> None:
    with pytest.raises(ValueError, match="route"):
        fd.plan("ddpm", vp, np.linspace(0.9, 0.1, 4), hooks=[Route(visits)])


# vjp


class Guide(fd.Hook):
    """xhat + w * (J^T v) with v = target - xhat."""

    grad = "input"

    def __init__(self, w: float = 0.05, keep: list[Any] | None = None):
        self.w, self.keep = w, keep

    def predict(self, ctx: Any, xhat: Tensor) -> Tensor:
        if self.keep is not None:
            self.keep.append(weakref.ref(ctx.graph.leaf))
        return xhat + self.w * ctx.vjp(1.0 - xhat)


def smooth(x: Tensor, t: Tensor, y: Any = 0.0) -> Tensor:
    return torch.tanh(x) * (1 + 0.2 * x.roll(1, 1)) + 0.1 * t[:, None] + 0.2 * y * x


@pytest.mark.parametrize(
    "how",
    [{"predicts": k} for k in ("noise", "data", "velocity", "score")]
    + [{"precondition": "edm", "time": "t"}],
)
@pytest.mark.parametrize("scale", [None, 2.5])
def test_vjp_is_autograds(vp: fd.processes.VP, how: dict[str, str], scale: float | None) -> None:
    """v^T d xhat / d x_t through network, conversion, preconditioning and guidance, against autograd of the
    data prediction."""
    den = fd.Denoiser(smooth, vp, **how)
    times, x = np.append(np.linspace(0.9, 0.05, 4), 0.0), torch.randn(3, 4, dtype=torch.float64)

    def xhat(x: Tensor, t: float) -> Tensor:
        c = den(x, t, {"y": 1.0})
        u = den(x, t, {"y": 0.0})
        return c if scale is None else u + scale * (c - u)

    def data(x: Tensor, t: float) -> Tensor:
        leaf = x.detach().requires_grad_(True)
        m = xhat(leaf, t)
        (g,) = torch.autograd.grad(m, leaf, 1.0 - m.detach())
        return m.detach() + 0.05 * g

    want = x
    for s, t in zip(times, times[1:], strict=False):
        m = data(want, float(s))
        want = vp.alpha(t) * m + vp.sigma(t) * (want - vp.alpha(s) * m) / vp.sigma(s)
    guidance = None if scale is None else fd.guidance.CFG(scale, uncond={"y": 0.0})
    got = fd.sample(den, x, solver="ddim", times=times, cond={"y": 1.0}, guidance=guidance, hooks=[Guide()])
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert not got.requires_grad
    leaf = x.clone().requires_grad_(True)
    for more in ({}, {"gradient": "full"}):
        with torch.no_grad():
            again = fd.sample(
                den,
                leaf,
                solver="ddim",
                times=times,
                cond={"y": 1.0},
                guidance=guidance,
                hooks=[Guide()],
                **more,
            )
        assert torch.equal(again, got) and not again.requires_grad


def test_vjp_through_other_dtypes(vp: fd.processes.VP) -> None:
    x = torch.randn(3, 4)
    want = fd.sample(fd.Denoiser(smooth, vp, predicts="data"), x, steps=4, hooks=[Guide()])
    half = fd.Denoiser(lambda x, t: smooth(x, t).double(), vp, predicts="data", x_dtype=torch.float64)
    torch.testing.assert_close(fd.sample(half, x, steps=4, hooks=[Guide()]), want, rtol=1e-4, atol=1e-4)
    assert (
        fd.sample(fd.Denoiser(smooth, vp, predicts="data"), x.bfloat16(), steps=4, hooks=[Guide()]).dtype
        == torch.bfloat16
    )


def test_vjp_graphs_do_not_pile_up(vp: fd.processes.VP) -> None:
    """Each step's graph dies before the next network call, and none is left at the end."""
    leaves: list[Any] = []
    alive: list[int] = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        alive.append(sum(leaf() is not None for leaf in leaves))
        return smooth(x, t)

    fd.sample(fd.Denoiser(net, vp, predicts="noise"), (3, 4), steps=20, seeds=0, hooks=[Guide(keep=leaves)])
    gc.collect()
    assert len(leaves) == 20 and max(alive) == 0 and all(leaf() is None for leaf in leaves)


def test_vjp_says_what_it_needs(vp: fd.processes.VP) -> None:
    den = fd.Denoiser(smooth, vp, predicts="noise")
    asks = identity("predict", predict=lambda self, ctx, xhat: ctx.vjp(xhat))
    with pytest.raises(RuntimeError, match='grad = "input"'):
        fd.sample(den, (3, 4), steps=3, hooks=[asks])
    silent = fd.Denoiser(torch.no_grad()(smooth), vp, predicts="noise")
    with pytest.raises(ValueError, match="no graph"):
        fd.sample(silent, (3, 4), steps=3, hooks=[Guide()])
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        fd.sample(den, (3, 4), steps=3, hooks=[Guide()])


# errors


@pytest.mark.parametrize("point", ["predict", "noise", "state", "population"])
def test_a_raising_hook_is_named(denoiser: fd.Denoiser, point: str) -> None:
    def act(self: Any, ctx: Any, *args: Any) -> Any:
        if ctx.step == 2:
            raise KeyError("mislaid")
        return args[0] if point != "population" else args

    with pytest.raises(KeyError, match="mislaid") as info:
        fd.sample(denoiser, (3, 4), solver="ddpm", steps=5, seeds=0, hooks=[identity(point, **{point: act})])
    said = str(info.value) + "".join(getattr(info.value, "__notes__", []))
    assert "Identity" in said and repr(point) in said and "step 2" in said


@pytest.mark.parametrize("point", ["predict", "noise", "state"])
@pytest.mark.parametrize(
    "wrong,error",
    [
        (lambda x: x[:1], ValueError),
        (lambda x: x.long(), ValueError),
        (lambda x: None, TypeError),
        (lambda x: x.to("meta"), ValueError),
        (lambda x: [x], TypeError),
    ],
)
def test_wrong_results_are_named(
    denoiser: fd.Denoiser, point: str, wrong: Any, error: type[Exception]
) -> None:
    hook = identity(point, **{point: lambda self, ctx, x: wrong(x)})
    with pytest.raises(error, match=f"{point} must return") as info:
        fd.sample(denoiser, (3, 4), solver="ddpm", steps=5, seeds=0, hooks=[hook])
    assert any("Identity" in n for n in getattr(info.value, "__notes__", ["Identity"]))


@pytest.mark.parametrize(
    "wrong,error",
    [
        (lambda x, h: x, TypeError),
        (lambda x, h: (x, [*h, x]), ValueError),
        (lambda x, h: (x, h[:-1]), ValueError),
    ],
)
def test_wrong_populations_are_named(denoiser: fd.Denoiser, wrong: Any, error: type[Exception]) -> None:
    hook = identity("population", population=lambda self, ctx, x, history: wrong(x, history))
    with pytest.raises(error, match="population must return"):
        fd.sample(denoiser, (3, 4), solver="dpmpp-2m", steps=5, seeds=0, hooks=[hook])


def test_population_does_not_go_with_chunk(denoiser: fd.Denoiser) -> None:
    with pytest.raises(ValueError, match="chunk"):
        fd.sample(denoiser, (4, 4), steps=4, chunk=2, hooks=[identity("population")])


def test_hooks_may_return_odd_memory(denoiser: fd.Denoiser) -> None:
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    turned = identity("state", state=lambda self, ctx, x: x.transpose(1, 2).contiguous().transpose(1, 2))
    run = {"solver": "dpmpp-2m", "steps": 5}
    want = fd.sample(denoiser, x, hooks=[identity("state")], **run)
    assert torch.equal(fd.sample(denoiser, x, hooks=[turned], **run), want)
    in_place = identity("state", state=lambda self, ctx, x: x.mul_(0.5))
    new = identity("state", state=lambda self, ctx, x: x * 0.5)
    assert torch.equal(
        fd.sample(denoiser, x, hooks=[in_place], **run), fd.sample(denoiser, x, hooks=[new], **run)
    )
    single = identity("state", state=lambda self, ctx, x: (x * 0.5).float())
    assert fd.sample(denoiser, x, hooks=[single], **run).dtype == torch.float64


@dataclass
class Unhashable(fd.Hook):
    """A plain dataclass has no hash: such plans are compiled anew each time."""

    factor: float = 0.5

    def state(self, ctx: Any, x: Tensor) -> Tensor:
        return x * self.factor


def test_hooks_without_a_hash(denoiser: fd.Denoiser) -> None:
    x = torch.randn(3, 4)
    y = fd.sample(denoiser, x, steps=4, hooks=[Unhashable()])
    assert torch.equal(
        y, fd.sample(denoiser, x, steps=4, hooks=[identity("state", state=lambda self, ctx, x: x * 0.5)])
    )


def test_a_mixture_of_all(nets: Any, vp: fd.processes.VP) -> None:
    """Guidance, its rescaling, a vjp, a threshold and a state hook in one run, in chunks, resumed and on
    both backends."""
    from fastdiff.guidance import CFG, DynamicThreshold, Rescale

    den = fd.Denoiser(smooth, vp, predicts="velocity")
    run = {
        "solver": "dpmpp-2m-sde",
        "steps": 6,
        "seeds": 4,
        "cond": {"y": 1.0},
        "guidance": CFG(3.0, uncond={"y": 0.0}),
        "hooks": [
            Rescale(0.5),
            Guide(),
            DynamicThreshold(0.9),
            identity("state", state=lambda self, ctx, x: x + 0.01 * ctx.normal(x)),
        ],
    }
    whole = fd.sample(den, (6, 5), **run)
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(
        fd.sample(den, (6, 5), chunk=4, **run), whole, rtol=1e-5, atol=1e-5
    )  # tanh is vectorised by place
    torch.testing.assert_close(fd.sample(den, (6, 5), backend="reference", **run), whole, rtol=0, atol=0)
