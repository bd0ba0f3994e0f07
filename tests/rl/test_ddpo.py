"""fd.rl.collect, advantages and DDPO: on linear-Gaussian models, where E[R] and its slope are closed
forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.rl import DDPO, PromptStatistics, advantages, collect

DOUBLE = torch.float64
VP = fd.processes.VP()
TIMES = [0.8, 0.6, 0.35, 0.1, 0.0]


def sampler(w: Tensor, solver: str = "ddpm", **options) -> fd.Sampler:
    """eps = w x, w one number or one for each sample."""
    net = lambda x, t: w.reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype) * x  # noqa: E731
    plan = fd.plan(solver, VP, TIMES, predicts="noise", **options)
    return fd.Sampler(fd.Denoiser(net, VP, predicts="noise"), plan)


def law_of_the_end(w: Tensor, x_T: float, solver: str, **options) -> tuple[Tensor, Tensor]:
    """Mean and variance of the last state from x_T. The run is linear in its draws: without any it gives the
    mean, with a 1 in the place of one of them what that one is multiplied by."""

    def end(place: int) -> Tensor:
        count = iter(range(100))
        noise = lambda like, draw: torch.full_like(like, float(next(count) == place))  # noqa: E731
        x = torch.full((1, 1), x_T, dtype=DOUBLE)
        return sampler(w, solver, **options)(x, gradient="full", noise=noise)[0, 0]

    mean = end(-1)
    return mean, sum((end(k) - mean) ** 2 for k in range(len(TIMES)))  # type: ignore[return-value]


@pytest.mark.parametrize("solver, options", [("ddpm", {}), ("ddim", {"eta": 0.7}), ("euler-a", {})])
@pytest.mark.parametrize("reward", ["linear", "quadratic"])
def test_slope_is_that_of_the_expected_reward(reward: str, solver: str, options: dict) -> None:
    """- slope of the loss times the number of drawn steps = d E[R] / dw, within 4 standard errors of 20000
    samples. Each sample has a w of its own, equal in value, so that each has a slope; advantages are rewards
    less their true mean, a baseline that changes no slope's mean."""
    w, batch, x_T = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True), 20000, 0.9
    mean, var = law_of_the_end(w, x_T, solver, **options)
    expected = mean if reward == "linear" else mean * mean + var
    (want,) = torch.autograd.grad(expected, w)
    expected = float(expected.detach())
    many = torch.full((batch,), 0.6, dtype=DOUBLE, requires_grad=True)
    s = sampler(many, solver, **options)
    worth = (lambda x: x[:, 0]) if reward == "linear" else (lambda x: x[:, 0] ** 2)
    rollout = collect(s, torch.full((batch, 1), x_T, dtype=DOUBLE), worth, seeds=3)
    error = float(rollout.rewards.std()) / math.sqrt(batch)
    assert abs(float(rollout.rewards.mean() - expected)) < 4 * error
    loss = DDPO(advantage_clip=None)(s, rollout, rollout.rewards - expected)
    (slopes,) = torch.autograd.grad(loss, many)
    each = -slopes * batch * int(rollout.drawn.sum())
    assert abs(float(each.mean() - want)) < 4 * float(each.std()) / math.sqrt(batch), (each.mean(), want)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("gradient", ["checkpoint", "full"])
def test_the_first_ratio_is_one_to_the_last_bit(dtype: torch.dtype, gradient: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 6)).to(dtype)
    denoiser = fd.Denoiser(lambda x, t: net(x), VP, predicts="noise")
    s = fd.Sampler(denoiser, fd.plan("ddpm", VP, TIMES, predicts="noise"))
    rollout = collect(s, (8, 6), lambda x: x.sum(1), seeds=1, dtype=dtype)
    assert rollout.drawn.tolist() == [True, True, True, False]
    r = DDPO(gradient=gradient).ratios(s, rollout)
    assert r.shape == (8, 3) and bool((r == 1).all())
    same = fd.sample(denoiser, (8, 6), solver="ddpm", times=TIMES, seeds=1, dtype=dtype)
    torch.testing.assert_close(rollout.x, same, rtol=1e-4, atol=1e-5)


def moved(batch: int = 50, shift: float = 0.05):
    w = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    s = sampler(w)
    rollout = collect(s, (batch, 3), lambda x: x.sum(1), seeds=2, dtype=DOUBLE)
    with torch.no_grad():
        w.add_(shift)
    return w, s, rollout, advantages(rollout.rewards)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("clip", [None, 0.02])
def test_ppo_written_out(clip: float | None, legacy: bool) -> None:
    """From fd.log_prob_path; value 1e-12, slope 1e-10. Some ratios are clipped, some are not."""
    w, s, rollout, A = moved()
    now = fd.log_prob_path(s, states=rollout.states, gradient="full").log_prob
    off = (now - rollout.log_prob)[:, :3] / (3 if legacy else 1)
    r, column = off.exp(), A[:, None].clamp(-1.5, 1.5)
    want = -column * r
    if clip is not None:
        assert bool((off.expm1().abs() > clip).any()) and bool((off.expm1().abs() < clip).any())
        want = torch.maximum(want, -column * r.clamp(1 - clip, 1 + clip))
    got = DDPO(clip, advantage_clip=1.5, legacy=legacy)(s, rollout, A)
    torch.testing.assert_close(got, want.mean(), rtol=1e-12, atol=1e-15)
    slopes = [torch.autograd.grad(v, w)[0] for v in (got, want.mean())]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-13)


def test_divergence_from_a_reference() -> None:
    """kl (r - 1 - log r), r = reference / now: its mean over the policy's own samples is the KL divergence of
    the steps, |mean - mean_ref|^2 / (2 s^2). Both from the law of DDPM's step; 4 standard errors."""
    batch, shift = 4000, 0.03
    w = torch.tensor(0.6, dtype=DOUBLE)
    s = sampler(w)
    rollout = collect(s, (batch, 3), lambda x: x.sum(1), seeds=2, dtype=DOUBLE)
    reference = fd.log_prob_path(sampler(w + shift), states=rollout.states).log_prob
    zero = torch.zeros(batch, dtype=DOUBLE)
    per = [
        float(DDPO(kl=1.0)(s, rollout.rows(i), zero[i], reference[i])) for i in torch.arange(batch).split(100)
    ]
    kl = 0.0
    for k in range(3):
        a, b = TIMES[k], TIMES[k + 1]
        bar, beta = VP.alpha(b) ** 2, 1 - VP.alpha(a) ** 2 / VP.alpha(b) ** 2
        gain = bar**0.5 * beta / VP.sigma(a) ** 2 * VP.sigma(a) / VP.alpha(a)  # of eps in the mean
        s2 = beta * VP.sigma(b) ** 2 / VP.sigma(a) ** 2
        square = (rollout.states[k].square().sum(1)).mean()
        kl += float(square) * (gain * shift) ** 2 / (2 * s2) / 3
    found = torch.tensor(per)
    assert abs(float(found.mean()) - kl) < 4 * float(found.std()) / math.sqrt(len(per)), (found.mean(), kl)


def test_reinforce_has_the_slope_of_ppo_at_the_start() -> None:
    w, s, rollout, A = moved(shift=0.0)
    losses = [DDPO(kind=kind)(s, rollout, A) for kind in ("ppo", "reinforce")]
    slopes = [torch.autograd.grad(v, w)[0] for v in losses]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=0)


def test_a_reward_without_gradient_rises() -> None:
    """How many elements are above 1/2, a step function: the last five of 30 updates above the first five by 5
    standard errors, for three seeds."""
    for seed in range(3):
        torch.manual_seed(seed)
        net = torch.nn.Linear(4, 4).double()
        denoiser = fd.Denoiser(lambda x, t, net=net: net(x), VP, predicts="noise")
        s = fd.Sampler(denoiser, fd.plan("ddim", VP, TIMES, predicts="noise", eta=1.0))
        optimiser, loss, means = torch.optim.Adam(net.parameters(), 0.02), DDPO(), []
        for i in range(30):
            rollout = collect(s, (128, 4), lambda x: (x > 0.5).sum(1), seeds=1000 * seed + i, dtype=DOUBLE)
            A = advantages(rollout.rewards)
            for half in torch.randperm(128).split(64):
                optimiser.zero_grad()
                loss(s, rollout.rows(half), A[half]).backward()
                optimiser.step()
            means.append(float(rollout.rewards.mean()))
        first, last = torch.tensor(means[:5]), torch.tensor(means[-5:])
        error = math.sqrt((float(first.var()) + float(last.var())) / 5)
        assert float(last.mean() - first.mean()) > 5 * error, means


def test_advantages() -> None:
    """Mean 0 and deviation 1, of all or of each group (1e-5: the floor 1e-6 under the deviation)."""
    r, g = torch.randn(60, dtype=DOUBLE) * 3 + 1, torch.arange(60) % 4
    for part, which in ((advantages(r), torch.zeros(60)), (advantages(r, g), g)):
        for k in which.unique():
            some = part[which == k]
            assert abs(float(some.mean())) < 1e-12 and abs(float(some.std(correction=0)) - 1) < 1e-5
    torch.testing.assert_close(advantages(r, scaled=False), r - r.mean())
    assert torch.equal(advantages(torch.ones(4)), torch.zeros(4, dtype=DOUBLE))


def test_prompt_statistics() -> None:
    """The last 3 of each prompt once 2 are known; before, the batch."""
    s = PromptStatistics(size=3, least=2)
    one = s(["a", "b"], torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(one, torch.tensor([-1.0, 1.0], dtype=DOUBLE), rtol=1e-5, atol=0)
    s(["a", "a"], torch.tensor([5.0, 6.0]))
    (got,) = s(["a"], torch.tensor([10.0])).tolist()
    past = torch.tensor([5.0, 6.0, 10.0])
    assert got == pytest.approx(float((10 - past.mean()) / past.std(correction=0)), rel=1e-5)


def test_what_is_wrong_is_said() -> None:
    w, s, rollout, A = moved(4)
    with pytest.raises(ValueError, match="reward must give"):
        collect(s, (4, 3), lambda x: x)
    with pytest.raises(ValueError, match="draws no noise"):
        collect(sampler(w, "dpmpp-2m"), (4, 3), lambda x: x.sum(1))
    with pytest.raises(ValueError, match="advantages"):
        DDPO()(s, rollout, A[:2])
    with pytest.raises(ValueError, match="reference"):
        DDPO(kl=0.1)(s, rollout, A)
    assert DDPO(legacy=True).clip == 1e-4 and DDPO(0.2, legacy=True).clip == DDPO().clip == 0.2
    with pytest.raises(ValueError, match="clip"):
        DDPO(clip=-1.0)
    with pytest.raises(ValueError, match="kind"):
        DDPO(kind="pp")
    with pytest.raises(TypeError, match="groups"):
        advantages(rollout.rewards, groups=A)
    with pytest.raises(ValueError, match="least"):
        PromptStatistics(2, 3)
    with pytest.raises(TypeError, match="index"):
        rollout.rows(A)
