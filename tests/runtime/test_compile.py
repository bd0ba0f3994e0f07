"""A whole sampler under torch.compile and torch.export: the eager bits, and few graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import fastdiff as fd
from fastdiff.guidance import CFG, Clip, DynamicThreshold, Rescale

SOLVERS: dict[str, dict[str, Any]] = {
    "dpmpp-2m": {},
    "dpmpp-2m-sde": {},
    "unipc": {"order": 3},
    "heun": {"churn": 2.0},
}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.fixture
def denoiser(nets: Any, vp: fd.processes.VP) -> fd.Denoiser:
    return fd.Denoiser(nets.exact, vp, predicts="noise")


def ready(denoiser: fd.Denoiser, solver: str = "dpmpp-2m", steps: int = 5, **options: Any) -> fd.Sampler:
    times = fd.grid("logsnr", denoiser.process, steps=steps)
    return fd.Sampler(denoiser, fd.plan(solver, denoiser.process, times, **options))


def whole(run: Callable[..., Any], backend: str = "aot_eager") -> Callable[..., Any]:
    return torch.compile(run, fullgraph=True, backend=backend)


@pytest.mark.parametrize("solver", SOLVERS)
def test_int_seeds_make_at_most_two_graphs_and_tensor_seeds_one(denoiser: fd.Denoiser, solver: str) -> None:
    sampler, x = ready(denoiser, solver, **SOLVERS[solver]), torch.randn(4, 3)
    sampler(x, seeds=0)
    run = whole(lambda x, seeds: sampler(x, seeds=seeds))
    for seed in range(20):
        assert torch.equal(run(x, seed), sampler(x, seeds=seed))
    assert graphs() <= 2 and not counters["graph_break"]
    before = graphs()
    for k in range(20):
        seeds = torch.arange(4) * 3 + k
        assert torch.equal(run(x, seeds), sampler(x, seeds=seeds))
    assert graphs() - before == 1


def test_a_new_step_count_is_a_new_graph(denoiser: fd.Denoiser) -> None:
    x, samplers = torch.randn(4, 3), [ready(denoiser, "ddpm", n) for n in (3, 4, 6)]
    for k, sampler in enumerate(samplers):
        want = sampler(x, seeds=0)
        run = whole(lambda x, sampler=sampler: sampler(x, seeds=0))
        assert torch.equal(run(x), want) and torch.equal(run(x), want) and graphs() == k + 1


@pytest.mark.slow
def test_inductor_gives_the_eager_bits(denoiser: fd.Denoiser) -> None:
    sampler, x = ready(denoiser, "ddpm", 3), torch.randn(4, 3)
    want = sampler(x, seeds=3)
    run = whole(lambda x, seeds: sampler(x, seeds=seeds), "inductor")
    assert torch.equal(run(x, 3), want) and torch.equal(run(x, 4), sampler(x, seeds=4))


@pytest.mark.parametrize(
    "name", ["cond", "guided", "hooks", "draws", "trajectory", "x_dtype", "half", "edm", "no seeds"]
)
def test_what_else_compiles_whole(denoiser: fd.Denoiser, nets: Any, name: str) -> None:
    class Shake(fd.Hook):
        def state(self, ctx: Any, x: Tensor) -> Tensor:
            return x + ctx.sigma * ctx.normal(x)

    x, run, more = torch.randn(4, 3), {"seeds": 1}, {}
    if name in ("cond", "guided", "hooks"):
        run["cond"] = {"y": torch.ones(4)}
    if name in ("guided", "hooks"):
        more["guidance"] = CFG(2.0, uncond={"y": torch.zeros(4)})
    if name == "hooks":
        more["hooks"] = [Rescale(0.5), DynamicThreshold(0.9), Clip(-0.5, 0.5)]
    if name == "draws":
        more["hooks"] = [Shake()]
    if name == "half":
        x = x.bfloat16()
    if name == "no seeds":
        run = {}
    if name == "x_dtype":
        denoiser = fd.Denoiser(nets.exact, denoiser.process, predicts="noise", x_dtype=torch.float64)
    if name == "edm":
        process = fd.processes.EDM()
        denoiser, more["predicts"] = fd.Denoiser(nets.exact, process, precondition="edm"), "edm"
    sampler = ready(denoiser, "dpmpp-2m-sde" if name != "no seeds" else "ddpm", **more)

    def pick(y: Any) -> Any:
        return y.states if name == "trajectory" else y

    run["trajectory"] = name == "trajectory"
    torch.manual_seed(5)
    want = pick(sampler(x, **run))
    torch.manual_seed(5)
    assert torch.equal(whole(lambda x: pick(sampler(x, **run)))(x), want) and graphs() == 1


@pytest.mark.parametrize("mode", ["full", "checkpoint"])
def test_gradients_compile_whole(vp: fd.processes.VP, mode: str) -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    sampler = ready(fd.Denoiser(lambda x, t: net(x) + t[:, None], vp, predicts="noise"), "ddpm")
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    leaves = [x, *net.parameters()]
    want = torch.autograd.grad((sampler(x, seeds=0, gradient=mode) ** 2).sum(), leaves)
    run = whole(lambda x: sampler(x, seeds=0, gradient=mode))
    got = torch.autograd.grad((run(x) ** 2).sum(), leaves)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * float(b.abs().max()))


MODES: list[Any] = ["reversible", "adjoint", fd.gradients.Adjoint(order=1), fd.gradients.Checkpoint(memory=1)]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_gradients_that_the_host_runs_leave_the_graph(vp: fd.processes.VP, mode: Any) -> None:
    """They do what they do in eager mode, to the bit, in place of another mode in silence; where the whole
    must be one graph it is said that they cannot."""
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    sampler = ready(fd.Denoiser(lambda x, t: net(x) + t[:, None], vp, predicts="noise"), "bdia")
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    leaves = [x, *net.parameters()]

    def run(x: Tensor) -> Tensor:
        return (sampler(x + 1, gradient=mode) ** 2).sum()

    with pytest.raises(torch._dynamo.exc.Unsupported, match="run by the host, outside of compiled graphs"):
        whole(run)(x)
    torch._dynamo.reset()
    want = torch.autograd.grad(run(x), leaves)
    got = torch.autograd.grad(torch.compile(run, backend="aot_eager")(x), leaves)
    assert all(map(torch.equal, got, want))


def test_an_unready_sampler_says_so_or_breaks_the_graph(denoiser: fd.Denoiser) -> None:
    x, sampler = torch.randn(4, 3), ready(denoiser)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="run it once before"):
        whole(lambda x: sampler(x, seeds=0))(x)
    torch._dynamo.reset()
    sampler = ready(denoiser)
    got = torch.compile(lambda x: sampler(x, seeds=0), backend="aot_eager")(x)
    assert torch.equal(got, sampler(x, seeds=0))


def test_sample_inside_a_compiled_function_runs_outside_its_graph(denoiser: fd.Denoiser) -> None:
    x = torch.randn(4, 3)

    def step(x: Tensor) -> Tensor:
        return 2 * fd.sample(denoiser, x + 1, steps=4, seeds=0) - 1

    assert torch.equal(torch.compile(step, backend="aot_eager")(x), step(x))


def test_wrong_calls_are_refused_in_the_same_words(denoiser: fd.Denoiser) -> None:
    sampler, x = ready(denoiser), torch.randn(4, 3)
    sampler(x)
    with pytest.raises((ValueError, torch._dynamo.exc.Unsupported), match="gradient='half'"):
        whole(lambda x: sampler(x, gradient="half"))(x)


class Module(nn.Module):
    def __init__(self, sampler: fd.Sampler, net: nn.Module):
        super().__init__()
        self.sampler, self.net = sampler, net

    def forward(self, x: Tensor, seeds: Any) -> Tensor:
        return self.sampler(x, seeds=seeds)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("solver", ["dpmpp-2m", "dpmpp-2m-sde"])
def test_export(vp: fd.processes.VP, solver: str, strict: bool) -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    sampler = ready(fd.Denoiser(lambda x, t: net(x) + t[:, None], vp, predicts="noise"), solver)
    x, seeds = torch.randn(4, 3), torch.arange(4)
    want = sampler(x, seeds=seeds)
    program = torch.export.export(Module(sampler, net), (x, seeds), strict=strict)
    assert torch.equal(program.module()(x, seeds), want)
    assert torch.equal(program.module()(x + 1, seeds + 1), sampler(x + 1, seeds=seeds + 1))
    inner = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    assert any("fastdiff.linear_step" in str(node.target) for m in inner for node in m.graph.nodes)
    assert torch.equal(sampler(x, seeds=seeds), want), "tracing left nothing behind"


def test_export_of_an_unready_sampler_leaves_nothing_behind(vp: fd.processes.VP) -> None:
    net = nn.Sequential(nn.Linear(3, 3))
    sampler = ready(fd.Denoiser(lambda x, t: net(x), vp, predicts="noise"), "ddpm")
    x, seeds = torch.randn(4, 3), torch.arange(4)
    program = torch.export.export(Module(sampler, net), (x, seeds), strict=False)
    assert torch.equal(program.module()(x, seeds), sampler(x, seeds=seeds))
