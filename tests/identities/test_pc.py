"""Predictor and corrector: the law of Langevin sweeps in closed form, and sweeps whose size the data
decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.core.interpret import interpret
from fastdiff.runtime.operators import langevin
from fastdiff.testing import GaussianMixture, affine_law

MEAN, STD = 0.7, 0.4


@pytest.mark.parametrize("process", [fd.processes.VP(), fd.processes.VE(), fd.processes.SubVP()])
@pytest.mark.parametrize("sweeps", [0, 1, 7])
def test_sweeps_have_their_law(process: Any, sweeps: int) -> None:
    """One step, then K sweeps of e on Gaussian data of variance V at that level: v <- (1 - e / V)^2 v + 2
    e."""
    times = [0.6 * process.t_max, 0.3 * process.t_max]
    s, t = (process.node(v) for v in times)

    def variance(k: int) -> float:
        made = fd.plan("pc", process, times, corrector="ald", sweeps=k, snr=0.3)
        return affine_law(
            lambda model, x, noise: interpret(made, lambda x, c, b: model(x, c.t), x, noise=noise),
            process, times[0], mean=MEAN, std=STD,
        ).variance  # fmt: skip

    e = 2 * (s.alpha / t.alpha) ** 2 * (0.3 * t.sigma) ** 2
    V = (t.alpha * STD) ** 2 + t.sigma**2
    want = variance(0)
    for _ in range(sweeps):
        want = (1 - e / V) ** 2 * want + 2 * e
    assert variance(sweeps) == pytest.approx(want, rel=1e-12)


def test_many_sweeps_end_at_the_known_bias() -> None:
    """V / (1 - e / (2 V)): 200 sweeps contract what is left by 1e-20."""
    process = fd.processes.VP()
    made = fd.plan("pc", process, [0.6, 0.3], corrector="ald", sweeps=60, snr=0.5)
    s, t = process.node(0.6), process.node(0.3)
    e, V = 2 * (s.alpha / t.alpha) ** 2 * (0.5 * t.sigma) ** 2, (t.alpha * STD) ** 2 + t.sigma**2
    law = affine_law(
        lambda model, x, noise: interpret(made, lambda x, c, b: model(x, c.t), x, noise=noise),
        process, 0.6, mean=MEAN, std=STD, start=(3.0, 2.0),
    )  # fmt: skip
    left = (1 - e / V) ** 120
    assert law.variance == pytest.approx(V / (1 - e / (2 * V)), rel=10 * left + 1e-12)
    assert law.mean == pytest.approx(t.alpha * MEAN, abs=10 * left**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_langevin_step_is_the_papers(dtype: torch.dtype) -> None:
    """numpy in float64 on the same numbers; one or two roundings of the dtype."""
    x, score, z = (fd.noise.normal((3, 2, 5), k, dtype=dtype) for k in range(3))
    sigma = 0.5  # a power of two: the noise prediction -sigma score is exact
    got = langevin(x, -sigma * score, z, t=0.5, params=(0.9, 0.16, sigma))
    a, b, c = (v.double().numpy() for v in (x, score, z))
    norm = [np.sqrt((v.reshape(3, -1) ** 2).sum(1))[:, None, None] for v in (c, b)]
    e = 2 * 0.9 * (0.16 * norm[0] / norm[1]) ** 2
    want = torch.from_numpy(a + e * b + np.sqrt(2 * e) * c)
    eps = torch.finfo(torch.float32 if dtype == torch.bfloat16 else dtype).eps
    torch.testing.assert_close(got.double(), want, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("inner", ["reverse-diffusion", "em", "ancestral", "ddim"])
def test_samples_of_gaussian_data(inner: str) -> None:
    """Mean and spread of 40,000 numbers within 5 standard errors and the bias of the sweeps, e / (4 V) < 4
    %."""
    process = fd.processes.VP()
    data = GaussianMixture([1.0], [MEAN], [STD])
    denoiser = fd.Denoiser(data.denoiser(process, "score"), process, predicts="score")
    options = {"solver": "pc", "inner": inner, "steps": 100, "final": "sigma_min"}
    x = fd.sample(denoiser, (20, 2000), seeds=1, **options)
    assert isinstance(x, torch.Tensor)
    assert abs(float(x.mean()) - MEAN) < 5 * STD / 40_000**0.5 + 0.01
    assert abs(float(x.std()) / STD - 1) < 5 / 80_000**0.5 + 0.04
    alone = fd.sample(denoiser, (1, 2000), seeds=fd.Seeds(1, ids=[13]), **options)
    assert torch.equal(alone[0], x[13])  # step sizes of its own


def test_bad_options() -> None:
    for bad in ({"snr": -1.0}, {"sweeps": -1}, {"corrector": "mala"}, {"inner": "reverse"}):
        with pytest.raises(ValueError):
            fd.solvers.make("pc", **bad)
