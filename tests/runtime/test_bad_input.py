"""What is said at the door: each wrong call is a ValueError or TypeError that names the argument, before the
network runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.testing.solvers import planned

VP = fd.processes.VP()
T = [1.0, 0.5, 0.1, 0.0]


class Net:
    calls = 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **cond: Any) -> torch.Tensor:
        Net.calls += 1
        return x / (x * x + 1)


DEN = fd.Denoiser(Net(), VP, predicts="noise")


def sample(*x: Any, **options: Any) -> Callable[[], Any]:
    return lambda: fd.sample(DEN, *(x or ((4, 3),)), **({"steps": 4} | options))


def denoiser(net: Any = DEN.net, process: Any = VP, **options: Any) -> Callable[[], Any]:
    return lambda: fd.Denoiser(net, process, **({"predicts": "noise"} | options))


def plan(solver: Any = "ddim", process: Any = VP, times: Any = T, **options: Any) -> Callable[[], Any]:
    return lambda: fd.plan(solver, process, times, **options)


def grid(key: Any = "karras", process: Any = VP, **options: Any) -> Callable[[], Any]:
    return lambda: fd.grid(key, process, **({"steps": 4} | options))


def sampler(
    x: Any = None, plan: Any = None, den: Any = DEN, backend: Any = None, **options: Any
) -> Callable[[], Any]:
    def run() -> Any:
        made = fd.Sampler(den, fd.plan("dpmpp-2m", VP, T) if plan is None else plan(), backend=backend)
        return made(torch.zeros(4, 3) if x is None else x, **options)

    return run


def seeds(*args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: fd.Seeds(*args, **options)


def zeros(*shape: int, **options: Any) -> torch.Tensor:
    return torch.zeros(*(shape or (4, 3)), **options)


SHAPE, SEEDS, TIMES = "shape_or_x", "seeds", "times"
CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # what to start from
    "shape: a number": (sample(4), TypeError, SHAPE),
    "shape: a string": (sample("ab"), TypeError, SHAPE),
    "shape: None": (sample(None), TypeError, SHAPE),
    "shape: floats": (sample((2.5, 3)), TypeError, SHAPE),
    "shape: bools": (sample((True, 3)), TypeError, SHAPE),
    "shape: strings": (sample(("4", "3")), TypeError, SHAPE),
    "shape: a set": (sample({4, 3}), TypeError, SHAPE),
    "shape: an array": (sample(np.zeros((4, 3))), TypeError, SHAPE),
    "shape: negative": (sample((-1, 3)), ValueError, SHAPE),
    "shape: empty": (sample(()), ValueError, SHAPE),
    "shape: too large": (sample((2**40, 2**40)), ValueError, SHAPE),
    "shape: far too large": (sample((2**80, 1)), ValueError, SHAPE),
    "x: ints": (sample(zeros(dtype=torch.int64)), TypeError, SHAPE),
    "x: bools": (sample(zeros(dtype=torch.bool)), TypeError, SHAPE),
    "x: complex": (sample(zeros(dtype=torch.complex64)), TypeError, SHAPE),
    "x: float8": (sample(zeros().to(torch.float8_e5m2)), TypeError, SHAPE),
    "x: no axes": (sample(torch.tensor(1.0)), ValueError, SHAPE),
    "x: meta": (sample(zeros(device="meta")), ValueError, SHAPE),
    "x: sparse": (sample(zeros().to_sparse()), TypeError, SHAPE),
    "x: mkldnn": (sample(zeros().to_mkldnn()), TypeError, SHAPE),
    "x: int8": (sample(zeros(dtype=torch.int8)), TypeError, SHAPE),
    "x: of another dtype": (sample(zeros(), dtype=torch.float64), ValueError, "dtype"),
    "x: on another device": (sample(zeros(), device="meta"), ValueError, "device"),
    "dtype: ints": (sample(dtype=torch.int32), TypeError, "dtype"),
    "dtype: a name": (sample(dtype="float32"), TypeError, "dtype"),
    "device: meta": (sample(device="meta"), ValueError, "device"),
    "device: unknown": (sample(device="gpu9"), ValueError, "device"),
    "device: a float": (sample(device=1.5), TypeError, "device"),
    "sampler: a shape": (sampler((4, 3)), TypeError, "x must be"),
    "sampler: meta": (sampler(zeros(device="meta")), ValueError, "x is a meta"),
    "sampler: ints": (sampler(zeros(dtype=torch.int32)), TypeError, "x must be"),
    # times and grids
    "steps: 0": (sample(steps=0), ValueError, "steps"),
    "steps: -1": (sample(steps=-1), ValueError, "steps"),
    "steps: True": (sample(steps=True), TypeError, "steps"),
    "steps: 2.5": (sample(steps=2.5), TypeError, "steps"),
    "steps: a string": (sample(steps="4"), TypeError, "steps"),
    "steps: None": (sample(steps=None), TypeError, "steps"),
    "times: increasing": (sample(times=T[::-1]), ValueError, TIMES),
    "times: repeated": (sample(times=[1, 0.5, 0.5, 0]), ValueError, TIMES),
    "times: NaN": (sample(times=[1, float("nan"), 0]), ValueError, "times has a NaN at index 1"),
    "times: one": (sample(times=[1.0]), ValueError, TIMES),
    "times: none": (sample(times=[]), ValueError, TIMES),
    "times: a number": (sample(times=0.5), ValueError, TIMES),
    "times: a string": (sample(times="abc"), TypeError, TIMES),
    "times: a table": (sample(times=[T, T]), ValueError, TIMES),
    "times: complex": (sample(times=[1j, 0]), TypeError, TIMES),
    "times: above": (sample(times=[1.5, 0.5, 0]), ValueError, "times must lie in"),
    "times: below": (sample(times=[1, 0.5, -0.1]), ValueError, TIMES),
    "times: infinite": (sample(times=[float("inf"), 0.5, 0]), ValueError, TIMES),
    "times: a dict": (sample(times={1: 0}), TypeError, TIMES),
    "times: two zeros": (sample(times=[1.0, 0.0, -0.0]), ValueError, TIMES),
    "times: with a grid": (sample(times=T, grid="karras"), ValueError, TIMES),
    "times: nearly equal": (
        sample(times=[1, 0.5, np.nextafter(0.5, 0), 0.2, 0]),
        ValueError,
        "two times too close",
    ),
    "times: nearly equal, float64": (
        sample(zeros(dtype=torch.float64), times=[1, 0.5, np.nextafter(0.5, 0), 0.2, 0]),
        ValueError,
        "two times",
    ),
    "times: nearly equal at the start": (
        sample(times=[1, np.nextafter(1, 0), 0.5, 0]),
        ValueError,
        "two times too close",
    ),
    "grid: unknown": (sample(grid="karas"), ValueError, "unknown grid 'karas'; did you mean 'karras'"),
    "grid: a number": (sample(grid=3), TypeError, "grid"),
    "grid: a list": (grid(["karras"]), TypeError, "grid"),
    "grid: unknown option": (sample(grid="karras", grid_options={"rh": 7}), ValueError, "did you mean 'rho'"),
    "grid: option of another type": (sample(grid="karras", grid_options={"rho": "7"}), TypeError, "rho"),
    "grid: option out of range": (sample(grid="karras", grid_options={"rho": -1.0}), ValueError, "rho"),
    "grid: options in a list": (sample(grid="karras", grid_options=["rho"]), TypeError, "grid_options"),
    "grid: steps 0": (grid(steps=0), ValueError, "steps"),
    "grid: process": (grid(process="vp"), TypeError, "process"),
    "grid: final": (grid(final="end"), ValueError, "final"),
    "final": (sample(final="zer0"), ValueError, "unknown final 'zer0'; did you mean 'zero'"),
    "final: None": (sample(final=None), ValueError, "final"),
    # solvers
    "solver: unknown": (
        sample(solver="dpmp-2m"),
        ValueError,
        "unknown solver 'dpmp-2m'; did you mean 'dpmpp-2m'",
    ),
    "solver: a number": (sample(solver=3), TypeError, "solver"),
    "solver: None": (sample(solver=None), TypeError, "solver"),
    "solver: a class": (sample(solver=type(fd.solvers.make("ddim"))), TypeError, "solver"),
    "option: unknown": (sample(solver="ddim", etta=0.5), ValueError, "'etta'; did you mean 'eta'"),
    "option: misspelt argument": (sample(guidence=3.0), ValueError, "guidence"),
    "option: of a made solver": (sample(solver=fd.solvers.make("ddim"), eta=0.5), ValueError, "eta"),
    "eta: a string": (sample(solver="ddim", eta="a"), ValueError, "eta"),
    "eta: negative": (sample(solver="ddim", eta=-1), ValueError, "eta"),
    "eta: NaN": (sample(solver="ddim", eta=float("nan")), ValueError, "eta"),
    "eta: True": (sample(solver="ddim", eta=True), ValueError, "eta"),
    "order: 7": (sample(order=7), ValueError, "order"),
    "order: '2'": (sample(order="2"), ValueError, "order"),
    "order: 2.0": (sample(order=2.0), ValueError, "order"),
    "order: True": (sample(order=True), ValueError, "order"),
    "order: None": (sample(order=None), ValueError, "order"),
    "startup": (sample(startup="ramps"), ValueError, "startup"),
    "lower_order_final": (sample(lower_order_final=True), ValueError, "lower_order_final"),
    "variant": (sample(solver="unipc", variant="bh3"), ValueError, "variant"),
    "churn": (sample(solver="heun", churn=-1), ValueError, "churn"),
    # seeds
    "seeds: negative": (sample(seeds=-1), ValueError, SEEDS),
    "seeds: 2^63": (sample(seeds=2**63), ValueError, SEEDS),
    "seeds: a float": (sample(seeds=1.5), TypeError, SEEDS),
    "seeds: a bool": (sample(seeds=True), TypeError, SEEDS),
    "seeds: a string": (sample(seeds="abc"), TypeError, SEEDS),
    "seeds: too few": (sample(seeds=[1, 2]), ValueError, SEEDS),
    "seeds: floats": (sample(seeds=[1.0, 2.0, 3.0, 4.0]), TypeError, SEEDS),
    "seeds: one negative": (sample(seeds=[1, 2, 3, -4]), ValueError, SEEDS),
    "seeds: float tensor": (sample(seeds=zeros(4)), TypeError, SEEDS),
    "seeds: a table": (sample(seeds=torch.zeros(4, 1).long()), TypeError, SEEDS),
    "seeds: None inside": (sample(seeds=[1, 2, 3, None]), TypeError, SEEDS),
    "seeds: a set": (sample(seeds={1, 2, 3, 4}), TypeError, SEEDS),
    "seeds: a dict": (sample(seeds={1: 0, 2: 0, 3: 0, 4: 0}), TypeError, SEEDS),
    "seeds: x given": (sample(zeros(), seeds=-1), ValueError, SEEDS),
    "seeds: of a sampler": (sampler(seeds=[1]), ValueError, SEEDS),
    "Seeds: ids too few": (sample(seeds=fd.Seeds(1, ids=[1])), ValueError, "ids"),
    "Seeds: negative": (seeds(-1), ValueError, SEEDS),
    "Seeds: a float": (seeds(1.0), TypeError, SEEDS),
    "Seeds: bools": (seeds([True]), TypeError, SEEDS),
    "Seeds: ids a number": (seeds(1, ids=3), TypeError, "ids"),
    "Seeds: ids floats": (seeds(1, ids=[1.0]), TypeError, "ids"),
    "Seeds: ids too large": (seeds(1, ids=[2**56]), ValueError, "ids"),
    # the rest of a call
    "cond: a list": (sample(cond=[1]), TypeError, "cond"),
    "cond: a tensor": (sample(cond=zeros()), TypeError, "cond"),
    "cond: numbers as names": (sample(cond={1: 2}), TypeError, "cond"),
    "cond: of a sampler": (sampler(cond=3), TypeError, "cond"),
    "cond: in chunks": (sample(cond=[1], chunk=2), TypeError, "cond"),
    "guidance: a number": (sample(guidance=3.0), TypeError, "guidance"),
    "hooks: one": (sample(hooks=fd.guidance.Clip()), TypeError, "hooks"),
    "hooks: strings": (sample(hooks=["clip"]), TypeError, "hooks"),
    "hooks: None": (sample(hooks=None), TypeError, "hooks"),
    "hooks: a class": (sample(hooks=[fd.guidance.Clip]), TypeError, "hooks"),
    "chunk: 0": (sample(chunk=0), ValueError, "chunk"),
    "chunk: -1": (sample(chunk=-1), ValueError, "chunk"),
    "chunk: 2.0": (sample(chunk=2.0), ValueError, "chunk"),
    "chunk: True": (sample(chunk=True), ValueError, "chunk"),
    "chunk: with a callback": (sample(chunk=2, callback=print), ValueError, "chunk"),
    "gradient: unknown": (sample(gradient="all"), ValueError, "gradient"),
    "gradient: True": (sample(gradient=True), ValueError, "gradient"),
    "gradient: of a sampler": (sampler(gradient="adjoint?"), ValueError, "gradient"),
    "callback": (sample(callback=3), TypeError, "callback"),
    "noise": (sample(noise="brown"), ValueError, "noise"),
    "distributed": (sample(distributed="x"), ValueError, "distributed"),
    "backend: unknown": (sample(backend="cpus"), ValueError, "unknown backend 'cpus'; did you mean 'cpu'"),
    "backend: a number": (sample(backend=3), ValueError, "backend"),
    "backend: not here": (sample(backend="cuda"), ValueError, "backend='cuda'"),
    "backend: x given, not here": (sample(zeros(), backend="cuda"), ValueError, "backend='cuda'"),
    "backend: of a sampler": (sampler(backend="fast"), ValueError, "backend"),
    "stop": (sampler(stop=3.0), ValueError, "stop"),
    # denoisers, plans
    "denoiser: a function": (lambda: fd.sample(Net(), (4, 3)), TypeError, "denoiser"),
    "net": (denoiser(net=3), TypeError, "net"),
    "process: a name": (denoiser(process="vp"), TypeError, "process"),
    "process: a class": (denoiser(process=fd.processes.VP), TypeError, "process"),
    "predicts: unknown": (denoiser(predicts="eps"), ValueError, "predicts"),
    "predicts: missing": (denoiser(predicts=None), TypeError, "predicts"),
    "predicts: a list": (denoiser(predicts=["noise"]), TypeError, "predicts"),
    "predicts: edm": (denoiser(predicts="edm"), ValueError, "predicts"),
    "predicts: the solvers' own": (denoiser(predicts="slope"), ValueError, "predicts"),
    "predicts: with a precondition": (denoiser(precondition="edm"), ValueError, "predicts"),
    "time: unknown": (denoiser(time="T"), ValueError, "time"),
    "time: index 0": (denoiser(time=("index", 0)), ValueError, "time"),
    "time: a list": (denoiser(time=["index", 9]), ValueError, "time"),
    "time: a number": (denoiser(time=1000), ValueError, "time"),
    "precondition": (denoiser(precondition="karras"), ValueError, "precondition"),
    "variance": (denoiser(variance="learnt"), ValueError, "variance"),
    "x_dtype: ints": (denoiser(x_dtype=torch.int32), TypeError, "x_dtype"),
    "x_dtype: a name": (denoiser(x_dtype="half"), TypeError, "x_dtype"),
    "plan: for another process": (
        sampler(plan=plan(process=fd.processes.VP(beta_max=10.0))),
        ValueError,
        "the plan is for",
    ),
    "plan: for another network": (sampler(plan=plan(predicts="data")), ValueError, "'data' network"),
    "plan: no plan": (sampler(plan=lambda: "ddim"), TypeError, "plan"),
    "sampler: no denoiser": (sampler(den=Net()), TypeError, "denoiser"),
    "plan: solver": (plan("dim"), ValueError, "unknown solver"),
    "plan: process": (plan(process="vp"), TypeError, "process"),
    "plan: predicts": (plan(predicts="x0"), ValueError, "prediction"),
    "plan: hooks": (plan(hooks=[3]), TypeError, "hooks"),
    "plan: guidance": (plan(guidance=2.0), TypeError, "[Hh]ook"),
    "plan: times": (plan(times=5), ValueError, TIMES),
    "plan: option": (plan(order=2), ValueError, "order"),
    "plan: no such conversion": (
        plan(process=fd.processes.FlowMatching(), times=T, predicts="noise"),
        ValueError,
        "t=1",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_by_name_before_the_network_runs(name: str) -> None:
    call, error, match = CASES[name]
    Net.calls = 0
    with pytest.raises(error, match=match) as info:
        call()
    assert type(info.value) is error and Net.calls == 0


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns of prototypes once a process
def test_nested_tensors() -> None:
    with pytest.raises(TypeError, match="nested"):
        fd.sample(DEN, torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)]))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_tensors() -> None:
    with pytest.raises(TypeError, match=SHAPE):
        fd.sample(DEN, torch.quantize_per_tensor(zeros(), 0.1, 0, torch.quint8))


@pytest.mark.parametrize("name", ["cuda", "mps", "xpu"])
def test_a_device_that_is_not_here(name: str) -> None:
    if torch.get_device_module(name).is_available():
        pytest.skip("it is")
    with pytest.raises(ValueError, match=f"device='{name}' is not available"):
        fd.sample(DEN, (4, 3), device=name)


RIGHT: dict[str, tuple[Callable[[], torch.Tensor], tuple[int, ...]]] = {
    "an empty batch": (sample((0, 3)), (0, 3)),
    "an empty x": (sample(zeros(0, 3)), (0, 3)),
    "empty samples": (sample((4, 0, 2)), (4, 0, 2)),
    "an empty batch in chunks": (sample((0, 3), chunk=2), (0, 3)),
    "an empty row of seeds": (sample((0, 3), seeds=[], solver="ddpm"), (0, 3)),
    "a list": (sample([4, 3]), (4, 3)),
    "numpy's ints": (sample((np.int64(4), np.int32(3))), (4, 3)),
    "torch.Size": (sample(zeros().shape), (4, 3)),
    "samples without axes": (sample((4,)), (4,)),
    "steps of numpy": (sample(steps=np.int32(3)), (4, 3)),
    "one step": (sample(steps=1), (4, 3)),
    "times as integers": (sample(times=[1, 0]), (4, 3)),
    "a tensor of times with a graph": (sample(times=torch.tensor(T, requires_grad=True)), (4, 3)),
    "a largest seed": (sample(seeds=2**63 - 1), (4, 3)),
    "seeds of numpy": (sample(seeds=np.arange(4)), (4, 3)),
    "one seed of numpy": (sample(seeds=np.int64(4)), (4, 3)),
    "a tensor of one seed": (sample(seeds=torch.tensor(4)), (4, 3)),
    "a range of seeds": (sample(seeds=range(4)), (4, 3)),
    "a generator": (sample(seeds=torch.Generator().manual_seed(1)), (4, 3)),
    "a chunk larger than the batch": (sample(chunk=99), (4, 3)),
    "no condition": (sample(cond={}), (4, 3)),
    "hooks in a tuple": (sample(hooks=()), (4, 3)),
    "a denormal time": (sample(times=[1.0, 0.5, 5e-324, 0.0]), (4, 3)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_odd_but_right(name: str) -> None:
    call, shape = RIGHT[name]
    y = call()
    assert y.shape == shape and torch.isfinite(y).all()


def test_the_near_miss_is_named_for_every_key() -> None:
    for names, call in (
        (fd.solvers.names(), lambda k: fd.sample(DEN, (1, 2), solver=k)),
        (fd.grids.names(), lambda k: fd.grid(k, VP, steps=3)),
    ):
        for name in names:
            with pytest.raises(ValueError, match=f"did you mean.*{name!r}"):
                call(name + "x")


def test_nan_in_is_nan_out() -> None:
    """Nothing hides it: a NaN in x stays in its sample and reaches no other."""
    x = torch.randn(4, 3)
    x[2, 1] = float("nan")
    for solver in planned():
        y = fd.sample(DEN, x, solver=solver, steps=4, seeds=0)
        assert torch.isnan(y[2, 1]) and torch.isfinite(y[[0, 1, 3]]).all()
