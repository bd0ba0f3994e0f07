"""Grids fitted to a network: exact searches, known optima."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.testing import GaussianMixture, pf_ode
from fastdiff.tune._path import cheapest
from fastdiff.tune.ays import klub

VP, EDM = fd.processes.VP(), fd.processes.EDM()
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])


@pytest.mark.parametrize("discount", [1.0, 1.15, 0.8])
def test_cheapest_way_is_the_best_of_all(discount: float) -> None:
    """Against every subset of 10 nodes."""
    cost = np.random.default_rng(0).uniform(size=(10, 10))
    for jumps in range(1, 10):
        ways = [(0, *w, 9) for w in itertools.combinations(range(1, 9), jumps - 1)]

        def price(way: Any) -> float:
            return sum(discount**k * cost[a, b] for k, (a, b) in enumerate(itertools.pairwise(way)))

        best = min(ways, key=price)
        assert cheapest(cost, jumps, discount) == list(best)
    for jumps in (0, 10):
        with pytest.raises(ValueError, match="jumps"):
            cheapest(cost, jumps)


def gaussian_loss(c: float) -> Any:
    """P of data N(0, c^2): the posterior's variance."""
    return lambda lam: c**2 / (1 + c**2 * np.exp(2 * lam))


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_bound_of_gaussian_data(c: float) -> None:
    """KLUB of a step = (q - 1 - log q) / 2, q = (1 + c^2 e^{2 b}) / (1 + c^2 e^{2 a}); straight lines between
    2000 nodes leave (h^2 / 12) of it, 1e-5."""
    lam = np.linspace(-3, 3, 2001)
    P = gaussian_loss(c)(lam)
    cost = klub(lam, P[:, None] - P[None, :])
    r = 1 + c**2 * np.exp(2 * lam)
    for i, j in [(0, 2000), (300, 700), (1000, 1400)]:
        q = r[j] / r[i]
        assert cost[i, j] == pytest.approx((q - 1 - np.log(q)) / 2, rel=1e-5)


@pytest.mark.parametrize("c", [0.5, 1.0])
def test_best_grid_of_gaussian_data_is_klub_gauss(c: float) -> None:
    """Equal ratios q, to the spacing of the fine grid."""
    fine = 400
    times = fd.tune.ays(EDM, gaussian_loss(c), steps=8, mode="mmse", fine=fine, final="sigma_min")
    exact = fd.grid("klub-gauss", EDM, steps=8, final="sigma_min", std=c)
    spacing = (EDM.lam(EDM.t_min) - EDM.lam(EDM.t_max)) / fine
    assert np.abs(EDM.lam(times) - EDM.lam(exact)).max() <= spacing


def test_samples_see_the_same_bound_as_the_curve() -> None:
    """For a perfect denoiser E |D(x) - D(x_i)|^2 = P(lambda_i) - P(lambda) on forward paths (martingale), so
    both modes agree but for the error of the mean of 20,000 squares, below 5 %."""
    denoiser = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")
    x0 = MIXTURE.sample((20_000,)).view(-1, 1)
    from fastdiff.tune.ays import _of_samples

    lam = np.linspace(-2.5, 2.5, 11)
    paths = _of_samples(denoiser, x0, lam, "klub", 0, None)
    losses = _of_samples(denoiser, x0, lam, "mmse", 0, None)
    i, j = np.triu_indices(11, 2)
    assert np.abs(paths[i, j] / losses[i, j] - 1).max() < 0.05


@pytest.mark.parametrize("metric", ["dev", "l2"])
def test_gits_brings_euler_closer(metric: str) -> None:
    """8 steps of Euler on a mixture in 8 dimensions (on a line nothing leaves the chord): nearer to the flow
    than on the grids it could have had."""
    means = fd.noise.normal((3, 8), 1).double()
    mixture = GaussianMixture([0.2, 0.3, 0.5], means, [0.2, 0.3, 0.25])
    denoiser = fd.Denoiser(mixture.denoiser(EDM, "data"), EDM, predicts="data")
    times = fd.tune.gits(denoiser, (128, 8), steps=8, metric=metric, final="sigma_min", seeds=1)
    assert len(times) == 9 and times[0] == EDM.t_max and times[-1] == EDM.t_min
    x = fd.noise.normal((64, 8), 2).double() * EDM.sigma_max
    exact = pf_ode(mixture, EDM, x, EDM.t_max, EDM.t_min)

    def error(times: np.ndarray) -> float:
        return float((fd.sample(denoiser, x, solver="euler", times=times) - exact).norm(dim=1).mean())

    others = [fd.grid(g, EDM, steps=8, final="sigma_min") for g in ("karras", "logsnr", "polyexponential")]
    assert error(times) < min(error(o) for o in others)


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_any_number_of_steps(steps: int) -> None:
    denoiser = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")
    for times in (
        fd.tune.gits(denoiser, (4, 1), steps=steps),
        fd.tune.ays(denoiser, MIXTURE.sample((4,)).view(-1, 1), steps=steps),
    ):
        assert len(times) == steps + 1 and (np.diff(times) < 0).all() and times[-1] == 0
        assert torch.isfinite(fd.sample(denoiser, (2, 1), times=times, seeds=0)).all()


@pytest.mark.parametrize("bad", [
    {"steps": 0}, {"steps": 62}, {"metric": "l3"}, {"discount": 0.0}, {"final": "denoise"}, {"grid": "karas"},
])  # fmt: skip
def test_gits_says_what_is_wrong(bad: dict[str, Any]) -> None:
    denoiser = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")
    with pytest.raises(ValueError):
        fd.tune.gits(denoiser, (4, 1), **{"steps": 5, **bad})


def test_ays_says_what_is_wrong() -> None:
    denoiser = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")
    x0 = torch.zeros(4, 1)
    for bad in ({"steps": 0}, {"steps": 200}, {"steps": 5, "mode": "kl"}, {"steps": 5, "final": "x"}):
        with pytest.raises(ValueError):
            fd.tune.ays(denoiser, x0, **bad)
    with pytest.raises(TypeError, match="Denoiser"):
        fd.tune.ays(VP, x0, steps=5)
    with pytest.raises(ValueError, match="mmse"):
        fd.tune.ays(VP, gaussian_loss(1.0), steps=5)


def test_no_samples_are_refused() -> None:
    denoiser = fd.Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")
    with pytest.raises(ValueError, match="at least 1"):
        fd.tune.gits(denoiser, (0, 1), steps=3)
    with pytest.raises(ValueError, match="at least 1"):
        fd.tune.ays(denoiser, torch.zeros(0, 1), steps=3)
    with pytest.raises(ValueError, match="at least 1"):
        fd.tune.search_initial_noise(denoiser, torch.zeros(0, 1))
