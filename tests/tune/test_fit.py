"""Fits of a plan's own numbers: order conditions against closed forms, errors against the exact flow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.core.interpret import interpret
from fastdiff.core.predict import convert
from fastdiff.testing import GaussianMixture, pf_ode

VP = fd.processes.VP()
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
DENOISER = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")
TIMES = np.asarray(VP.time_of(np.linspace(-2.5, 2.5, 6)))


def starts(seed: int, count: int = 48) -> torch.Tensor:
    return fd.noise.normal((count, 1), seed).double() * float(VP.sigma(TIMES[0]))


def error(plan: fd.Plan) -> float:
    x = starts(2, 256)
    exact = pf_ode(MIXTURE, VP, x, TIMES[0], TIMES[-1])
    return float((fd.Sampler(DENOISER, plan)(x) - exact).square().mean().sqrt())


def of_data(plan: fd.Plan, x: float, data: Any) -> float:
    """The plan's end for a network whose data prediction is `data(node)` whatever x is."""

    def net(x: float, call: Any, branch: int) -> float:
        node = VP.node(call.t)
        p, q = convert("data", plan.predicts, node)
        return p * x + q * data(node)

    return interpret(plan, net, x)


CASES = {  # solver, order kept, trained; the factor that 40 iterations must gain
    "times of 2M": ("dpmpp-2m", None, {}, 1.05),
    "2M, order 1": ("dpmpp-2m", 1, {}, 2.0),
    "2M, order 1, coefficients": ("dpmpp-2m", 1, {"times": False}, 1.3),
    "UniPC": ("unipc", None, {}, 1.3),
    "DEIS, order 1": ("deis", 1, {}, 1.3),
}


@pytest.mark.parametrize("case", CASES)
def test_nearer_to_the_flow_with_its_order_conditions(case: str) -> None:
    """For x_0 = c the flow is alpha_t c + (sigma_t / sigma_T) (x_T - alpha_T c): every plan that was kept
    consistent gives it. Conditions of order 2: for data linear in phi = sigma / (alpha + sigma) it gives what
    the formula gives at its times. Both to the rounding of float64 tables."""
    key, order, how, factor = CASES[case]
    base = fd.plan(key, VP, TIMES)
    made = fd.tune.fit(DENOISER, base, starts(1), order=order, iterations=40, rate=1e-2, **how)
    assert error(made) < error(base) / factor
    assert made.nfe == base.nfe and made.times[0] == TIMES[0] and made.times[-1] == TIMES[-1]
    a, b = (VP.node(float(t)) for t in TIMES[[0, -1]])
    for x, c in ((0.7, 0.0), (-0.4, 1.3)):
        exact = b.alpha * c + b.sigma / a.sigma * (x - a.alpha * c)
        assert of_data(made, x, lambda n, c=c: c) == pytest.approx(exact, abs=1e-12)
    formula = fd.plan(key, VP, made.times)
    for k in range(2, (order or base.order) + 1):
        data = lambda n, k=k: (n.sigma / (n.sigma + n.alpha)) ** (k - 1)  # noqa: E731
        assert of_data(made, 0.7, data) == pytest.approx(of_data(formula, 0.7, data), abs=1e-12)
    if order == 1:  # and what it was freed of it did not keep
        slope = lambda n: n.sigma / (n.sigma + n.alpha)  # noqa: E731
        assert abs(of_data(made, 0.7, slope) - of_data(formula, 0.7, slope)) > 1e-4


def test_the_gradient_is_the_one_of_differences() -> None:
    """Of the end in the trained numbers, by central differences of float64: h^2 and 1e-16 / h meet at
    1e-10."""
    from fastdiff.tune.fit import _Tables

    trained = _Tables(VP, fd.plan("dpmpp-2m", VP, TIMES), 1, True, True)
    g = torch.Generator().manual_seed(0)
    leaves = [v.add_(torch.randn(v.shape, dtype=v.dtype, generator=g) / 10) for v in trained.values]
    x, sampler = starts(3, 4), fd.Sampler(DENOISER, trained.plan)

    def end() -> torch.Tensor:
        return sampler(x, coefficients=trained.now(), gradient="full").sum()

    for v in leaves:
        v.requires_grad_()
    grads = torch.autograd.grad(end(), leaves)
    for v, grad in zip(leaves, grads, strict=True):
        toward = torch.randn(v.shape, dtype=v.dtype, generator=g)
        found = []
        for sign in (1, -1):
            with torch.no_grad():
                v += sign * 1e-5 * toward
                found.append(float(end()))
                v -= sign * 1e-5 * toward
        assert float((grad * toward).sum()) == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_guided_plans_and_checkpoints() -> None:
    """Through guidance, and with one call's memory the same plan to rounding."""

    def net(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * y[:, None]) + t[:, None] * x

    g = torch.Generator().manual_seed(0)
    y = torch.rand(12, dtype=torch.float64, generator=g)
    guided = fd.guidance.CFG(2.0, uncond={"y": torch.zeros(1, dtype=torch.float64)})
    base = fd.plan("dpmpp-2m", VP, TIMES[::2][:3], guidance=guided)
    denoiser = fd.Denoiser(net, VP, predicts="noise")
    full, part = (
        fd.tune.fit(denoiser, base, starts(1, 12), order=1, batch=12, iterations=4, cond={"y": y}, gradient=m)
        for m in ("full", "checkpoint")
    )
    for a, b in zip(full.coeffs, part.coeffs, strict=True):
        assert np.abs(a - b).max(initial=0) < 1e-9 * max(1, np.abs(a).max(initial=0))
    assert full.nfe == base.nfe and not math.isclose(full.times[1], base.times[1], rel_tol=1e-6)


def test_saved_and_loaded_it_gives_the_same_bits(tmp_path: Path) -> None:
    x = starts(4, 8)
    for order in (1, None):
        made = fd.tune.fit(DENOISER, fd.plan("dpmpp-2m", VP, TIMES), starts(1, 8), order=order, iterations=10)
        made.save(tmp_path / "plan.json")
        loaded = fd.Plan.load(tmp_path / "plan.json")
        assert torch.equal(fd.Sampler(DENOISER, made)(x), fd.Sampler(DENOISER, loaded)(x))
    again = fd.tune.fit(DENOISER, loaded, starts(1, 8), order=1, times=False, iterations=10)
    assert again.nfe == loaded.nfe and (again.times == loaded.times).all()


def test_stopped_and_resumed_it_ends_in_the_same_plan(tmp_path: Path) -> None:
    base, file = fd.plan("dpmpp-2m", VP, TIMES[::2][:3]), tmp_path / "search.pt"
    how: dict[str, Any] = {"order": 1, "batch": 8}
    whole = fd.tune.fit(DENOISER, base, starts(1, 24), iterations=30, **how)
    fd.tune.fit(DENOISER, base, starts(1, 24), iterations=10, resume=file, **how)
    assert fd.tune.fit(DENOISER, base, starts(1, 24), iterations=30, resume=file, **how) == whole
    with pytest.raises(ValueError, match="another search"):
        fd.tune.fit(DENOISER, base, starts(1, 24), iterations=30, resume=file, coefficients=False, **how)


def test_says_what_is_wrong() -> None:
    base, x = fd.plan("dpmpp-2m", VP, TIMES), starts(1, 4)
    for bad in ({"order": 3}, {"order": 0}, {"iterations": 0}, {"coefficients": False, "times": False}):
        with pytest.raises(ValueError, match="fit"):
            fd.tune.fit(DENOISER, base, x, **bad)
    with pytest.raises(ValueError, match="no freedom"):
        fd.tune.fit(DENOISER, fd.plan("ddim", VP, TIMES), x, times=False)
    with pytest.raises(ValueError, match="draws noise"):
        fd.tune.fit(DENOISER, fd.plan("ddpm", VP, TIMES), x)
    with pytest.raises(TypeError, match="plan"):
        fd.tune.fit(DENOISER, "ddim", x)  # type: ignore[arg-type]
