"""The promises of a first hour: shapes, dtypes, times and seeds in any dress, threads, the command line."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.testing.solvers import planned

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture
def exact(nets: Any, vp: fd.processes.VP) -> fd.Denoiser:
    return fd.Denoiser(nets.Mixture(vp, "noise"), vp, predicts="noise")


def test_point_clouds_are_the_data_they_came_from(exact: fd.Denoiser, nets: Any) -> None:
    """Samples of the exact denoiser have the mixture's mean, variance and weights, by every solver."""
    m = nets.Mixture
    mean = sum(w * a for w, a in zip(m.weights, m.means, strict=True))
    var = sum(w * (a * a + s * s) for w, a, s in zip(m.weights, m.means, m.stds, strict=True)) - mean**2
    for solver in planned():
        if fd.solvers.make(solver).order == 0 or solver == "rd-ddim":
            continue  # the one keeps a bias; the other guesses noise from the span behind it, far at 50 steps
        x = fd.sample(exact, (1000, 2), solver=solver, steps=50, seeds=1)
        assert x.shape == (1000, 2) and x.dtype == torch.float32
        assert float(x.mean()) == pytest.approx(mean, abs=5 * (var / 2000) ** 0.5), solver
        assert float(x.var()) == pytest.approx(var, rel=0.1), solver
        assert float((x < 0).float().mean()) == pytest.approx(0.3, abs=0.06), solver


@pytest.mark.parametrize(
    "shape",
    [(1, 3), (3,), (1,), (7, 5, 3), (2, 1, 1, 1), (1, 3, 17, 13), (2, 3, 4, 5, 6), (1000, 2), (1, 4097)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtypes(
    nets: Any, vp: fd.processes.VP, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    den = fd.Denoiser(nets.exact, vp, predicts="data")
    for solver in ("dpmpp-2m", "ddpm"):
        x = fd.sample(den, shape, solver=solver, steps=3, seeds=0, dtype=dtype)
        assert (
            x.shape == shape
            and x.dtype == dtype
            and torch.isfinite(x).all()
            and x.is_contiguous()
            and not x.requires_grad
        )
        wide = fd.sample(den, shape, solver=solver, steps=3, seeds=0, dtype=torch.float64)
        close = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 0.0}[dtype]
        torch.testing.assert_close(x.double(), wide, rtol=close, atol=close)


def test_the_default_dtype_and_the_networks_device(vp: fd.processes.VP) -> None:
    net = nn.Linear(3, 3)
    den = fd.Denoiser(lambda x, t: x * 0.1, vp, predicts="noise")
    torch.set_default_dtype(torch.float64)
    try:
        assert fd.sample(den, (2, 3), steps=2).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert fd.sample(den, (2, 3), steps=2).dtype == torch.float32
    module = nn.Module()
    module.inner, module.forward = net, lambda x, t: module.inner(x)
    assert fd.sample(fd.Denoiser(module, vp, predicts="noise"), (2, 3), steps=2).device == net.weight.device


def test_one_step(exact: fd.Denoiser) -> None:
    """From pure noise to zero in one step is the data prediction."""
    x = torch.randn(5, 2)
    for solver in planned():
        if solver in ("edict", "bespoke"):
            continue  # a second chain that the first one's result steps; a midpoint of its own
        got = fd.sample(exact, x, solver=solver, steps=1, grid="uniform-t", seeds=0)
        torch.testing.assert_close(
            got, exact(x, 1.0), rtol=1e-3, atol=1e-3, msg=lambda m, s=solver: f"{s}: {m}"
        )


@pytest.mark.parametrize("key", ["logsnr", "karras", "uniform-t"])
def test_ends_of_a_grid(exact: fd.Denoiser, vp: fd.processes.VP, nets: Any, key: str) -> None:
    """ "zero" ends at the process's zero; "sigma_min" one evaluation's worth of noise above it; "denoise"
    adds that evaluation."""
    counted = nets.Counted(exact.net)
    den, x = fd.Denoiser(counted, vp, predicts="noise"), torch.randn(6, 2, dtype=torch.float64)
    ends = {}
    for final in ("zero", "sigma_min", "denoise"):
        counted.calls = 0
        t = fd.sample(den, x, grid=key, steps=12, final=final, solver="ddim", trajectory=True)
        assert counted.calls == 12 + (final == "denoise") and t.times[0] == vp.t_max
        ends[final] = float(t.times[-1])
    assert ends == {"zero": 0.0, "sigma_min": vp.t_min, "denoise": 0.0}
    above = fd.sample(den, x, grid=key, steps=12, final="sigma_min", solver="ddim")
    last = fd.sample(den, x, grid=key, steps=12, final="denoise", solver="ddim")
    torch.testing.assert_close(last, exact(above, vp.t_min), rtol=1e-9, atol=1e-9)


def test_times_in_any_dress(exact: fd.Denoiser) -> None:
    x, times = torch.randn(4, 2), [1.0, 0.6, 0.3, 0.05, 0.0]
    want = fd.sample(exact, x, times=times)
    for dress in (
        tuple,
        np.array,
        lambda t: torch.tensor(t, dtype=torch.float64),
        lambda t: np.array(t)[::-1][::-1],
        lambda t: [np.float64(v) for v in t],
    ):
        assert torch.equal(fd.sample(exact, x, times=dress(times)), want)
        sampler = fd.Sampler(exact, fd.plan("dpmpp-2m", exact.process, dress(times)))
        assert torch.equal(sampler(x), want)


def test_without_seeds_torchs_generator_decides(exact: fd.Denoiser) -> None:
    for solver in ("ddim", "ddpm"):
        torch.manual_seed(3)
        a, b = (fd.sample(exact, (4, 2), solver=solver, steps=4) for _ in range(2))
        torch.manual_seed(3)
        c = fd.sample(exact, (4, 2), solver=solver, steps=4)
        assert torch.equal(a, c) and not torch.equal(a, b)
    g = torch.Generator().manual_seed(5)
    a, b = (fd.sample(exact, (4, 2), steps=4, seeds=g) for _ in range(2))
    assert not torch.equal(a, b) and torch.equal(
        a, fd.sample(exact, (4, 2), steps=4, seeds=torch.Generator().manual_seed(5))
    )
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fd.sample(exact, (4, 2), solver="ddpm", steps=4, seeds=1)
    assert torch.equal(torch.get_rng_state(), before), "seeds given: torch's generator is left alone"


def test_solvers_may_be_made_before(exact: fd.Denoiser) -> None:
    made = fd.solvers.make("ddim", eta=0.5)
    assert torch.equal(
        fd.sample(exact, (4, 2), solver=made, steps=4, seeds=0),
        fd.sample(exact, (4, 2), solver="ddim", eta=0.5, steps=4, seeds=0),
    )


def test_default_grids(nets: Any) -> None:
    want = {
        "vp": "logsnr",
        "discrete-vp": "trailing",
        "edm": "karras",
        "ve": "karras",
        "flow-matching": "uniform-t",
    }
    for key, grid in want.items():
        process = fd.processes.make(key) if hasattr(fd.processes, "make") else None
        if process is None:
            from fastdiff.core.process import processes

            process = processes.make(key)
        den, x = fd.Denoiser(nets.exact, process, predicts="data"), torch.randn(3, 2)
        assert torch.equal(fd.sample(den, x, steps=5), fd.sample(den, x, steps=5, grid=grid)), key


def test_two_threads_on_one_sampler(exact: fd.Denoiser, vp: fd.processes.VP, nets: Any) -> None:
    """Results equal the serial ones, by every way through the runtime."""
    den = fd.Denoiser(nets.exact, vp, predicts="noise")
    for solver, more in (
        ("dpmpp-2m", {}),
        ("dpmpp-2m-sde", {}),
        ("unipc", {"check_finite": True}),
        ("ddpm", {"gradient": "full"}),
    ):
        sampler = fd.Sampler(den, fd.plan(solver, vp, fd.grid("logsnr", vp, steps=10)))
        xs = [torch.randn(8, 5) for _ in range(24)]
        want = [fd.Sampler(den, sampler.plan)(x, seeds=k, **more) for k, x in enumerate(xs)]
        got: list[Any] = [None] * len(xs)
        errors: list[BaseException] = []

        def work(
            first: int,
            sampler: Any = sampler,
            xs: Any = xs,
            got: Any = got,
            errors: Any = errors,
            more: Any = more,
        ) -> None:
            try:
                for k in range(first, len(xs), 2):
                    got[k] = sampler(xs[k], seeds=k, **more)
            except BaseException as e:
                errors.append(e)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not errors and all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), solver


def test_a_sampler_called_inside_its_own_network(vp: fd.processes.VP, nets: Any) -> None:
    """Nested runs have buffers of their own."""
    inner = fd.Sampler(
        fd.Denoiser(nets.exact, vp, predicts="noise"), fd.plan("dpmpp-2m", vp, fd.grid("logsnr", vp, steps=3))
    )
    outer: list[fd.Sampler] = []
    depth = [0]

    def net(x: Tensor, t: Tensor) -> Tensor:
        depth[0] += 1
        y = nets.exact(x, t) + (0.01 * outer[0](x) if depth[0] == 1 else 0)
        depth[0] -= 1
        return y

    outer.append(fd.Sampler(fd.Denoiser(net, vp, predicts="noise"), inner.plan))
    x = torch.randn(3, 4)
    plain = fd.Sampler(
        fd.Denoiser(lambda x, t: nets.exact(x, t) + 0.01 * inner(x), vp, predicts="noise"), inner.plan
    )
    assert torch.equal(outer[0](x), plain(x))


def test_samplers_can_be_copied(vp: fd.processes.VP) -> None:
    """As part of a module, say, of which an average is kept."""
    net = nn.Linear(3, 3)
    sampler = fd.Sampler(
        fd.Denoiser(lambda x, t, net=net: net(x), vp, predicts="noise"), fd.plan("ddpm", vp, [0.9, 0.5, 0.1])
    )
    x = torch.randn(2, 3)
    want = sampler(x, seeds=0)
    assert torch.equal(copy.deepcopy(sampler)(x, seeds=0), want)
    module = fd.Sampler(fd.Denoiser(Wrapped(net), vp, predicts="noise"), sampler.plan)
    other = copy.deepcopy(module)
    assert torch.equal(module(x, seeds=0), want)
    with torch.no_grad():
        net.weight.zero_()
    assert torch.equal(other(x, seeds=0), want) and not torch.equal(module(x, seeds=0), want)
    assert torch.equal(pickle.loads(pickle.dumps(other))(x, seeds=0), want)


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x)


def test_kept_tables_are_bounded(vp: fd.processes.VP, nets: Any) -> None:
    sampler = fd.Sampler(
        fd.Denoiser(nets.exact, vp, predicts="noise"), fd.plan("ddim", vp, fd.grid("logsnr", vp, steps=2))
    )
    for n in range(1, 60):
        sampler(torch.zeros(n, 1))
    assert len(sampler._executors) <= 16


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("what", ["solvers", "grids", "processes", "info"])
def test_the_command_line(what: str, markdown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from fastdiff.__main__ import main

    assert main([what, *(["--markdown"] if markdown else [])]) == 0
    out = capsys.readouterr().out
    if what == "info":
        assert fd.__version__ in out and torch.__version__ in out and "reference" in out
    else:
        from fastdiff.core.process import processes

        keys = {"solvers": fd.solvers.names, "grids": fd.grids.names, "processes": processes.names}[what]()
        rows = out.strip().splitlines()
        assert len(rows) == len(keys) + (2 if markdown else 1)
        for key, row in zip(keys, rows[-len(keys) :], strict=True):
            cells = [c.strip() for c in row.strip("| ").split("|")] if markdown else row.split()
            assert cells[0] == key and (not markdown or all(cells)), row
            assert not markdown or row.count("|") == rows[0].count("|")


def test_the_command_line_as_a_program(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "fastdiff", *words]
        return subprocess.run(program, capture_output=True, text=True, timeout=120, cwd=tmp_path)

    done, wrong = run("info"), run("sampler")
    assert done.returncode == 0 and "torch" in done.stdout and done.stderr == ""
    assert wrong.returncode == 2 and "solvers" in wrong.stderr
