"""Where to start: the horizon and the shared initial noise, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributions as D

import fastdiff as fd
import fastdiff.testing
from fastdiff.tune import horizon, prior_gap, search_initial_noise

VP = fd.processes.VP()


def test_prior_gap_is_torchs_divergence() -> None:
    mean, var = np.array([0.3, -1.0]), np.array([0.5, 2.0])
    for t in (0.1, 0.4, 1.0):
        a, s = VP.alpha(t), VP.sigma(t)
        p = D.Normal(torch.tensor(a * mean), torch.tensor(np.sqrt(a * a * var + s * s)))
        q = D.Normal(
            torch.zeros(2, dtype=torch.float64), torch.full((2,), VP.prior_std(t), dtype=torch.float64)
        )
        assert prior_gap(VP, t, mean, var) == pytest.approx(float(D.kl_divergence(p, q).sum()), rel=1e-12)


def test_horizon_solves_for_the_stationary_point() -> None:
    """A gap that grows as c T: the derivative of the prior's gap is -c there (found to the spacing)."""
    T = horizon(VP, 1.0, 0.25, lambda t: 0.05 * t)
    h = 1e-5
    slope = (prior_gap(VP, T + h, 1.0, 0.25) - prior_gap(VP, T - h, 1.0, 0.25)) / (2 * h)
    assert VP.t_min < T < VP.t_max
    assert float(slope) == pytest.approx(-0.05, rel=1e-3)
    assert horizon(VP, 1.0, 0.25, lambda t: 0 * t) == VP.t_max


def test_the_search_finds_the_start_of_a_known_map() -> None:
    """Data N(m, s^2): a sample is m + (std ratio) x_T, so the best start for targets m is the one nearest
    0."""
    m, s = 0.5, 0.3
    mixture = fd.testing.GaussianMixture([1.0], [m], [s])
    denoiser = fd.Denoiser(mixture.denoiser(VP, "noise"), VP, predicts="noise")
    targets = torch.full((3, 2), m)
    found = search_initial_noise(denoiser, targets, candidates=50, chunk=7, steps=30, seeds=4)
    starts = fd.noise.normal((50, 2), 4, stream=1)
    offset = starts - VP.alpha(1.0) * m
    nearest = int(offset.square().sum(1).argmin())
    assert int(found.scores.argmin()) == nearest
    assert torch.equal(found.x[0], starts[nearest] * VP.prior_std(1.0))
    assert (found.scores >= found.scores.min()).all() and found.scores.shape == (50,)


def test_what_is_wrong_is_said() -> None:
    denoiser = fd.Denoiser(lambda x, t: x, VP, predicts="noise")
    with pytest.raises(ValueError, match="candidates"):
        search_initial_noise(denoiser, torch.zeros(1, 2), candidates=0)
    with pytest.raises(ValueError, match="score_gap"):
        horizon(VP, 0.0, 1.0, lambda t: np.nan * t)
    with pytest.raises(ValueError, match="variance"):
        prior_gap(VP, 0.5, 0.0, -1.0)
