"""Laws of the training time: their distribution, and that importance weights keep means."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import fastdiff as fd
from fastdiff.losses import times
from fastdiff.noise import resolve

N = 100_000
VP = fd.processes.VP()
FLOW = fd.processes.FlowMatching()


def drawn(key: str, process, low: float, high: float, n: int = N, seed: int = 0, **options):
    return times.registry.make(key, **options).draw(process, resolve(seed, n), low, high)


def cosmap(t: np.ndarray) -> np.ndarray:
    """Probability of lying below t: u from t = 1 - 1 / (tan(pi u / 2) + 1)."""
    return 2 / math.pi * np.arctan(t / (1 - t))


def mode(t: np.ndarray, s: float = 1.29) -> np.ndarray:
    u = np.linspace(0, 1, 200_001)
    p = 1 - u - s * (np.cos(math.pi / 2 * u) ** 2 - 1 + u)  # falls with u
    return 1 - np.interp(t, p[::-1], u[::-1])


LAWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uniform": lambda t: t,
    "logit-normal": lambda t: stats.norm.cdf(np.log(t / (1 - t))),
    "mode": mode,
    "cosmap": cosmap,
}


@pytest.mark.parametrize("key", LAWS)
def test_law_on_a_flow(key: str) -> None:
    """Kolmogorov-Smirnov against the published formula, on [0, 1]."""
    t, weight = drawn(key, FLOW, 0.0, 1.0)
    assert weight is None
    assert stats.kstest(t.numpy(), LAWS[key]).pvalue > 1e-4


def test_edm_is_lognormal_in_sigma() -> None:
    t, weight = drawn("edm", fd.processes.EDM(), 0.0, 80.0)
    assert weight is None
    assert stats.kstest((t.log().numpy() + 1.2) / 1.2, stats.norm.cdf).pvalue > 1e-4


def test_uniform_lambda() -> None:
    low, high = 1e-3, 1.0
    t, _ = drawn("uniform-lambda", VP, low, high)
    lam0, lam1 = float(VP.lam(high)), float(VP.lam(low))
    assert stats.kstest((VP.lam(t).numpy() - lam0) / (lam1 - lam0), stats.uniform.cdf).pvalue > 1e-4


def test_likelihood_is_the_published_inverse() -> None:
    """On VP the density 1 / (1 + e^gamma) in gamma = -2 lam has the inverse -log(expm1(softplus(-g0) - Z
    u))."""
    low, high = 1e-3, 1.0
    t, _ = drawn("likelihood", VP, low, high)
    g0, g1 = -2 * float(VP.lam(low)), -2 * float(VP.lam(high))
    softplus = lambda v: np.logaddexp(0, v)  # noqa: E731
    z = softplus(-g0) - softplus(-g1)
    u = np.linspace(0, 1, 100_001)
    inverse = -np.log(np.expm1(softplus(-g0) - z * u))
    below = np.interp(-2 * VP.lam(t).numpy(), inverse, u)
    assert stats.kstest(below, stats.uniform.cdf).pvalue > 1e-4


WEIGHTED = {
    "uniform-lambda": {},
    "likelihood": {},
    "cosmap": {"unbiased": True},
    "mode": {"s": 0.5, "unbiased": True},
    "logit-normal": {"s": 2.0, "unbiased": True},
    "edm": {"mean": 0.0, "std": 3.0, "unbiased": True},
}


@pytest.mark.parametrize("key", WEIGHTED)
def test_weights_keep_means(key: str) -> None:
    """E[w f(t)] is the uniform mean of f, for f = 1, t, t^2: within 5 standard errors of what was drawn. Wide
    laws, so that the weights have a variance."""
    low, high = (1e-3, 1.0) if key != "edm" else (0.05, 0.99)
    t, weight = drawn(key, VP, low, high, **WEIGHTED[key])
    assert weight is not None
    inside = (t > low) & (t < high)  # a law that reaches beyond lies on the ends, with no density there
    for power in range(3):
        values = torch.where(inside, weight * t**power, 0.0)
        want = (high ** (power + 1) - low ** (power + 1)) / (power + 1) / (high - low)
        assert abs(values.mean().item() - want) < 5 * values.std().item() / math.sqrt(N), power


def test_stratified() -> None:
    """One u0: n points at equal distance on the circle; apart: one in each n-th."""
    t, _ = drawn("stratified", FLOW, 0.0, 1.0, n=64)
    gaps = t.sort().values.diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / 64), rtol=0, atol=1e-15)
    t, _ = drawn("stratified", FLOW, 0.0, 1.0, n=64, apart=True)
    assert (t.sort().values * 64).floor().tolist() == list(range(64))
    starts = [drawn("stratified", FLOW, 0.0, 1.0, n=1, seed=s)[0].item() for s in range(2000)]
    assert stats.kstest(starts, stats.uniform.cdf).pvalue > 1e-4


def test_ranks_share_the_strata() -> None:
    law = times.registry.make("stratified", count=64)
    whole, _ = law.draw(FLOW, resolve(3, 64), 0.0, 1.0)
    part, _ = law.draw(FLOW, resolve(fd.Seeds(3, ids=range(16, 40)), 24), 0.0, 1.0)
    assert torch.equal(part, whole[16:40])


def test_a_sample_draws_its_own_time() -> None:
    """Whatever its batch: that of (seed, id)."""
    for key in sorted(set(times.names()) - {"stratified"}):
        whole, _ = drawn(key, VP, 1e-3, 1.0, n=9)
        part, _ = times.registry.make(key).draw(VP, resolve(fd.Seeds(0, ids=[7, 2]), 2), 1e-3, 1.0)
        assert torch.equal(part, whole[[7, 2]]), key


def test_loss_second_moment() -> None:
    """Uniform until every bin has its history, then the formula; the weight keeps the mean; a state goes
    on."""
    law = times.registry.make("loss-second-moment", bins=4, history=2, floor=0.01)
    t, weight = law.draw(FLOW, resolve(0, 8), 0.0, 1.0)
    assert weight is not None and weight.tolist() == [1.0] * 8
    centres = torch.tensor([0.1, 0.3, 0.6, 0.9])
    for losses in ([9.0, 9, 9, 9], [1.0, 2, 3, 4], [3.0, 0, 1, 4]):  # the first is forgotten
        law.observe(centres, torch.tensor(losses))
    rms = np.sqrt((np.array([1.0, 2, 3, 4]) ** 2 + np.array([3.0, 0, 1, 4]) ** 2) / 2)
    want = 0.99 * rms / rms.sum() + 0.01 / 4
    np.testing.assert_allclose(law.probabilities().numpy(), want, rtol=1e-14)
    t, weight = law.draw(FLOW, resolve(1, N), 0.0, 1.0)
    counts = np.bincount((t * 4).long().numpy(), minlength=4)
    assert stats.chisquare(counts, want * N).pvalue > 1e-4
    assert abs(weight.mean().item() - 1) < 5 * weight.std().item() / math.sqrt(N)
    again = times.registry.make("loss-second-moment", bins=4, history=2, floor=0.01)
    again.load_state_dict(law.state_dict())
    assert torch.equal(again.draw(FLOW, resolve(1, 50), 0.0, 1.0)[0], t[:50])


def _rank(rank: int, file: str, out: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    law = times.registry.make("loss-second-moment", bins=4, history=1)
    law.draw(FLOW, resolve(0, 3), 0.0, 1.0)
    t = torch.tensor([0.1, 0.3, 0.6]) if rank == 0 else torch.tensor([0.9])  # batches of 3 and of 1
    law.observe(t, 2 + t)
    torch.save(law.probabilities(), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_remember_the_same(tmp_path: Path) -> None:
    calls = [[sys.executable, __file__, str(r), str(tmp_path / "meet"), str(tmp_path)] for r in range(2)]
    started = [subprocess.Popen(call) for call in calls]
    assert [p.wait(120) for p in started] == [0, 0]
    a, b = (torch.load(tmp_path / f"{r}.pt") for r in range(2))
    rms = torch.tensor([2.1, 2.3, 2.6, 2.9]).double()
    assert torch.equal(a, b)
    torch.testing.assert_close(a, (1 - 1e-3) * rms / rms.sum() + 1e-3 / 4, rtol=1e-6, atol=0)


def test_errors() -> None:
    with pytest.raises(ValueError, match="finite log-SNR at both ends"):
        drawn("uniform-lambda", FLOW, 0.0, 1.0)
    with pytest.raises(ValueError, match="unknown option of time sampler 'mode' 'z'"):
        times.registry.make("mode", z=1)


if __name__ == "__main__":
    _rank(int(sys.argv[1]), *sys.argv[2:])
