"""DPM-Solver-v3: what it is without statistics, its orders with any, its exactness on Gaussian data, and the
planes of coefficients against one element at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.core.direct import Direct
from fastdiff.core.interpret import interpret
from fastdiff.core.solver import solvers
from fastdiff.testing import GaussianMixture, order_of, pf_ode
from fastdiff.tune import ModelStatistics

VP = fd.processes.VP()
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
POINTS = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)[:, None]
LAM = np.linspace(-5.1, 4.7, 121)
VARIANTS: list[dict[str, Any]] = [
    {"order": 1, "use_corrector": False},
    {"order": 2, "use_corrector": False},
    {"order": 2},
    {},
    {"p_pseudo": True},
    {"c_pseudo": True},
    {"startup": "single"},
]


def mixture(predicts: str = "noise") -> fd.Denoiser:
    return fd.Denoiser(MIXTURE.denoiser(VP, predicts), VP, predicts=predicts)


def constant(l: float, s: float = 0.0, b: float = 0.0) -> ModelStatistics:  # noqa: E741
    one = np.ones(len(LAM))
    return ModelStatistics(LAM, l * one, s * one, b * one)


def wild(groups: tuple[int, ...], seed: int = 1, degenerate: bool = True) -> ModelStatistics:
    """Smooth numbers of no meaning; the last group is the degenerate one, another has l = 0."""
    rng, lam = np.random.default_rng(seed), LAM.reshape(-1, *[1] * len(groups))
    l, s, b = (  # noqa: E741
        0.5 + 0.4 * np.tanh(lam + rng.normal(size=groups)),
        0.3 * np.sin(lam * rng.uniform(0.5, 1.5, groups)),
        0.2 * np.cos(lam + rng.normal(size=groups)),
    )
    if degenerate:
        flat = [v.reshape(len(LAM), -1) for v in (l, s, b)]
        for v, end in zip(flat, (1, 0, 0), strict=True):
            v[:, -1] = end
        flat[0][:, 1] = 0
    return ModelStatistics(LAM, l, s, b)


@pytest.mark.parametrize(
    "order, key, options", [(1, "ddim", {}), (2, "dpmpp-2m", {"weight": "heun"}), (3, "dpmpp-3m", {})]
)
def test_the_degenerate_predictor_is_dpm_solver_pp(order: int, key: str, options: dict[str, Any]) -> None:
    """l = 1, s = b = 0: the same plan in exact numbers; integrals over curves differ by rounding."""
    how = {"steps": 12, "final": "sigma_min"}
    want = fd.sample(mixture(), POINTS, solver=key, **how, **options)
    own = {"order": order, "use_corrector": False, "lower_order_final": "auto"}
    for statistics in (None, constant(1.0)):
        got = fd.sample(mixture(), POINTS, solver="dpm-v3", statistics=statistics, **how, **own)
        assert (got - want).abs().max() < 1e-12


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"use_corrector": False},
        {},
        {"p_pseudo": True},
        {"c_pseudo": True},
        {"p_pseudo": True, "use_corrector": False},
    ],
)
def test_order_with_any_statistics(order: int, options: dict[str, Any]) -> None:
    """The parameterisation is exact for every l, s, b, so numbers of no meaning must not change the limit.
    4000 nodes: kinks at the nodes are of size 1e-6 then."""
    lam = np.linspace(-2.6, 2.6, 4001)
    held = ModelStatistics(lam, 0.9 + 0.1 * np.tanh(lam), 0.3 * np.cos(lam), 0.2 * np.sin(2 * lam))
    solver = solvers.make(
        "dpm-v3", order=order, statistics=held, startup="single", lower_order_final="never", **options
    )
    errors, steps = [], (80, 160)
    for n in steps:
        times = np.asarray(VP.time_of(np.linspace(-2.5, 2.5, n + 1)))
        exact = pf_ode(MIXTURE, VP, POINTS, float(times[0]), float(times[-1]))
        p = Direct(lambda x, n: MIXTURE.expectations(x, n.alpha, n.sigma)[0], POINTS, "data")
        solver.record(p, [VP.node(float(t)) for t in times])
        errors.append(float((p.x - exact).abs().max()))
    assert abs(order_of(errors, steps) - (solver.order + solver.corrects)) < 0.25


def exact_statistics(mean: float, std: float, nodes: int) -> tuple[np.ndarray, ...]:
    lam = np.linspace(-4.0, 4.0, nodes)
    n = [VP.node(float(t)) for t in np.asarray(VP.time_of(lam))]
    alpha, sigma = (np.array([getattr(v, k) for v in n]) for k in ("alpha", "sigma"))
    V = alpha**2 * std**2 + sigma**2
    # with r = sigma^2 / alpha^2 and r' = -2 r: -(sigma^2 mean / V)' = 2 r std^2 mean / (std^2 + r)^2
    r = (sigma / alpha) ** 2
    return lam, sigma**2 / V, 0 * lam, 2 * r * std**2 * mean / (std**2 + r) ** 2


def test_gaussian_data_are_exact_in_any_number_of_steps() -> None:
    """With l = sigma^2 / V, s = 0, b = d(-sigma^2 mu / V) f is constant along the flow: order 1 is exact but
    for the straight lines between nodes, whose error falls by 4 with their spacing."""
    means, stds = (0.7, -1.0), (0.4, 1.3)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].expand(9, 2).contiguous()

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = (f(t).view(-1, 1) for f in (VP.alpha, VP.sigma))
        return s * (x - a * x.new_tensor(means)) / (a**2 * x.new_tensor(stds) ** 2 + s**2)

    errors = []
    for nodes in (301, 601, 1201):
        parts = [exact_statistics(m, sd, nodes) for m, sd in zip(means, stds, strict=True)]
        held = ModelStatistics(parts[0][0], *(np.stack([p[i] for p in parts], 1) for i in (1, 2, 3)))
        ends, got = [VP.node(float(VP.time_of(v))) for v in (-4.0, 4.0)], []
        for steps in (1, 4):
            times = np.asarray(VP.time_of(np.linspace(-4.0, 4.0, steps + 1)))
            denoiser = fd.Denoiser(net, VP, predicts="noise")
            got.append(fd.sample(denoiser, x, solver="dpm-v3", order=1, statistics=held, times=times))
        s, t = ends
        exact = torch.stack(
            [
                t.alpha * m
                + math.sqrt((t.alpha**2 * sd**2 + t.sigma**2) / (s.alpha**2 * sd**2 + s.sigma**2))
                * (x[:, i] - s.alpha * m)
                for i, (m, sd) in enumerate(zip(means, stds, strict=True))
            ],
            1,
        )
        errors.append(max(float((g - exact).abs().max()) for g in got))
    assert errors[-1] < 1e-5
    assert all(abs(math.log2(a / b) - 2) < 0.1 for a, b in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(o) or "default")
@pytest.mark.parametrize("predicts, final", [("noise", "zero"), ("data", "sigma_min"), ("data", "zero")])
def test_planes_are_one_element_at_a_time(predicts: str, final: str, options: dict[str, Any]) -> None:
    """A plan with planes against the formula in float64, and against plans of a single group each, which are
    compiled in 60 digits. Steps amplify rounding by their coefficients, up to 200, a few times: 1e-11."""
    K, held = 6, wild((6,))
    x = torch.randn(5, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    how: dict[str, Any] = {"steps": 8, "final": final, **options}
    y = fd.sample(mixture(predicts), x, solver="dpm-v3", statistics=held, **how)
    alone = [
        fd.sample(
            mixture(predicts), x[:, i : i + 1], solver="dpm-v3", **how,
            statistics=ModelStatistics(LAM, held.l[:, i], held.s[:, i], held.b[:, i]),
        )
        for i in range(K)
    ]  # fmt: skip
    small = 1e-11 * float(y.abs().max())
    assert (y - torch.cat(alone, 1)).abs().max() < small
    solver = solvers.make("dpm-v3", statistics=held, **options)
    times = fd.grid("logsnr", VP, steps=8, final=final)
    net = MIXTURE.denoiser(VP, predicts)
    p = Direct(lambda x, n: net(x, float(n.t)), x, predicts, wanted="data")
    solver.record(p, [VP.node(float(t)) for t in times])
    assert (y - p.x).abs().max() < small
    made = fd.plan(solver, VP, times, predicts=predicts)
    read = interpret(made, lambda x, c, b: net(x, c.t), x, consts={"ones": torch.ones_like(x)})
    assert (y - read).abs().max() < small
    assert made.carried == made.bound and made.nfe == p.calls
    assert sum(s.call is not None for s in made.stages) == made.nfe, "one linear stage a call"


def test_per_channel_is_per_element_of_equal_numbers() -> None:
    held = wild((3, 1, 1), degenerate=False)
    wide = ModelStatistics(LAM, *(np.broadcast_to(v, (len(LAM), 3, 4, 2)) for v in (held.l, held.s, held.b)))
    x = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(1))
    for options in ({}, {"backend": "reference"}, {"trajectory": True}):
        a, b = (
            fd.sample(mixture(), x, solver="dpm-v3", steps=6, statistics=v, **options) for v in (held, wide)
        )
        a, b = (v.x if options.get("trajectory") else v for v in (a, b))
        assert torch.allclose(a, b, rtol=0, atol=1e-5), "tables rounded once to float32"
    assert torch.equal(
        fd.sample(mixture(), x, solver="dpm-v3", steps=6, statistics=held, backend="cpu"),
        fd.sample(mixture(), x, solver="dpm-v3", steps=6, statistics=held, backend="reference"),
    )


def test_gradients_reach_x() -> None:
    """Double precision finite differences: 1e-6 of them is their own error."""
    held, x = wild((3,)), torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def run(x: torch.Tensor) -> torch.Tensor:
        how: dict[str, Any] = {"solver": "dpm-v3", "steps": 4, "statistics": held, "gradient": "full"}
        return fd.sample(mixture(), x, **how).sum()

    x.requires_grad_(True)
    (grad,) = torch.autograd.grad(run(x), x)
    h = torch.zeros_like(x)
    h[0, 1] = 1e-5
    assert grad[0, 1].item() == pytest.approx(float(((run(x + h) - run(x - h)) / 2e-5).detach()), rel=1e-5)


def test_stop_and_go_on_save_and_load(tmp_path: Any) -> None:
    held, x = wild((4,)), torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    times = fd.grid("logsnr", VP, steps=6)
    sampler = fd.Sampler(mixture(), fd.plan("dpm-v3", VP, times, statistics=held))
    y = sampler(x)
    assert torch.equal(sampler(sampler(x, stop=3)), y)
    sampler.plan.save(tmp_path / "plan.json")
    loaded = fd.Plan.load(tmp_path / "plan.json")
    assert loaded == sampler.plan and torch.equal(fd.Sampler(mixture(), loaded)(x), y)
    held.save(tmp_path / "statistics.safetensors")
    again = ModelStatistics.load(tmp_path / "statistics.safetensors")
    assert all(np.array_equal(getattr(held, n), getattr(again, n)) for n in ("lam", "l", "s", "b"))
    assert again.process == held.process and "planes over (4,)" in str(sampler.plan)
    (tmp_path / "other").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="not saved ModelStatistics"):
        ModelStatistics.load(tmp_path / "other")
    with pytest.raises(ValueError, match="planes over elements"):
        sampler.plan.transpose()
    safetensors = pytest.importorskip("safetensors.numpy")
    assert np.array_equal(safetensors.load_file(tmp_path / "statistics.safetensors")["l"], held.l)


def test_errors_at_the_door() -> None:
    held, x = wild((4,)), torch.zeros(2, 4)
    for bad, words in [
        (torch.zeros(2, 5), r"statistics are of samples \(4,\), x has samples \(5,\)"),
        (torch.zeros(2, 1, 4), r"x has samples \(1, 4\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            fd.sample(mixture(), bad, solver="dpm-v3", steps=4, statistics=held)
    short = ModelStatistics(LAM[20:], held.l[20:], held.s[20:], held.b[20:])
    with pytest.raises(ValueError, match="the times ask for -5.0"):
        fd.sample(mixture(), x, solver="dpm-v3", steps=4, statistics=short)
    other = ModelStatistics(LAM, held.l, held.s, held.b, repr(fd.processes.VPCosine()))
    with pytest.raises(ValueError, match="VPCosine.*not on VP"):
        fd.sample(mixture(), x, solver="dpm-v3", steps=4, statistics=other)
    with pytest.raises(TypeError, match="statistics must be ModelStatistics"):
        solvers.make("dpm-v3", statistics=0.5)
    for arrays, words in [
        ((LAM[::-1], held.l, held.s, held.b), "increasing"),
        ((LAM, held.l[1:], held.s, held.b), "rows"),
        ((LAM, held.l, held.s, held.b[:, :2]), "b is"),
        ((LAM, held.l * np.nan, held.s, held.b), "finite"),
    ]:
        with pytest.raises(ValueError, match=words):
            ModelStatistics(*arrays)
    with pytest.raises(ValueError, match="l of exactly 1, others not"):
        fd.sample(mixture(), x, solver="dpm-v3", steps=4, statistics=held, trajectory=True)
