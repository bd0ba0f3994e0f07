"""CFG++ against its published formulas, written out in the variables of the public code: x / alpha and
sigma / alpha, data predictions `m` (guided) and `u` (unconditional)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.core.direct import Direct
from fastdiff.core.plan import plan
from fastdiff.core.process import Process, processes
from fastdiff.core.solver import solvers
from fastdiff.guidance import CFG, Clip
from fastdiff.testing import GaussianMixture

VP, EDM, FLOW = (processes.get(k)() for k in ("vp", "edm", "flow-matching"))
COND = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
UNCOND = GaussianMixture([0.5, 0.5], [-1.6, 0.4], [0.6, 0.9])
X = torch.linspace(-2.2, 2.2, 9, dtype=torch.float64).reshape(3, 3)
KEYS = ("euler", "euler-a", "ge", "dpmpp-2m")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("euler", {}),
    ("euler-a", {}),
    ("euler-a", {"eta": 0.6, "s_noise": 1.1}),
    ("ge", {}),
    ("ge", {"gamma": 1.5}),
    ("dpmpp-2m", {"lower_order_final": "never"}),
    ("dpmpp-2m", {"lower_order_final": "never", "weight": "heun"}),
    ("dpmpp-2m", {"lower_order_final": "never", "legacy": True}),
]


def draw(step: int, column: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([step + 1, column]).standard_normal(X.shape))


def grid(process: Process, steps: int = 8) -> np.ndarray:
    return fd.grid(process.default_grid, process, steps=steps, final="zero")


def net_of(process: Process, predicts: str) -> Any:
    nets = [d.denoiser(process, predicts) for d in (COND, UNCOND)]
    return lambda x, t, which: nets[which](x, t)


def published(key: str, options: dict[str, Any], process: Process, times: np.ndarray, scale: float) -> Tensor:
    """ComfyUI's samplers; for `dpmpp-2m` without legacy the authors' own."""
    alpha, sigma = (np.asarray([float(f(t)) for t in times]) for f in (process.alpha, process.sigma))
    x, old, before = X * process.prior_std(times[0]) / alpha[0], None, 0.0
    for i in range(len(times) - 1):
        u = UNCOND.expectations(alpha[i] * x, alpha[i], sigma[i])[0]
        m = u + scale * (COND.expectations(alpha[i] * x, alpha[i], sigma[i])[0] - u)
        s, n = sigma[i] / alpha[i], sigma[i + 1] / alpha[i + 1]
        d = (x - u) / s
        if n == 0:
            x = m
        elif key == "euler":
            x = m + d * n
        elif key == "euler-a":
            up = min(n, options.get("eta", 1.0) * (n * n * (s * s - n * n) / (s * s)) ** 0.5)
            x = m + (n * n - up * up) ** 0.5 * d + options.get("s_noise", 1.0) * up * draw(i)
        elif key == "ge":
            x = m + d * n
            if old is not None:
                x = x + (options.get("gamma", 2.0) - 1) * (d - old) * (n - s)
            old = d
        else:
            h = np.log(s / n)
            x = m + np.exp(-h) * (x - u)
            if old is not None:
                c = 1 + np.expm1(-h) / h if "weight" in options else -np.expm1(-h) / 2
                x = x + c * h / before * ((m if options.get("legacy") else u) - old)
            old, before = u, h
    return x * alpha[-1]


@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("process", [VP, EDM], ids=lambda p: p.key)
@pytest.mark.parametrize("key, options", VARIANTS, ids=lambda v: v if isinstance(v, str) else str(v))
def test_the_published_formula(key: str, options: dict[str, Any], process: Process, scale: float) -> None:
    """At scale 1 the unconditional half has no weight in the guided prediction, and is run all the same; at
    scale 0 it is all there is, and the step the plain one. Rounding grows by 1 / alpha_T = 150 on VP and by
    sigma_T = 80 on EDM."""
    times = grid(process)
    net = net_of(process, "data")
    how = {"cond": {"which": 0}, "guidance": CFG(scale, uncond={"which": 1})}
    y = fd.sample(
        fd.Denoiser(net, process, predicts="data"),
        X * process.prior_std(times[0]),
        solver=key,
        times=times,
        cfg_pp=True,
        noise=lambda like, d: draw(d.step, d.column),
        seeds=0,
        **how,
        **options,
    )
    exact = published(key, options, process, times, scale)
    assert (y - exact).abs().max() <= 1e-12 * exact.abs().max()
    calls = plan(key, process, times, cfg_pp=True, guidance=how["guidance"], **options).nfe
    assert calls == {0.0: 8, 0.6: 16, 1.0: 15}[scale]  # to sigma = 0 nothing but the guided half counts


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("process", [VP, FLOW, processes.get("mean-reverting")()], ids=lambda p: p.key)
def test_every_prediction_and_the_direct_run(process: Process, key: str) -> None:
    """The same samples whatever the network predicts, and the formula run directly on the two halves. Where
    alpha = 0 only a data or flow prediction says anything."""
    times = grid(process, 6).copy()
    consts = {} if process.const is None else {process.const: X.flip(0).sin()}
    got = []
    for predicts in ("noise", "data", "velocity", "flow", "score"):
        times[0] = process.t_max * (1 - 1e-3 * (key != "euler"))
        if predicts in ("noise", "score") and process is FLOW and key == "euler":
            continue

        def seen(data: GaussianMixture, x: Tensor, t: Any, predicts: str = predicts) -> Tensor:
            c = consts.get(process.const)
            off = 0 if c is None else process.offset(float(t)) * c
            raw = data.denoiser(process, predicts)(x - off, t)
            return raw + process.doffset(float(t)) * c if c is not None and predicts == "flow" else raw

        def net(x: Tensor, t: Tensor, which: int, seen: Any = seen) -> Tensor:
            return seen((COND, UNCOND)[which], x, t[0])

        run = {"solver": key, "times": times, "cfg_pp": True, "consts": consts, "seeds": 0}
        y = fd.sample(
            fd.Denoiser(net, process, predicts=predicts),
            X,
            cond={"which": 0},
            guidance=CFG(0.7, uncond={"which": 1}),
            noise=lambda like, d: draw(d.step, d.column),
            **run,
        )
        got.append(y)

        def half(i: int, seen: Any = seen) -> Any:
            return lambda x, n: seen((COND, UNCOND)[i], x, float(n.t))

        solver, c, u = solvers.make(key, cfg_pp=True), half(0), half(1)
        d = Direct(
            lambda x, n, c=c, u=u: u(x, n) + 0.7 * (c(x, n) - u(x, n)),
            X,
            predicts,
            wanted=solver.predicts,
            noise=draw,
            consts=consts,
            branches=[c, u],
        )
        solver.record(d, [process.node(float(t)) for t in times])
        # 1 / alpha_T magnifies what noise predictions round
        assert (y - d.x).abs().max() <= 1e-10
    for other in got[1:]:
        assert (other - got[0]).abs().max() <= 1e-10


@pytest.mark.parametrize("key", KEYS)
def test_where_no_guidance_acts_it_is_the_plain_solver(key: str) -> None:
    """Without guidance, outside its interval, and under a threshold there too: to the last bit."""
    times, den = grid(VP), fd.Denoiser(COND.denoiser(VP, "noise"), VP, predicts="noise")
    run: dict[str, Any] = {"solver": key, "times": times, "seeds": 0}
    for more in ({}, {"hooks": [Clip(-1.0, 1.0)]}, {"guidance": CFG(0.7, interval=(1e8, 1e9))}):
        plain, pp = (fd.sample(den, X, **run, **more, **o) for o in ({}, {"cfg_pp": True}))
        assert torch.equal(plain, pp)


def test_a_threshold_bends_the_guided_half_alone() -> None:
    times = np.array([0.7, 0.4, 0.2])
    guidance = CFG(0.8, uncond={"which": 1})
    y = fd.sample(
        fd.Denoiser(net_of(VP, "data"), VP, predicts="data"),
        X,
        solver="euler",
        times=times,
        cfg_pp=True,
        cond={"which": 0},
        guidance=guidance,
        hooks=[Clip(-1.0, 1.0)],
    )
    x = X
    for s, t in zip(times, times[1:], strict=False):
        a, b = (float(f(s)) for f in (VP.alpha, VP.sigma))
        (c, _), (u, eps) = (d.expectations(x, a, b) for d in (COND, UNCOND))
        x = float(VP.alpha(t)) * (u + 0.8 * (c - u)).clip(-1, 1) + float(VP.sigma(t)) * eps
    assert (y - x).abs().max() <= 1e-13


def test_one_tensor_more_at_most() -> None:
    """One pass per call, and what the bound says is carried."""
    for key in KEYS:
        plain = plan(key, VP, grid(VP))
        for scale in (0.6, 1.0):
            made = plan(key, VP, grid(VP), cfg_pp=True, guidance=CFG(scale))
            assert made.carried == made.bound == plain.carried and len(made.stages) == len(plain.stages)


def test_a_gradient_goes_through_both_halves() -> None:
    """Against a difference quotient, in float64."""
    times, den = grid(VP, 5), fd.Denoiser(net_of(VP, "noise"), VP, predicts="noise")

    def run(x: Tensor) -> Tensor:
        how: dict[str, Any] = {"cond": {"which": 0}, "guidance": CFG(1.0, uncond={"which": 1})}
        return fd.sample(den, x, solver="dpmpp-2m", times=times, cfg_pp=True, gradient="full", **how)

    assert torch.autograd.gradcheck(run, (X.clone().requires_grad_(True),), atol=1e-6)


def test_what_has_no_form() -> None:
    with pytest.raises(ValueError, match="startup"):
        solvers.make("dpmpp-2m", cfg_pp=True, startup="single")
    with pytest.raises(ValueError, match="cfg_pp"):
        solvers.make("euler", cfg_pp="yes")
    with pytest.raises(ValueError, match="cfg_pp"):
        solvers.make("dpm2-a", cfg_pp=True)
