"""log_prob_path: against the published Gaussians of the steps, and bit for bit against itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd

VP = fd.processes.VP()
TIMES = np.append(np.linspace(0.9, 0.05, 5), 0.0)
STOCHASTIC = [
    "ddpm",
    "euler-a",
    "em",
    "er-sde",
    "dpmpp-2m-sde",
    "dpmpp-3m-sde",
    "flow-sde",
    "ancestral",
    "lcm",
]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5)).double()


def sampler(net: Any, solver: str, times: Any = TIMES, **options: Any) -> fd.Sampler:
    plan = fd.plan(solver, VP, times, predicts="noise", **options)
    return fd.Sampler(fd.Denoiser(lambda x, t, **c: net(x), VP, predicts="noise"), plan)


def posterior(net: nn.Module, states: Tensor) -> Tensor:
    """log N(x_t; mean, std) of the ancestral step as published (Ho et al. 2020, eq. 6 and 7), from
    alpha-bar and beta alone, by torch.distributions."""
    found = []
    for (s, t), x, y in zip(zip(TIMES, TIMES[1:], strict=False), states, states[1:], strict=False):
        bar_s, bar_t = VP.alpha(s) ** 2, VP.alpha(t) ** 2
        beta = 1 - bar_s / bar_t
        x0 = (x - (1 - bar_s) ** 0.5 * net(x)) / bar_s**0.5
        mean = (bar_t**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - bar_t) * x) / (1 - bar_s)
        var = beta * (1 - bar_t) / (1 - bar_s)
        if var > 0:
            found.append(torch.distributions.Normal(mean, var**0.5).log_prob(y).flatten(1).sum(1))
        else:
            found.append(torch.zeros(len(x), dtype=x.dtype))
    return torch.stack(found, 1)


def test_ddpm_is_its_published_gaussian(net: nn.Module) -> None:
    """To 1e-9: at the smallest std, 0.05, rounding of x over std^2 is amplified by 400."""
    s, x = sampler(net, "ddpm"), torch.randn(3, 5, dtype=torch.float64)
    got = fd.log_prob_path(s, x, seeds=4)
    torch.testing.assert_close(got.states, s(x, seeds=4, trajectory=True).states, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.log_prob, posterior(net, got.states), rtol=1e-9, atol=1e-9)
    parameters = list(net.parameters())
    want = torch.autograd.grad(posterior(net, got.states)[:, 1:3].sum(), parameters)
    for mode in ("full", "checkpoint"):
        again = fd.log_prob_path(s, states=got.states, gradient=mode)
        for a, b in zip(torch.autograd.grad(again.log_prob[:, 1:3].sum(), parameters), want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_a_rollout_and_its_evaluation_have_the_same_bits(
    net: nn.Module, solver: str, dtype: torch.dtype
) -> None:
    s, x = sampler(net.to(dtype), solver), torch.randn(3, 5).to(dtype)
    rollout = fd.log_prob_path(s, x, seeds=2)
    assert torch.equal(fd.log_prob_path(s, x, seeds=2).log_prob, rollout.log_prob)
    for mode in (None, "full", "checkpoint"):
        again = fd.log_prob_path(s, states=rollout.states, gradient=mode)
        assert torch.equal(again.log_prob, rollout.log_prob) and torch.equal(again.states, rollout.states)
        assert again.log_prob.requires_grad == (mode is not None)
    assert not rollout.log_prob.requires_grad and (rollout.log_prob[:, -1] == 0).all()
    eps = torch.finfo(dtype).eps  # the plain run sums in another order; coefficients reach 1e3 here
    plain = s(x, seeds=2, trajectory=True).states
    torch.testing.assert_close(
        rollout.states, plain, rtol=1e4 * eps, atol=1e4 * eps * float(plain.abs().max())
    )


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp-2m-sde", "er-sde"])
def test_the_noise_found_is_the_noise_drawn(net: nn.Module, solver: str) -> None:
    """Of every step -2 (log p + d (log s + log(2 pi) / 2)) = |xi|^2, the draw's own counters telling xi."""
    from fastdiff.core.densities import gaussian_steps
    from fastdiff.runtime.log_prob import _prepared

    s, x = sampler(net, solver), torch.randn(3, 5, dtype=torch.float64)
    got = fd.log_prob_path(s, x, seeds=7).log_prob
    inner, steps = _prepared(s)
    assert steps == gaussian_steps(inner.plan, 0)
    for i, step in enumerate(steps[:-1]):
        xi = fd.noise.normal((3, 5), 7, stream=0, draw=i, dtype=torch.float64)
        want = (xi * xi).sum(1)
        found = -2 * (got[:, i] + 5 * (np.log(step.std) + 0.5 * np.log(2 * np.pi)))
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)  # x and std differ by up to 1e4


def test_with_guidance_and_conditions(net: nn.Module) -> None:
    y = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)
    plan = fd.plan(
        "ddpm",
        VP,
        TIMES,
        predicts="noise",
        guidance=fd.guidance.CFG(2.0, uncond={"y": torch.zeros(3, 1).double()}),
    )
    s = fd.Sampler(fd.Denoiser(lambda x, t, y: net(x) + y, VP, predicts="noise"), plan)
    rollout = fd.log_prob_path(s, torch.randn(3, 5, dtype=torch.float64), seeds=0, cond={"y": y})
    again = fd.log_prob_path(s, states=rollout.states, cond={"y": y}, gradient="full", cond_grad=True)
    assert torch.equal(again.log_prob, rollout.log_prob)
    (g,) = torch.autograd.grad(again.log_prob.sum(), y)
    want = posterior(lambda x: net(x) + 2.0 * y, rollout.states)  # type: ignore[arg-type]
    torch.testing.assert_close(rollout.log_prob, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(g, torch.autograd.grad(want.sum(), y)[0], rtol=1e-9, atol=1e-9)


class Filter(fd.Hook):
    def state(self, ctx: Any, x: Tensor) -> Tensor:
        return torch.tanh(x)


def test_what_is_no_gaussian_is_refused(net: nn.Module) -> None:
    x = torch.randn(2, 5, dtype=torch.float64)
    for solver, options in (
        ("heun", {"churn": 4.0}), ("sa-solver", {}), ("dpmpp-sde", {}), ("restart", {}),
        ("seeds", {"order": 2}), ("ddpm", {"hooks": [Filter()]}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="no Gaussian|route|restart"):
            fd.log_prob_path(sampler(net, solver, **options), x, seeds=0)
    with pytest.raises(ValueError, match="draws no noise"):
        fd.log_prob_path(sampler(net, "ddim"), x)
    s = sampler(net, "ddpm")
    for bad, error, match in (
        ({}, ValueError, "x to sample from, or states"),
        ({"x": x, "states": x}, ValueError, "not both"),
        ({"states": x[None]}, ValueError, "need \\(6, B"),
        ({"x": x.half()}, TypeError, "float32 or float64"),
        ({"x": x, "gradient": "reversible"}, ValueError, "allowed"),
    ):
        with pytest.raises(error, match=match):
            fd.log_prob_path(s, **bad)
