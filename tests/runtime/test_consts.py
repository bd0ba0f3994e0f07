"""Consts (`mu` of a mean-reverting process, `x_T` of a bridge) through the whole runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
import fastdiff.processes as P
from fastdiff.core.direct import Direct
from fastdiff.core.solver import solvers

PROCESSES = [P.MeanReverting(0.4), P.OUVE(), P.DiffusionBridge()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.key)
METHODS: list[tuple[str, Any]] = [("dpmpp-2m", {}), ("ddpm", {}), ("unipc", {}), ("ddim", {"eta": 0.5})]
every_method = pytest.mark.parametrize("key, options", METHODS, ids=[k for k, _ in METHODS])


def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.tanh(1.3 * x - t.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))) + 0.2 * x


def denoiser(process: fd.core.process.Process, predicts: str = "data") -> fd.Denoiser:
    return fd.Denoiser(net, process, predicts=predicts)


def times(process: Any, predicts: str = "data") -> list[float]:
    top = 0.98 if predicts != "data" else 1.0
    return [process.t_max * u for u in (top, 0.7, 0.5, 0.3, 0.1, 0.0)]


def tensors(shape: tuple[int, ...] = (6, 3, 4), dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(2)]


@every_process
@every_method
@pytest.mark.parametrize("predicts", ["data", "noise", "velocity", "flow", "score"])
def test_is_the_formula(process: Any, key: str, options: dict[str, Any], predicts: str) -> None:
    """fd.sample against the formula run step by step on the same tensors, to float64's rounding times what
    the conversions of the first node cost."""
    x, c = tensors()
    grid = times(process, predicts)
    out = fd.sample(
        denoiser(process, predicts), x, solver=key, times=grid, seeds=3, consts={process.const: c}, **options
    )

    def noise(step: int, column: int) -> torch.Tensor:
        return fd.noise.normal(x.shape, 3, draw=step, stream=0, dtype=torch.float64)

    solver = solvers.make(key, **options)
    p = Direct(
        lambda x, n: net(x, torch.full((6,), float(n.t), dtype=torch.float64)),
        x,
        predicts,
        wanted=solver.predicts,
        noise=noise,
        consts={process.const: c},
    )
    solver.record(p, [process.node(t) for t in grid])
    size = max(1.0, float(p.x.abs().max()))
    assert (out - p.x).abs().max() < 1e-12 * size / min(1.0, float(process.alpha(grid[0])) or 1.0)


@every_process
@every_method
def test_a_sample_is_its_own(process: Any, key: str, options: dict[str, Any]) -> None:
    """Chunks, one row for all, and the row of a batch alone give the same bits."""
    den, (x, c) = denoiser(process), tensors(dtype=torch.float32)
    how: dict[str, Any] = {"solver": key, "times": times(process), **options}
    whole = fd.sample(den, x, seeds=1, consts={process.const: c}, **how)
    for chunk in (1, 4):
        assert torch.equal(fd.sample(den, x, seeds=1, consts={process.const: c}, chunk=chunk, **how), whole)
    one = fd.sample(den, x[2:3], seeds=fd.Seeds(1, ids=[2]), consts={process.const: c[2:3]}, **how)
    assert torch.equal(one[0], whole[2])
    wide = fd.sample(den, x, seeds=1, consts={process.const: c[:1]}, **how)
    assert torch.equal(wide, fd.sample(den, x, seeds=1, consts={process.const: c[:1].expand_as(c)}, **how))
    assert torch.equal(fd.sample(den, x, seeds=1, consts={process.const: c[:1]}, chunk=4, **how), wide)


@every_process
def test_a_shape_starts_at_the_prior(process: Any) -> None:
    """x at times[0] is prior_std z + offset c with z of stream 1, in chunks too."""
    den, (_, c) = denoiser(process), tensors()
    how: dict[str, Any] = {"times": times(process), "seeds": 1, "consts": {process.const: c}}
    T = process.t_max
    z = fd.noise.normal(c.shape, 1, stream=1, dtype=torch.float64)
    x = process.prior_std(T) * z + process.offset(T) * c
    want = fd.sample(den, x, **how)
    for chunk in (None, 4):
        out = fd.sample(den, tuple(c.shape), dtype=torch.float64, chunk=chunk, **how)
        assert torch.allclose(out, want, rtol=1e-13, atol=1e-13)


@every_process
@every_method
def test_stop_and_go_on(process: Any, key: str, options: dict[str, Any], tmp_path: Any) -> None:
    """A State takes the const along where a later stage reads it; the rest of the run gives the same bits."""
    den, (x, c) = denoiser(process), tensors(dtype=torch.float32)
    sampler = fd.Sampler(den, fd.plan(key, process, times(process), predicts="data", **options))
    whole = sampler(x, seeds=1, consts={process.const: c})
    for stop in (1, 3):
        state = sampler(x, seeds=1, consts={process.const: c}, stop=stop)
        state.save(tmp_path / "state")
        loaded = type(state).load(tmp_path / "state")
        assert torch.equal(sampler(state), whole) and torch.equal(sampler(loaded), whole)
        assert torch.equal(sampler(state, consts={process.const: c}), whole)
    wide = sampler(x, seeds=1, consts={process.const: c[:1]})
    assert torch.equal(sampler(sampler(x, seeds=1, consts={process.const: c[:1]}, stop=3)), wide)


@every_process
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves(process: Any, dtype: torch.dtype) -> None:
    """A state is rounded once a step, and so is what the network is given: within N + 1 roundings of numbers
    of the size of x (times the 1.5 of the network's slope, for each)."""
    x, c = tensors(dtype=dtype)
    how: dict[str, Any] = {"solver": "ddim", "times": times(process)}
    out = fd.sample(denoiser(process), x, seeds=1, consts={process.const: c}, **how)
    exact = fd.sample(denoiser(process), x.double(), seeds=1, consts={process.const: c.double()}, **how)
    assert out.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert (out.double() - exact).abs().max() < 6 * eps * 1.5 * max(1.0, float(exact.abs().max()))


@every_process
@every_method
def test_looking_on(process: Any, key: str, options: dict[str, Any]) -> None:
    """A trajectory shows whole x and ends in the plain result; a callback sees the same."""
    den, (x, c) = denoiser(process), tensors()
    seen: list[torch.Tensor] = []
    how: dict[str, Any] = {"solver": key, "times": times(process), "seeds": 1, "consts": {process.const: c}}
    plain = fd.sample(den, x, **how, **options)
    t = fd.sample(den, x, trajectory=True, **how, **options)
    fd.sample(den, x, callback=lambda step, t, x, data: seen.append(x.clone()), **how, **options)
    assert torch.allclose(t.x, plain, rtol=1e-13, atol=1e-13)
    assert torch.equal(t.states[-1], t.x) and torch.equal(torch.stack(seen), t.states[1:])
    assert torch.equal(t.states[0], x)


@every_process
@every_method
@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
def test_gradients_reach_the_const(process: Any, key: str, options: dict[str, Any], gradient: str) -> None:
    """Autograd against central differences of 1e-6, good to 1e-12 third derivatives plus 1e-16 / 1e-6."""
    den, (x, c) = denoiser(process), tensors((2, 3))
    weight = torch.cos(torch.arange(6.0, dtype=torch.float64)).reshape(2, 3)

    def value(c: torch.Tensor, mode: str | None = None) -> torch.Tensor:
        how: dict[str, Any] = {"solver": key, "times": times(process), "seeds": 1, "gradient": mode}
        return (fd.sample(den, x, consts={process.const: c}, **how, **options) * weight).sum()

    for shape in ((2, 3), (1, 3)):
        mu = c[: shape[0]].clone().requires_grad_(True)
        (g,) = torch.autograd.grad(value(mu, gradient), [mu])
        for i, j in np.ndindex(*shape):
            step = torch.zeros(shape, dtype=torch.float64)
            step[i, j] = 1e-6
            slope = (value(mu.detach() + step) - value(mu.detach() - step)) / 2e-6
            assert float(g[i, j]) == pytest.approx(float(slope), rel=1e-7, abs=1e-8)
    assert not value(mu).requires_grad


@every_process
def test_guidance_and_hooks(process: Any) -> None:
    """Classifier-free guidance of a network that ignores its condition is the plain run, and a state hook
    sees x as the user does: with the offset."""
    x, c = tensors()
    steps: list[torch.Tensor] = []

    class Look(fd.Hook):
        def state(self, ctx: Any, x: torch.Tensor) -> torch.Tensor:
            steps.append(x.clone())
            return x

    den = fd.Denoiser(lambda x, t, y=None: net(x, t), process, predicts="data")
    how: dict[str, Any] = {"times": times(process), "seeds": 1, "consts": {process.const: c}}
    plain = fd.sample(den, x, trajectory=True, **how)
    guided = fd.sample(den, x, guidance=fd.guidance.CFG(3.0), cond={"y": None}, **how)
    assert torch.allclose(guided, plain.x, rtol=1e-12, atol=1e-12)
    fd.sample(den, x, hooks=[Look()], **how)
    assert torch.allclose(torch.stack(steps), plain.states[1:], rtol=1e-12, atol=1e-12)


@every_process
def test_wrong_consts(process: Any) -> None:
    den, (x, c) = denoiser(process), tensors(dtype=torch.float32)
    name = process.const

    def sample(**more: Any) -> None:
        fd.sample(den, x, times=times(process), seeds=0, **more)

    with pytest.raises(ValueError, match=rf"this plan wants consts=\{{'{name}': tensor like x\}}; got \[\]"):
        sample()
    with pytest.raises(ValueError, match=f"consts has nu; this plan wants {name}"):
        sample(consts={name: c, "nu": c})
    with pytest.raises(TypeError, match="consts must be a dict of tensors by name, got Tensor"):
        sample(consts=c)
    with pytest.raises(TypeError, match=rf"consts\['{name}'\] must be a tensor, got float"):
        sample(consts={name: 1.0})
    for wrong in (c[:2], c[:, :2], c[0], torch.zeros(6, 3, 4, 1)):
        came = rf"consts\['{name}'\] is \({wrong.shape[0]},.* on cpu; need \(6, 3, 4\)"
        with pytest.raises(ValueError, match=came):
            sample(consts={name: wrong})
    with pytest.raises(ValueError, match="float64, x is torch.float32; cast one of them"):
        sample(consts={name: c.double()})
    with pytest.raises(ValueError, match="this plan wants none"):
        vp = fd.Denoiser(net, P.VP(), predicts="data")
        fd.sample(vp, x, steps=3, consts={name: c})


def test_the_const_is_left_as_it_is() -> None:
    process, (x, c) = PROCESSES[0], tensors()
    before, den = (c.clone(), x.clone()), denoiser(process)
    for key, options in METHODS:
        fd.sample(den, x, solver=key, times=times(process), seeds=0, consts={"mu": c}, **options)
    assert torch.equal(c, before[0]) and torch.equal(x, before[1])
    turned = c.transpose(0, 1).contiguous().transpose(0, 1)
    how: dict[str, Any] = {"times": times(process), "seeds": 0}
    out = [fd.sample(denoiser(process), x, consts={"mu": m}, **how) for m in (c, turned)]
    assert torch.equal(*out)


@pytest.mark.parametrize("predicts", ["noise", "data", "velocity", "score", "flow"])
def test_perturb_and_denoiser_know_the_const(predicts: str) -> None:
    """x_t = mu + alpha (x0 - mu) + sigma eps, and the prediction made of x0 and eps leads back to x0.
    float64: some ten roundings of numbers up to 10."""
    process = fd.processes.MeanReverting()
    x0, mu = (fd.noise.normal((5, 3), seed, dtype=torch.float64) for seed in (1, 2))
    t = torch.linspace(0.2, 0.9, 5, dtype=torch.float64) * process.t_max
    x, eps = process.perturb(x0, t, seeds=3, consts={"mu": mu})
    a, s, da, ds = (torch.as_tensor(f(t.numpy()))[:, None] for f in (
        process.alpha, process.sigma, process.dalpha, process.dsigma))  # fmt: skip
    torch.testing.assert_close(x, mu + a * (x0 - mu) + s * eps, atol=1e-13, rtol=1e-13)
    out = {"noise": eps, "data": x0, "velocity": a * eps - s * x0, "score": -eps / s,
           "flow": da * (x0 - mu) + ds * eps}[predicts]  # fmt: skip
    denoiser = fd.Denoiser(lambda x, t: out, process, predicts=predicts)
    torch.testing.assert_close(denoiser(x, t, consts={"mu": mu}), x0, atol=1e-12, rtol=1e-12)
    with pytest.raises(ValueError, match="mu"):
        denoiser(x, t)
    with pytest.raises(ValueError, match="mu"):
        process.perturb(x0, t)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("shape", [(5, 3), (3,), (2, 4)])
def test_a_const_of_another_shape_is_said_where_x_is_drawn(shape: tuple[int, ...], chunk: int | None) -> None:
    denoiser = fd.Denoiser(lambda x, t: x, fd.processes.MeanReverting(), predicts="noise")
    with pytest.raises(ValueError, match="mu"):
        fd.sample(denoiser, (4, 3), steps=2, seeds=0, consts={"mu": torch.zeros(shape)}, chunk=chunk)
