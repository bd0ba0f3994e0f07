"""Sampling with several registers: what a user passes, gets, and is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.core.direct import Direct
from fastdiff.core.matrix import Vector
from fastdiff.core.solver import solvers
from fastdiff.noise.seeds import resolve
from fastdiff.noise.streams import INITIAL, column_stream
from fastdiff.ops.normal import normal
from fastdiff.testing import GaussianMixture
from fastdiff.testing.phase_space import PhaseMixture

P = fd.processes
PSLD, CLD = P.PSLD(), P.CLD()
KEYS = [k for k in solvers.names(kind="linear") if solvers.make(k).predicts != "data"]
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])


def pair(x: Tensor, v: Tensor, t: Tensor, shift: Any = 0.0) -> tuple[Tensor, Tensor]:
    """Any network of both."""
    t = t.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
    return torch.sin(x + 2 * v) * t + shift, torch.cos(x - v) + shift


def one(x: Tensor, v: Tensor, t: Tensor, shift: Any = 0.0) -> Tensor:
    return pair(x, v, t, shift)[1]


BOTH, VONLY = fd.Denoiser(pair, PSLD, predicts="noise"), fd.Denoiser(one, CLD, predicts="noise")
EITHER = pytest.mark.parametrize("denoiser", [BOTH, VONLY], ids=["psld", "cld"])


@EITHER
@pytest.mark.parametrize("key", KEYS)
def test_a_sample_is_the_direct_run(denoiser: fd.Denoiser, key: str) -> None:
    """From the prior of stream 1, register k by draw k, with the solver's draws by streams 0 and 9, in
    float64."""
    rng, shape, process = resolve(5, 3, "cpu"), (3, 2, 4), denoiser.process
    z = [normal(shape, rng, k, INITIAL, dtype=torch.float64) * (1, 0.5)[k] for k in range(2)]
    times = fd.grid("quadratic-t", process, steps=6)
    solver = solvers.make(key)

    def net(z: Any, node: Any) -> Vector:
        out = denoiser.net(*z, torch.full((3,), float(node.t), dtype=torch.float64))
        return Vector(out if isinstance(out, tuple) else [out])

    def noise(step: int, column: int) -> Tensor:
        return normal(shape, rng, step, column_stream(column), dtype=torch.float64)

    run = Direct(net, Vector(z), "noise", wanted=solver.predicts, noise=noise)
    solver.record(run, [process.node(float(t)) for t in times])
    x = fd.sample(denoiser, shape, solver=key, times=times, seeds=5, dtype=torch.float64)
    torch.testing.assert_close(x, run.x[0], rtol=1e-9, atol=1e-9)
    again = fd.sample(denoiser, z[0], solver=key, times=times, seeds=5, consts={"v": z[1]})
    torch.testing.assert_close(again, x, rtol=0, atol=0)


@EITHER
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_same_bits_everywhere(denoiser: fd.Denoiser, dtype: torch.dtype) -> None:
    """Alone, in any batch, in chunks, by either backend."""
    for key in ("em", "sscs", "strang"):
        some = {"solver": key, "steps": 4, "dtype": dtype}
        x = fd.sample(denoiser, (5, 3), seeds=1, **some)
        assert x.dtype == dtype and torch.isfinite(x).all()
        for other in (
            fd.sample(denoiser, (5, 3), seeds=1, backend="reference", **some),
            fd.sample(denoiser, (5, 3), seeds=1, chunk=2, **some),
            torch.cat([fd.sample(denoiser, (1, 3), seeds=fd.Seeds(1, ids=[i]), **some) for i in range(5)]),
        ):
            assert torch.equal(x, other), key


def test_registers_are_independent() -> None:
    """Two draws of one seed, of size 1 and M^{1/2}; the solver's draws again others."""
    seen: list[tuple[Tensor, Tensor]] = []

    def net(x: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((x.clone(), v.clone()))
        return x, v

    fd.sample(fd.Denoiser(net, PSLD, predicts="noise"), (40_000,), solver="em", times=[1.0, 0.999], seeds=0)
    x, v = seen[0]
    n = len(x)
    assert (
        abs(float(x.std()) - 1) <= 5 / (2 * n) ** 0.5
        and abs(float(v.std()) - 0.5) <= 0.5 * 5 / (2 * n) ** 0.5
    )
    assert abs(float((x * v).mean())) <= 5 * 0.5 / n**0.5


def test_a_prior_that_mixes_registers() -> None:
    prior = ((1.0, 0.4), (0.4, 0.5))
    process = P.LinearSDE(drift=[[-1, 0], [0, -1]], noise=[[1, 0], [0, 1]], prior=prior, conditioning="dsm")
    seen: list[Tensor] = []

    def net(x: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(torch.stack([x, v]).clone())
        return x, v

    fd.sample(fd.Denoiser(net, process, predicts="score"), (100_000,), solver="em", times=[1.0, 0.5], seeds=0)
    error = np.sqrt((np.outer(np.diag(prior), np.diag(prior)) + np.square(prior)) / 100_000)
    assert (np.abs(np.cov(seen[0].double().numpy()) - prior) <= 5 * error).all()


@pytest.mark.parametrize("process", [PSLD, CLD, P.MALDA()], ids=lambda p: p.key)
@pytest.mark.parametrize("predicts", ["noise", "score", "data"])
def test_samples_have_the_law_of_the_data(process: Any, predicts: str) -> None:
    """Mean and variance of 20000 within 5 standard errors and the solver's own bias: strang's, 1e-2 at 40
    steps."""
    denoiser = fd.Denoiser(PhaseMixture(MIXTURE, process).net(predicts), process, predicts=predicts)
    x = fd.sample(denoiser, (20_000,), solver="strang", steps=40, grid="quadratic-t", seeds=0).double()
    mean = float((MIXTURE.weights * MIXTURE.means).sum())
    second = float((MIXTURE.weights * (MIXTURE.means**2 + MIXTURE.stds**2)).sum())
    variance = second - mean**2
    assert abs(float(x.mean()) - mean) <= 5 * (variance / 20_000) ** 0.5 + 0.01
    assert abs(float(x.var()) - variance) <= 5 * (2 / 20_000) ** 0.5 * variance + 0.02


# what comes besides x


@EITHER
def test_trajectory(denoiser: fd.Denoiser) -> None:
    """v at every time; a run from the middle goes on as the whole did."""
    times = fd.grid("uniform-t", denoiser.process, steps=6)
    t = fd.sample(denoiser, (3, 2), solver="heun", times=times, seeds=2, trajectory=True, dtype=torch.float64)
    v = t.registers["v"]
    assert list(t.registers) == ["v"] and v.shape == t.states.shape == (7, 3, 2) and t.data.shape == (6, 3, 2)
    assert torch.equal(t.x, t.states[-1])
    plain = fd.sample(denoiser, (3, 2), solver="heun", times=times, seeds=2, dtype=torch.float64)
    torch.testing.assert_close(t.x, plain, rtol=1e-10, atol=1e-10)
    rest = fd.sample(
        denoiser, t.states[2], solver="heun", times=times[2:], consts={"v": v[2]}, trajectory=True
    )
    torch.testing.assert_close(rest.x, t.x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rest.registers["v"][-1], v[-1], rtol=1e-12, atol=1e-12)
    parts = fd.sample(
        denoiser, (3, 2), solver="heun", times=times, seeds=2, trajectory=True, chunk=2, dtype=torch.float64
    )
    assert torch.equal(parts.registers["v"], v) and torch.equal(parts.data, t.data)


def test_the_data_prediction_of_a_trajectory() -> None:
    """E[x_0 | z] where the network tells it; else where x comes to with its noise held, which is the end
    too."""
    for process in (PSLD, CLD):
        oracle = PhaseMixture(MIXTURE, process)
        denoiser = fd.Denoiser(oracle.net("noise"), process, predicts="noise")
        t = fd.sample(denoiser, (9,), solver="em", steps=5, seeds=0, trajectory=True, dtype=torch.float64)
        z = [t.states[-2], t.registers["v"][-2]]
        if process is PSLD:
            torch.testing.assert_close(
                t.data[-1], oracle.expectations(z, t.times[-2])[1], rtol=1e-8, atol=1e-8
            )
            torch.testing.assert_close(
                denoiser(z[0], t.times[-2], consts={"v": z[1]}), t.data[-1], rtol=1e-8, atol=1e-8
            )
        else:
            torch.testing.assert_close(t.data[-1], t.x, rtol=1e-10, atol=1e-10)
            with pytest.raises(ValueError, match="without x gives no data"):
                denoiser(z[0], 0.5, consts={"v": z[1]})


@EITHER
def test_callback_and_progress(denoiser: fd.Denoiser) -> None:
    seen: list[tuple[int, float, Tensor, Tensor]] = []
    x = fd.sample(
        denoiser, (2, 3), solver="em", steps=4, seeds=0, callback=lambda *a: seen.append(a), progress=True
    )
    assert [(i, t) for i, t, *_ in seen] == [(0, 0.75), (1, 0.5), (2, 0.25), (3, 0.0)]
    assert torch.equal(seen[-1][2], x)


@EITHER
def test_stop_and_go_on(denoiser: fd.Denoiser, tmp_path: Path) -> None:
    made = fd.plan("sscs", denoiser.process, fd.grid("uniform-t", denoiser.process, steps=6))
    sampler, x, v = fd.Sampler(denoiser, made), torch.randn(3, 4), torch.randn(3, 4)
    whole = sampler(x, seeds=1, consts={"v": v})
    state = sampler(x, seeds=1, consts={"v": v}, stop=3)
    state.save(tmp_path / "state.pt")
    assert torch.equal(sampler(state), whole) and torch.equal(
        sampler(fd.State.load(tmp_path / "state.pt")), whole
    )
    made.save(tmp_path / "plan.json")
    loaded = fd.Sampler(denoiser, fd.Plan.load(tmp_path / "plan.json"))
    assert torch.equal(loaded(x, seeds=1, consts={"v": v}), whole)


@EITHER
def test_gradients(denoiser: fd.Denoiser) -> None:
    """To x, to v and to what is in cond, against central differences; stored or computed again."""
    made = fd.plan("heun", denoiser.process, [0.3, 0.2, 0.1])
    sampler, weight = fd.Sampler(denoiser, made), torch.randn(2, 3, dtype=torch.float64)
    inputs = [torch.randn(2, 3, dtype=torch.float64) for _ in range(2)] + [
        torch.tensor(0.3, dtype=torch.float64)
    ]

    def loss(x: Tensor, v: Tensor, shift: Tensor, gradient: str | None = "full") -> Tensor:
        y = sampler(x, consts={"v": v}, cond={"shift": shift}, cond_grad=True, gradient=gradient)
        return (weight * y).sum()

    for mode in ("full", "checkpoint"):
        leaves = [a.clone().requires_grad_() for a in inputs]
        got = torch.autograd.grad(loss(*leaves, gradient=mode), leaves)
        for k, g in enumerate(got):
            d = torch.randn_like(inputs[k])
            moved = [[a + e * d if i == k else a for i, a in enumerate(inputs)] for e in (1e-5, -1e-5)]
            slope = (loss(*moved[0], None) - loss(*moved[1], None)) / 2e-5
            torch.testing.assert_close(
                (g * d).sum(), slope, rtol=1e-6, atol=1e-6
            )  # (1e-5)^2 and 1e-16 / 1e-5


def test_the_adjoint_plan_is_the_gradient() -> None:
    """plan.transpose() with a linear network's own transpose, against autograd; with respect to x."""
    made = fd.plan("heun", PSLD, fd.grid("uniform-t", PSLD, steps=3))
    W = torch.randn(2, 2, dtype=torch.float64)
    sampler = fd.Sampler(
        fd.Denoiser(
            lambda x, v, t: (W[0, 0] * x + W[0, 1] * v, W[1, 0] * x + W[1, 1] * v), PSLD, predicts="noise"
        ),
        made,
    )
    x, v = torch.randn(2, 1, dtype=torch.float64).requires_grad_(), torch.randn(2, 1, dtype=torch.float64)
    (want,) = torch.autograd.grad(sampler(x, consts={"v": v}, gradient="full").sum(), x)
    adjoint = made.transpose()
    from fastdiff.core.interpret import interpret

    got = interpret(
        adjoint, lambda z, call, b: list(W.T @ torch.stack(list(z))), torch.ones(2, dtype=torch.float64)
    )
    torch.testing.assert_close(got, want[:, 0], rtol=1e-10, atol=1e-10)


# guidance


@EITHER
@pytest.mark.parametrize("separate", [False, True])
def test_guidance(denoiser: fd.Denoiser, separate: bool) -> None:
    """scale c + (1 - scale) u of every output, in one batch or, where conditions do not stack, one by one."""
    extra = {"shift": object()} if separate else {}

    def net(x: Tensor, v: Tensor, t: Tensor, y: Any = 0.0, shift: Any = None) -> Any:
        return denoiser.net(x, v, t, shift=y)

    def guided(x: Tensor, v: Tensor, t: Tensor) -> Any:
        c, u = (denoiser.net(x, v, t, shift=s) for s in (0.7, -0.2))
        return (
            3 * c - 2 * u
            if isinstance(c, Tensor)
            else tuple(3 * a - 2 * b for a, b in zip(c, u, strict=True))
        )

    process, some = denoiser.process, {"solver": "heun", "steps": 4, "seeds": 0, "dtype": torch.float64}
    cfg = fd.guidance.CFG(3.0, uncond={"y": -0.2, **extra})
    x = fd.sample(fd.Denoiser(net, process, predicts="noise"), (3, 2), cond={"y": 0.7}, guidance=cfg, **some)
    want = fd.sample(fd.Denoiser(guided, process, predicts="noise"), (3, 2), **some)
    torch.testing.assert_close(x, want, rtol=1e-9, atol=1e-9)
    made = fd.plan("heun", process, fd.grid("uniform-t", process, steps=4), guidance=cfg)
    assert made.nfe == 2 * fd.plan("heun", process, fd.grid("uniform-t", process, steps=4)).nfe


# what is refused


class Shift(fd.Hook):
    def predict(self, ctx: Any, xhat: Any) -> Any:
        return xhat


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: fd.sample(BOTH, (1, 2)), ValueError, "'dpmpp-2m' is for gaussian .* linear; .*conjugate"),
    (lambda: fd.sample(BOTH, (1, 2), solver="dpm-adaptive"), ValueError, "dpm-adaptive.* is linear"),
    (lambda: fd.sample(BOTH, (1, 2), solver="pf-ode", method="dopri5"), ValueError, "PSLD"),
    (lambda: fd.sample(BOTH, torch.zeros(1, 2), solver="em"), ValueError, "consts={'v': tensor like x}"),
    (lambda: fd.sample(BOTH, (1, 2), solver="em", consts={"w": torch.zeros(1, 2)}), ValueError, "has w"),
    (
        lambda: fd.sample(BOTH, (1, 2), solver="em", consts={"v": torch.zeros(1, 3)}),
        ValueError,
        r"consts\['v'\]",
    ),
    (lambda: fd.sample(BOTH, (1, 2), solver="em", noise="path"), ValueError, "noise='path'.*PSLD"),
    (lambda: fd.sample(BOTH, (1, 2), solver="em", grid="karras"), ValueError, "PSLD.*uniform-t"),
    (lambda: fd.sample(BOTH, (1, 2), solver="em", grid="logsnr"), ValueError, "PSLD.*uniform-t"),
    (lambda: fd.sample(BOTH, (1, 2), solver="em", hooks=[Shift()]), ValueError, "Shift acts at predict"),
    (
        lambda: fd.sample(BOTH, (1, 2), solver="em", guidance=fd.guidance.CFG(2.0, interval=(0.1, 1.0))),
        ValueError,
        "no alpha, sigma or lambda",
    ),
    (lambda: fd.sample(BOTH, (1, 2), solver="euler", churn=2.0), ValueError, "no alpha, sigma or lambda"),
    (lambda: fd.sample(VONLY, (1, 2), solver="ddim"), ValueError, "without x gives no data"),
    (
        lambda: fd.plan("em", PSLD, [1.0, 0.5], predicts="velocity"),
        ValueError,
        "velocity.*data, noise, score",
    ),
    (lambda: fd.Denoiser(pair, PSLD, predicts="flow"), ValueError, "flow.*noise"),
    (lambda: fd.Denoiser(pair, PSLD, precondition="edm"), ValueError, "precondition='edm'"),
    (lambda: fd.Denoiser(pair, PSLD, predicts="noise", variance="learned"), ValueError, "variance='learned'"),
    (lambda: fd.Denoiser(pair, PSLD, predicts="noise", time="sigma"), ValueError, "time='sigma'"),
    (
        lambda: fd.sample(fd.Denoiser(one, PSLD, predicts="noise"), (1, 2), solver="em"),
        TypeError,
        "2 tensors, got Tensor",
    ),
    (
        lambda: fd.sample(
            fd.Denoiser(lambda x, v, t: (x, v, x), PSLD, predicts="noise"), (1, 2), solver="em"
        ),
        TypeError,
        "2 tensors, got 3",
    ),
    (
        lambda: fd.sample(
            fd.Denoiser(lambda x, v, t: (x, v[:, :1]), PSLD, predicts="noise"), (1, 2), solver="em"
        ),
        ValueError,
        "returned shape",
    ),
    (
        lambda: fd.sample(
            fd.Denoiser(lambda x, v, t: (x, v.mul_(2)), PSLD, predicts="noise"), (1, 2), solver="em"
        ),
        ValueError,
        "changed its input in place",
    ),
    (
        lambda: fd.sample(
            fd.Denoiser(lambda x, v, t: (x, v / 0), PSLD, predicts="noise"),
            (1, 2),
            solver="em",
            check_finite=True,
        ),
        fd.NonFinite,
        "step 0",
    ),
    (lambda: fd.invert(BOTH, torch.zeros(1, 2)), ValueError, "linear"),
    (
        lambda: fd.Sampler(BOTH, fd.plan("em", PSLD, [1.0, 0.5])).capture(torch.zeros(1, 2)),
        ValueError,
        "wants v besides x",
    ),
    (lambda: BOTH(torch.zeros(1, 2), 0.5), ValueError, "consts={'v'"),
    (lambda: BOTH(torch.zeros(2, 2), [0.5, 0.6], consts={"v": torch.zeros(2, 2)}), ValueError, "one t"),
]


@pytest.mark.parametrize("call, error, match", BAD)
def test_what_is_refused(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_what_may_be_asked() -> None:
    """An index for a time, half precision inside the network, a noise callable, memory formats, an empty
    batch."""
    seen: list[tuple[torch.dtype, torch.dtype, float]] = []

    def net(x: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((v.dtype, t.dtype, float(t[0])))
        return x, v

    denoiser = fd.Denoiser(net, PSLD, predicts="noise", time=("index", 1000), x_dtype=torch.bfloat16)
    x = fd.sample(denoiser, (2, 3), solver="em", times=[1.0, 0.5, 0.1], seeds=0)
    assert x.dtype == torch.float32 and [s[1:] for s in seen] == [(torch.int64, 999), (torch.int64, 499)]
    assert seen[0][0] == torch.bfloat16
    asked: list[Any] = []

    def noise(like: Tensor, draw: Any) -> Tensor:
        asked.append((draw.step, draw.column, draw.s, draw.t))
        return torch.zeros_like(like)

    fd.sample(BOTH, (2, 3), solver="em", times=[1.0, 0.5, 0.1], seeds=0, noise=noise)
    assert asked == [(0, 0, 1.0, 0.5), (0, 1, 1.0, 0.5), (1, 0, 0.5, 0.1)], "nobody asks for the last v"
    z = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    plain = [fd.sample(BOTH, a, solver="em", steps=3, seeds=0, consts={"v": a}) for a in (z, z.contiguous())]
    assert torch.equal(*plain)
    assert fd.sample(BOTH, (0, 3), solver="sscs", steps=2, seeds=0).shape == (0, 3)
    row = fd.sample(BOTH, torch.zeros(3, 2), solver="heun", steps=2, consts={"v": torch.ones(1, 2)})
    assert torch.equal(row[0], row[2])
