"""Inversion: exact round trips where a solver has an inverse, the solver's own order where it has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.core.direct import Direct
from fastdiff.core.plan import plan
from fastdiff.core.process import Process, processes
from fastdiff.core.solver import solvers
from fastdiff.runtime.invert import Pair, carry, invert
from fastdiff.solvers._inverse import Inverse
from fastdiff.testing import GaussianMixture, order_of

VP, EDM, FLOW = (processes.get(k)() for k in ("vp", "edm", "flow-matching"))
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
GAUSSIAN = GaussianMixture([1.0], [0.5], [0.8])
REVERSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("edict", {}),
    ("edict", {"alternate": True}),
    ("bdia", {}),
    ("reversible-heun", {}),
]
ids = dict(ids=lambda v: v if isinstance(v, str) else getattr(v, "key", None) or "-".join(v) or "default")


def denoiser_of(process: Process, predicts: str = "flow", data: GaussianMixture = MIXTURE) -> fd.Denoiser:
    return fd.Denoiser(data.denoiser(process, predicts), process, predicts=predicts)


def pictures(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return MIXTURE.sample((64, 1), seed=3).to(dtype)


def back(denoiser: fd.Denoiser, pair: Pair, key: str, times: Any, **options: Any) -> torch.Tensor:
    held = {"second": pair.second}
    return fd.sample(denoiser, pair.x, solver=key, times=times, second="second", consts=held, **options)


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("key, options", REVERSIBLE, **ids)
@pytest.mark.parametrize("process", [VP, FLOW, EDM, processes.get("vp-cosine")()], **ids)
def test_up_and_down_again(process: Process, key: str, options: dict[str, Any]) -> None:
    """Fifty steps, to sigma = 0 and to t_min: 1e-10 in float64 and 1e-4 in float32.

    Two are not held to that in float32. EDICT with alternating leaders lets the chains drift apart by
    mix^{-2N} = 1400: three roundings of that. And BDIA on sigmas from 80: what one rounding of its pair at
    the noise is worth at the data, found in float64, is 6e-4 to 1.3e-3, so no arithmetic in between could
    keep to 1e-4; fifty steps round as often, sqrt(50) = 7 times that.
    """
    kinds = [("noise", "zero"), ("data", "sigma_min"), ("flow", "zero")]
    for predicts, final in kinds if process is VP else kinds[:2]:
        denoiser = denoiser_of(process, predicts)
        times = fd.grid(process.default_grid, process, steps=50, final=final).copy()
        times[0] *= 0.999 if predicts == "noise" and process.node(times[0]).pure else 1.0
        for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            x = pictures(dtype)
            up = invert(denoiser, x, key, times=times, **options)
            if dtype == torch.float32 and options:
                bound = 3 * 6e-8 / 0.93**100
            if dtype == torch.float32 and (key, process) == ("bdia", EDM):
                wide = invert(denoiser, x.double(), key, times=times)
                assert isinstance(wide, Pair)
                rounded = Pair(wide.x.float().double(), wide.second.float().double())
                worth = off(back(denoiser, rounded, key, times), x.double())
                assert worth > 1e-4
                bound = 7 * worth
            assert isinstance(up, Pair) and up.x.dtype == dtype
            assert off(back(denoiser, up, key, times, **options), x) <= bound, (predicts, final, dtype)


@pytest.mark.parametrize("key, options", REVERSIBLE, **ids)
@pytest.mark.parametrize("process", [VP, FLOW, EDM], **ids)
def test_down_and_up_again(process: Process, key: str, options: dict[str, Any]) -> None:
    """From noise: the pair at the data leads back to the start and to its second tensor."""
    denoiser, times = denoiser_of(process), fd.grid(process.default_grid, process, steps=30)
    x = torch.linspace(-2, 2, 16, dtype=torch.float64)[:, None] * process.prior_std(times[0])
    start = {"second": x + 0.1 if key == "edict" else x * 0.98}
    solver = solvers.make(key, second="second", **options)
    down, second = carry(denoiser, plan(solver, process, times, predicts="flow"), x, consts=start)
    assert second is not None
    again = invert(denoiser, Pair(down, second), key, times=times, **options)
    assert isinstance(again, Pair)
    scale = process.prior_std(times[0])
    assert off(again.x, x) <= 1e-10 * scale and off(again.second, start["second"]) <= 1e-10 * scale


def straight_through(steps: int) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Times, and x at both ends of the exact flow of the Gaussian: (x - alpha mean) / std_t stands still."""
    times = np.asarray(VP.time_of(np.linspace(-2.5, 2.5, steps + 1)))
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    s, t = VP.node(times[0]), VP.node(times[-1])
    ends = [v.alpha * 0.5 + z * ((v.alpha * 0.8) ** 2 + v.sigma**2) ** 0.5 for v in (s, t)]
    return times, ends[0], ends[1]


@pytest.mark.parametrize(
    "key, order",
    [("bdia", 2), ("reversible-heun", 2), ("ddim", 1), ("heun", 2), ("dpmpp-2m", 2), ("dpmpp-2s", 2)],
)
def test_inversion_finds_the_true_noise(key: str, order: int) -> None:
    """At the solver's own order. (EDICT does not: its inverse lets the chains drift apart by mix^{-2N}.)"""
    denoiser, errors, counts = denoiser_of(VP, data=GAUSSIAN), [], (60, 120)
    for n in counts:
        times, top, bottom = straight_through(n)
        up = invert(denoiser, bottom, key, times=times)
        errors.append(off(up.x if isinstance(up, Pair) else up, top))
    assert order_of(errors, counts) >= order - 0.2


@pytest.mark.parametrize(
    "key, options, order",
    [("bdia", {}, 2), ("bdia", {"gamma": 0.5}, 1), ("edict", {}, 1), ("edict", {"alternate": True}, 1),
     ("edict", {"mix": 0.8}, 1), ("reversible-heun", {}, 2)],
)  # fmt: skip
def test_orders_of_sampling(key: str, options: dict[str, Any], order: int) -> None:
    errors, counts = [], (80, 160)
    assert solvers.make(key, **options).order == order
    for n in counts:
        times, top, bottom = straight_through(n)
        y = fd.sample(denoiser_of(VP, data=GAUSSIAN), top, solver=key, times=times, **options)
        errors.append(off(y, bottom))
    assert abs(order_of(errors, counts) - order) <= 0.15


def test_the_released_codes_formulas() -> None:
    """BDIA as its authors' code writes it, and EDICT's equations, in noise predictions on VP."""
    times = np.asarray(VP.time_of(np.linspace(-2, 2, 9)))
    nodes = [VP.node(float(t)) for t in times]

    def eps(x: Any, s: Any) -> Any:
        return MIXTURE.expectations(x, s.alpha, s.sigma)[1]

    def ddim(x: Any, e: Any, s: Any, t: Any) -> Any:
        a = t.alpha / s.alpha
        return a * x + (t.sigma - a * s.sigma) * e

    start = np.linspace(-2, 2, 7)
    for gamma in (1.0, 0.7):
        path = [start, ddim(start, eps(start, nodes[0]), nodes[0], nodes[1])]
        for i in range(1, 8):
            e = eps(path[i], nodes[i])
            bw, fw = (ddim(path[i], e, nodes[i], nodes[j]) for j in (i - 1, i + 1))
            before = path[i - 1]
            step = before - (1 - gamma) * (before - path[i]) - gamma * (bw - path[i]) + (fw - path[i])
            path.append(step)
        d = Direct(lambda x, s: eps(x, s), start, "noise", wanted="slope")
        solvers.make("bdia", gamma=gamma).record(d, nodes)
        assert np.abs(d.x - path[-1]).max() <= 1e-12

    for alternate in (False, True):
        x, y, p = start, start, 0.93
        for i, (s, t) in enumerate(zip(nodes, nodes[1:], strict=False)):
            a, b = (y, x) if alternate and i % 2 else (x, y)
            a = ddim(a, eps(b, s), s, t)
            b = ddim(b, eps(a, s), s, t)
            a = p * a + (1 - p) * b
            b = p * b + (1 - p) * a
            x, y = (b, a) if alternate and i % 2 else (a, b)
        d = Direct(lambda x, s: eps(x, s), start, "noise", wanted="slope")
        solvers.make("edict", alternate=alternate).record(d, nodes)
        assert np.abs(d.x - x).max() <= 1e-12


def test_where_rounding_takes_over() -> None:
    """From noise down and up again the inverse magnifies rounding by gamma^{-N}, or by mix^{-2N} at most; a
    picture's own way up and down survives, as the way down takes back what the way up magnified."""
    x, denoiser = pictures(), denoiser_of(VP)
    for key, options, factor in (("edict", {"mix": 0.93}, 0.93**-2), ("bdia", {"gamma": 0.8}, 0.8**-1)):
        solver = solvers.make(key, second="second", **options)
        for n in (60, 140):
            times, magnified = fd.grid("logsnr", VP, steps=n), 2.2e-16 * factor**n
            top = {"second": fd.sample(denoiser, x, solver="ddim", times=times[:2]) if key == "bdia" else x}
            down, second = carry(denoiser, plan(solver, VP, times, predicts="flow"), x, consts=top)
            assert second is not None
            trip = off(invert(denoiser, Pair(down, second), key, times=times, **options).x, x)
            assert trip <= 100 * magnified and (key == "edict" or trip >= magnified / 100)
            up = invert(denoiser, x, key, times=times, **options)
            assert off(back(denoiser, up, key, times, **options), x) <= 1e-6


def test_calls_and_tensors() -> None:
    """Network calls of N steps, and two tensors carried both ways."""
    times = fd.grid("logsnr", VP, steps=10)
    for key, calls in (("edict", 20), ("bdia", 10), ("reversible-heun", 10)):
        for predicts in ("noise", "data"):
            made = plan(key, VP, times, predicts=predicts)
            assert made.nfe == calls and made.carried == made.bound == 2
            resumed = plan(key, VP, times, predicts=predicts, second="y")
            assert resumed.nfe == calls and resumed.carried == resumed.bound == 2
    assert plan("reversible-heun", VP, times[:-1]).nfe == 10


def test_guidance_conditions_and_consts() -> None:
    """Under classifier-free guidance, with tensors in cond, and on a process with a const of its own."""

    def net(x: torch.Tensor, t: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return MIXTURE.denoiser(VP, "noise")(x - 0.3 * shift, t)

    denoiser, x = fd.Denoiser(net, VP, predicts="noise"), pictures()
    cond = {"shift": torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None]}
    guidance = fd.guidance.CFG(2.0, uncond={"shift": torch.zeros(64, 1, dtype=torch.float64)})
    for key, options in REVERSIBLE:
        up = invert(denoiser, x, key, steps=20, cond=cond, guidance=guidance, **options)
        held = {"second": up.second}
        how: dict[str, Any] = {"steps": 20, "cond": cond, "guidance": guidance, "second": "second", **options}
        y = fd.sample(denoiser, up.x, solver=key, consts=held, **how)
        assert off(y, x) <= 1e-10
        assert torch.equal(y, fd.sample(denoiser, up.x, solver=key, consts=held, chunk=24, **how))

    reverting = processes.get("mean-reverting")()
    denoiser, consts = denoiser_of(reverting, "noise"), {"mu": torch.full_like(x, 0.4)}
    for key, options in REVERSIBLE:
        up = invert(denoiser, x, key, steps=20, consts=consts, **options)
        held = {**consts, "second": up.second}
        y = fd.sample(denoiser, up.x, solver=key, steps=20, consts=held, second="second", **options)
        assert off(y, x) <= 1e-10


def test_a_network_in_half_precision() -> None:
    """The states stay in float32, so that the way back is as exact as with any other network."""
    seen = set()

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.add(x.dtype)
        return MIXTURE.denoiser(FLOW, "flow")(x, t)

    denoiser = fd.Denoiser(net, FLOW, predicts="flow", x_dtype=torch.bfloat16)
    for key in ("bdia", "reversible-heun"):
        x, times = pictures(torch.float32), fd.grid("uniform-t", FLOW, steps=20)
        assert off(back(denoiser, invert(denoiser, x, key, times=times), key, times), x) <= 1e-4
    assert seen == {torch.bfloat16}


def test_a_pair_with_a_trajectory() -> None:
    denoiser, x = denoiser_of(VP), pictures()
    times = fd.grid("logsnr", VP, steps=8)
    up = invert(denoiser, x, "bdia", times=times)
    how: dict[str, Any] = {"solver": "bdia", "times": times, "second": "second"}
    out = fd.sample(denoiser, up.x, trajectory=True, consts={"second": up.second}, **how)
    assert off(out.x, x) <= 1e-12 and off(out.states[1], up.second) == 0
    assert off(out.data[-1], denoiser(out.states[-2], float(times[-2]))) <= 1e-12


# solvers without an inverse


def test_explicit_ddim_inversion_is_its_formula() -> None:
    """x_s = (alpha_s / alpha_t) x_t + (sigma_s - (alpha_s / alpha_t) sigma_t) eps(x_t, t); from sigma = 0 the
    network is asked at s, and to alpha = 0 nothing but sigma eps is left."""
    process = processes.get("vp-cosine")()
    times = np.array([process.t_max, 0.6, 0.3, 0.0])
    x = pictures()
    y, nodes = x.clone(), [process.node(float(t)) for t in times]
    for t, s in zip(nodes[::-1], nodes[-2::-1], strict=False):
        a = s.alpha / t.alpha
        at = s if t.sigma == 0 else t
        eps = MIXTURE.expectations(y * (a if at is s else 1), at.alpha, at.sigma)[1]
        y = a * y + (s.sigma - a * t.sigma) * eps
    for predicts in ("noise", "velocity", "flow"):
        assert off(invert(denoiser_of(process, predicts), x, times=times), y) <= 1e-12
    top = np.array([1.0, 0.5, 0.1])
    up = invert(denoiser_of(FLOW), x, times=top)
    mid = x / 0.9 * 0.5 + (0.5 - 0.5 / 0.9 * 0.1) * MIXTURE.expectations(x, 0.9, 0.1)[1]
    assert off(up, MIXTURE.expectations(mid, 0.5, 0.5)[1]) <= 1e-12


@pytest.mark.parametrize("process", [VP, FLOW, EDM], **ids)
def test_iterations_make_it_exact(process: Process) -> None:
    """Twenty iterations of DDIM on Gaussian data, twenty steps: the round trip falls below 1e-8; five of Heun
    take it down by 100; a call for each stage of each iteration."""
    x = torch.linspace(-1, 2, 9, dtype=torch.float64)[:, None]
    denoiser = denoiser_of(process, data=GAUSSIAN)
    times = fd.grid(process.default_grid, process, steps=20, final="sigma_min")
    for key, counts in (("ddim", (0, 3, 20)), ("heun", (0, 5))):
        trips = []
        for iterations in counts:
            up = invert(denoiser, x, key, times=times, iterations=iterations)
            trips.append(off(fd.sample(denoiser, up, solver=key, times=times), x))
        assert trips[1] < trips[0] / 10
        assert trips[-1] <= (1e-8 if key == "ddim" else trips[0] / 100)
    made = plan(Inverse(solvers.make("heun"), 3), process, times, predicts="data")
    pure = bool(process.node(times[0]).pure)  # one call to alpha = 0, whatever the solver
    assert made.nfe == 20 * 2 - pure + 3 * 20 * 2


def test_to_the_data_exactly_where_the_noise_is_known() -> None:
    """With data at one point the flow is a straight line, so that explicit inversion is exact already."""
    point = GaussianMixture([1.0], [0.4], [1e-9])
    for process in (VP, EDM, FLOW):
        times = fd.grid(process.default_grid, process, steps=7, final="sigma_min")
        t = process.node(times[-1])
        x = t.alpha * 0.4 + t.sigma * torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
        s = process.node(times[0])
        up = invert(denoiser_of(process, "data", point), x, times=times)
        exact = s.alpha * 0.4 + s.sigma * torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
        assert off(up, exact) <= 1e-5 * s.sigma  # 1e-9 / sigma_min of the data's width


def test_a_plan_brings_its_solver_times_and_hooks() -> None:
    denoiser, x = denoiser_of(VP, "noise"), pictures()
    times = fd.grid("logsnr", VP, steps=9)
    made = fd.plan("heun", VP, times)
    assert torch.equal(invert(denoiser, x, made), invert(denoiser, x, "heun", times=times))
    up = invert(denoiser, x, fd.plan("bdia", VP, times, second="y"))
    assert off(back(denoiser, up, "bdia", times), x) <= 1e-11
    with pytest.raises(ValueError, match="leave the others out"):
        invert(denoiser, x, made, times=times)
    with pytest.raises(ValueError, match="the plan is for"):
        invert(denoiser_of(EDM, "noise"), x, made)


def test_what_cannot_be_inverted() -> None:
    denoiser, x = denoiser_of(VP), pictures()
    for wrong, match in (
        ({"solver": "ddpm"}, "draws noise"),
        ({"solver": "ddim", "eta": 0.5}, "draws noise"),
        ({"solver": "dpmpp-2m", "iterations": 2}, "one-step"),
        ({"solver": "edict", "iterations": 1}, "exactly"),
        ({"iterations": -1}, "iterations"),
        ({"iterations": True}, "iterations"),
        ({"solver": "ddmi"}, "ddim"),
        ({"grid": "karras", "times": [1.0, 0.5]}, "not both"),
    ):
        with pytest.raises(ValueError, match=match):
            invert(denoiser, x, **wrong)
    with pytest.raises(ValueError, match="float32 or float64"):
        invert(denoiser, x.half(), "bdia")
    with pytest.raises(ValueError, match="one state"):
        invert(denoiser, Pair(x, x), "ddim")
    with pytest.raises(TypeError, match="x0"):
        invert(denoiser, x.tolist())
    with pytest.raises(TypeError, match="denoiser"):
        invert(lambda x, t: x, x)
    with pytest.raises(ValueError, match="keeps nothing of the data"):
        invert(denoiser_of(FLOW), x, "euler", times=[1.0, 0.0])
    with pytest.raises(ValueError, match="alpha = 0"):
        terminal = processes.get("zero-terminal-snr")()
        invert(denoiser_of(terminal), x, "reversible-heun", steps=5)
    for key, bad in (("edict", {"mix": 0.2}), ("bdia", {"gamma": 0.0}), ("bdia", {"gamma": 1.5})):
        with pytest.raises(ValueError, match=next(iter(bad))):
            solvers.make(key, **bad)
    with pytest.raises(ValueError, match="second"):
        fd.sample(denoiser, x, solver="edict", second="second", steps=4)
