"""A sample depends on its own (seed, id) alone: torch.equal, however the run was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff import _C
from fastdiff.core.solver import Solver
from fastdiff.runtime import executor as runtime

SOLVERS: dict[str, dict[str, Any]] = {
    "ddim": {},
    "ddim-eta": {"solver": "ddim", "eta": 0.7},
    "ddpm": {},
    "euler-a": {},
    "heun-churn": {"solver": "heun", "churn": 3.0},
    "dpm2": {},
    "dpmpp-2m": {},
    "dpmpp-2s": {},
    "dpmpp-2m-sde": {},
    "unipc": {},
    "unipc-3": {"solver": "unipc", "order": 3},
}
SHAPE, STEPS = (3, 5, 4), 6


@pytest.fixture(params=SOLVERS)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"solver": request.param, "steps": STEPS, **SOLVERS[request.param]}


@pytest.fixture
def denoiser(nets: Any, vp: fd.processes.VP) -> fd.Denoiser:
    return fd.Denoiser(nets.exact, vp, predicts="noise")


def start(batch: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, *SHAPE, dtype=torch.float64).to(dtype)


def test_alone_and_in_a_batch(denoiser: fd.Denoiser, options: dict[str, Any]) -> None:
    many = fd.sample(denoiser, (64, *SHAPE), seeds=7, **options)
    assert torch.isfinite(many).all()
    few = fd.sample(denoiser, (3, *SHAPE), seeds=7, **options)
    alone = fd.sample(denoiser, (1, *SHAPE), seeds=fd.Seeds(7, ids=[41]), **options)
    assert torch.equal(few, many[:3]) and torch.equal(alone[0], many[41])


def test_permuted_ids(denoiser: fd.Denoiser, options: dict[str, Any]) -> None:
    order = torch.randperm(16)
    straight = fd.sample(denoiser, (16, *SHAPE), seeds=7, **options)
    assert torch.equal(
        fd.sample(denoiser, (16, *SHAPE), seeds=fd.Seeds(7, ids=order.tolist()), **options), straight[order]
    )
    assert torch.equal(
        fd.sample(denoiser, (16, *SHAPE), seeds=fd.Seeds(7, ids=order), **options), straight[order]
    )


def test_a_row_of_seeds(denoiser: fd.Denoiser, options: dict[str, Any]) -> None:
    row = fd.sample(denoiser, (3, *SHAPE), seeds=[5, 9, 7], **options)
    for k, seed in enumerate((5, 9, 7)):
        assert torch.equal(row[k], fd.sample(denoiser, (1, *SHAPE), seeds=seed, **options)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_memory_formats(denoiser: fd.Denoiser, options: dict[str, Any], dtype: torch.dtype) -> None:
    x = start(8, dtype)
    y = fd.sample(denoiser, x, seeds=1, **options)
    views = {
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "sliced": torch.stack([x, x], -1)[..., 1],
        "turned": x.transpose(0, 3).contiguous().transpose(0, 3),
        "offset": torch.cat([x[:1], x])[1:],
        "parameter": torch.nn.Parameter(x.clone()),
    }
    for name, view in views.items():
        before = view.detach().clone()
        assert torch.equal(fd.sample(denoiser, view, seeds=1, **options), y), name
        assert torch.equal(view, before), f"{name}: x was written"
    wide = x[:1].expand(8, *SHAPE)
    assert torch.equal(
        fd.sample(denoiser, wide, seeds=1, **options)[:1], fd.sample(denoiser, x[:1], seeds=1, **options)
    )


@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 99])
def test_chunk(denoiser: fd.Denoiser, options: dict[str, Any], chunk: int) -> None:
    x, cond = start(8), {"y": torch.randn(8), "z": torch.randn(8)}
    whole = fd.sample(denoiser, x, seeds=2, cond=cond, trajectory=True, **options)
    parts = fd.sample(denoiser, x, seeds=2, cond=cond, trajectory=True, chunk=chunk, **options)
    for name in ("x", "states", "data"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    plain = fd.sample(denoiser, x, seeds=2, cond=cond, **options)
    assert torch.equal(plain, fd.sample(denoiser, x, seeds=2, cond=cond, chunk=chunk, **options))


def _sampler(denoiser: fd.Denoiser, options: dict[str, Any], **more: Any) -> fd.Sampler:
    options = dict(options)
    times = fd.grid("logsnr", denoiser.process, steps=options.pop("steps"))
    return fd.Sampler(denoiser, fd.plan(options.pop("solver"), denoiser.process, times, **options), **more)


def test_resumed_after_each_step(denoiser: fd.Denoiser, options: dict[str, Any], tmp_path: Path) -> None:
    sampler, x = _sampler(denoiser, options), start(4)
    whole = sampler(x, seeds=3)
    for stop in range(1, STEPS):
        state = sampler(x.clone(), seeds=3, stop=stop)
        assert state.step == stop
        sampler(torch.randn_like(x), seeds=99)  # what the sampler does meanwhile is nothing to the state
        kept = {r: t.clone() for r, t in state.registers.items()}
        assert torch.equal(sampler(state), whole), stop
        assert torch.equal(sampler(state), whole), "a state can be used twice"
        assert all(torch.equal(kept[r], t) for r, t in state.registers.items())
        state.save(tmp_path / "state.pt")
        again = fd.State.load(tmp_path / "state.pt")
        assert torch.equal(_sampler(denoiser, options)(again), whole), "saved and loaded"
        if stop + 2 < STEPS:
            assert torch.equal(sampler(sampler(again, stop=stop + 2)), whole), "stopped twice"


def test_backends(denoiser: fd.Denoiser, options: dict[str, Any]) -> None:
    y = fd.sample(denoiser, (4, *SHAPE), seeds=4, **options)
    for backend in ("reference", "cpu"):
        assert torch.equal(fd.sample(denoiser, (4, *SHAPE), seeds=4, backend=backend, **options), y), backend


def test_threads_and_instruction_sets(denoiser: fd.Denoiser, options: dict[str, Any]) -> None:
    shape, threads, isa = (2, 40_000), torch.get_num_threads(), _C.isa()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            for name in _C.isas():
                _C.set_isa(name)
                found.append(fd.sample(denoiser, shape, seeds=5, **options))
    finally:
        torch.set_num_threads(threads)
        _C.set_isa(isa)
    assert all(torch.equal(found[0], y) for y in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_compiled_loop_is_the_python_loop(
    denoiser: fd.Denoiser, options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, cond = start(4, dtype), {"y": torch.randn(4)}
    fast = fd.sample(denoiser, x, seeds=6, cond=cond, **options)
    assert torch.equal(fd.sample(denoiser, x, seeds=6, cond=cond, check_finite=True, **options), fast)
    monkeypatch.setattr(runtime.Executor, "program", None)
    assert torch.equal(fd.sample(denoiser, x, seeds=6, cond=cond, **options), fast)


def test_one_sampler_many_shapes_and_dtypes(denoiser: fd.Denoiser, options: dict[str, Any]) -> None:
    sampler = _sampler(denoiser, options)
    for shape in ((4, 5), (2, 7), (4, 5), (1, 1, 3), (0, 3)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x = torch.randn(*shape, dtype=torch.float64).to(dtype)
            y = sampler(x, seeds=1)
            assert y.dtype == dtype and torch.equal(y, _sampler(denoiser, options)(x, seeds=1))


def test_parameters_and_tensors_share_a_sampler(denoiser: fd.Denoiser, options: dict[str, Any]) -> None:
    sampler, x = _sampler(denoiser, options), start(3)
    want = sampler(x, seeds=0)
    for other in (
        torch.nn.Parameter(x),
        x.clone().requires_grad_(True),
        x[:],
        torch.nn.Parameter(x).detach(),
    ):
        for more in ({}, {"check_finite": True}):
            y = sampler(other, seeds=0, **more)
            assert torch.equal(y, want) and not y.requires_grad and type(y) is Tensor


def test_seeds_move_the_noise(denoiser: fd.Denoiser, options: dict[str, Any]) -> None:
    x = start(4)
    plan = _sampler(denoiser, options).plan
    same = torch.equal(fd.sample(denoiser, x, seeds=1, **options), fd.sample(denoiser, x, seeds=2, **options))
    assert same != plan.stochastic
    assert not torch.equal(
        fd.sample(denoiser, (4, *SHAPE), seeds=1, **options),
        fd.sample(denoiser, (4, *SHAPE), seeds=2, **options),
    )


def test_x_T_is_the_prior_of_stream_1(denoiser: fd.Denoiser) -> None:
    """A shape means: draw x_T from the process's prior by the seeds."""
    ve = fd.processes.VE()
    for process, scale in ((denoiser.process, 1.0), (ve, float(ve.sigma(ve.t_max)))):
        d = fd.Denoiser(denoiser.net, process, predicts="noise")
        x = fd.noise.normal((4, 3), 8, stream=1) * scale
        assert torch.equal(fd.sample(d, (4, 3), seeds=8, steps=3), fd.sample(d, x, seeds=8, steps=3))


class Wide(Solver):
    """Keeps `kept` combinations and draws six times a step: more than one launch of the kernel takes."""

    stochastic, memory, kept = True, 5, 5

    def step(self, p: Any, s: Any, t: Any, past: Any) -> Any:
        m = p.model(p.x, s)
        past = past or [p.keep((0.1 * i + 0.2) * p.x + 0.3 / (i + 1) * m) for i in range(self.kept)]
        xi = [p.noise() for _ in range(6)]
        p.x = (
            0.8 * p.x
            + 0.1 * m
            + sum(0.3 / self.kept * k for k in past)
            + sum(0.01 * (c + 1) * z for c, z in enumerate(xi))
        )
        return [
            p.keep((0.95 - 0.9 * i / self.kept) * k + 0.01 * (i + 1) * m + 0.02 * xi[i % 6])
            for i, k in enumerate(past)
        ]


class Wider(Wide):
    memory, kept = 13, 13


Wide.key = Wider.key = "wide"  # said afterwards, so that the registry does not know them


@pytest.mark.parametrize(
    "solver,dtype", [(Wide(), torch.float32), (Wide(), torch.bfloat16), (Wider(), torch.float64)]
)
def test_stages_wider_than_a_launch(nets: Any, vp: fd.processes.VP, solver: Wide, dtype: torch.dtype) -> None:
    from fastdiff.core.direct import Direct

    times, x = np.linspace(0.9, 0.1, 8 + 2 * solver.kept), start(3, dtype)
    plan = fd.plan(solver, vp, times)
    assert max(len(s.outputs) for s in plan.stages) > 4 and max(len(s.draws) for s in plan.stages) > 4
    assert (max(len(s.inputs) for s in plan.stages) > 12) == (solver.kept > 12)
    sampler = fd.Sampler(fd.Denoiser(nets.exact, vp, predicts="noise"), plan)
    got = sampler(x, seeds=2)
    assert torch.equal(got[1:], sampler(x[1:], seeds=fd.Seeds(2, ids=[1, 2])))
    assert torch.equal(got, fd.Sampler(sampler.denoiser, plan, backend="reference")(x, seeds=2))
    assert torch.equal(got, sampler(sampler(x, seeds=2, stop=3)))
    torch.testing.assert_close(got, sampler(x, seeds=2, gradient="full"), rtol=0, atol=0)

    def draw(step: int, column: int) -> Tensor:
        return fd.noise.normal(
            x.shape, 2, stream=fd.noise.streams.column_stream(column), draw=step, dtype=torch.float64
        )

    p = Direct(
        lambda x, node: nets.exact(x, torch.full((3,), node.t, dtype=x.dtype)),
        x.double(),
        "noise",
        wanted="data",
        noise=draw,
    )
    solver.record(p, [vp.node(float(t)) for t in times])
    close = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.3}[
        dtype
    ]  # 13 similar histories: ill-conditioned
    torch.testing.assert_close(got.double(), p.x, rtol=close, atol=close)
