"""Simulators: exact laws. A covariance of N sampled paths errs by sqrt((c_ss c_tt + c_st^2) / N)."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch

from fastdiff.noise import Seeds, normal, streams
from fastdiff.noise.simulators import _fractional_noise, fractional_brownian, ou, scaled_brownian

F64 = torch.float64
CALLS = {
    "fractional_brownian": lambda shape, seeds, **k: fractional_brownian(shape, seeds, 0.3, **k),
    "scaled_brownian": lambda shape, seeds, **k: scaled_brownian(shape, seeds, 1.4, **k),
    "ou": lambda shape, seeds, **k: ou(shape, seeds, 0.8, **k),
}
EVERY = pytest.mark.parametrize("name", CALLS)


def within_five_errors(x: torch.Tensor, c: torch.Tensor) -> bool:
    x = x.double()
    got = x.t() @ x / len(x)
    return bool(
        ((got - c).abs() < 5 * torch.sqrt((c.diagonal()[:, None] * c.diagonal() + c**2) / len(x))).all()
    )


@pytest.mark.parametrize("hurst", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_fractional_brownian_has_its_covariance(hurst: float) -> None:
    """Exactly: the map of the increments, of the identity, summed; then by samples."""
    n, dt = 12, 0.5
    field = _fractional_noise(hurst, n)
    m = field.color(torch.eye(field.white[0], dtype=F64)).cumsum(1) * dt**hurst
    t = dt * torch.arange(1, n + 1, dtype=F64)
    h2 = 2 * hurst
    c = (t[:, None] ** h2 + t**h2 - (t[:, None] - t).abs() ** h2) / 2
    assert (m.t() @ m - c).abs().max() < 1e-12 * float(c.max())
    assert within_five_errors(fractional_brownian((5000, n), 1, hurst, dt=dt), c)


def test_far_increments_of_fractional_noise() -> None:
    field = _fractional_noise(0.9, 20000)
    for lag in (1, 7, 8, 100, 19999):
        with mp.workdps(40):
            h2, d = 2 * mp.mpf(0.9), mp.mpf(lag)
            want = float(((d + 1) ** h2 + (d - 1) ** h2 - 2 * d**h2) / 2)
        assert field.covariance(lag) == pytest.approx(want, rel=1e-12, abs=1e-13)


def test_mean_squared_displacement_is_a_power() -> None:
    """E |B(s+h) - B(s)|^2 = h^{2H}: two lags of 2000 paths; log of a mean of N squares errs by sqrt(2/N)."""
    x = fractional_brownian((2000, 64), 5, 0.3)
    short, long = x[:, 0].square().mean(), (x[:, 63] - x[:, 31]).square().mean()
    slope = float(torch.log(long / short)) / math.log(32)
    assert slope == pytest.approx(0.6, abs=5 * math.sqrt(2 * 2 / 2000) / math.log(32))


def test_scaled_brownian_is_brownian_in_another_time() -> None:
    z = normal((3, 6, 2), 8, stream=streams.SIMULATOR, dtype=F64)
    clock = [(0.5 * k) ** 1.4 for k in range(7)]
    want, w = [], torch.zeros(3, 2, dtype=F64)
    for k in range(6):
        w = w + math.sqrt(clock[k + 1] - clock[k]) * z[:, k]
        want.append(w)
    got = scaled_brownian((3, 6, 2), 8, 1.4, dt=0.5, dtype=F64)
    assert (got - torch.stack(want, 1)).abs().max() < 1e-14


def test_ou_has_its_covariance() -> None:
    t = 0.3 * torch.arange(6, dtype=F64)
    c = 4 * torch.exp(-0.8 * (t[:, None] - t).abs())
    assert within_five_errors(ou((5000, 6), 2, 0.8, std=2.0, dt=0.3), c)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_a_path_does_not_know_its_batch(name: str, dtype: torch.dtype) -> None:
    draw = CALLS[name]
    x = draw((64, 10, 3), 7, dtype=dtype)
    assert x.shape == (64, 10, 3) and x.dtype == dtype
    for i in (0, 17, 63):
        assert torch.equal(draw((1, 10, 3), Seeds(7, [i]), dtype=dtype), x[i : i + 1])
    assert torch.equal(draw((64, 10, 3), 7, dtype=F64).to(dtype), x)
    assert not torch.equal(draw((64, 10, 3), 7, dtype=dtype, draw=1), x)
    assert draw((2, 1), 7).shape == (2, 1)


@EVERY
def test_bad_calls(name: str) -> None:
    draw = CALLS[name]
    with pytest.raises(ValueError, match=rf"{name}: shape is \(3,\); \(B, L, \*\) with L >= 1"):
        draw((3,), 0)
    with pytest.raises(ValueError, match="dtype is torch.int64"):
        draw((3, 2), 0, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"{name}: dt is 0.0"):
        draw((3, 2), 0, dt=0.0)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"hurst is 1.2; a number in \(0, 1\)"):
        fractional_brownian((2, 3), 0, 1.2)
    with pytest.raises(ValueError, match="scaled_brownian: a is -1.0"):
        scaled_brownian((2, 3), 0, -1.0)
    with pytest.raises(ValueError, match="ou: rate is 0.0"):
        ou((2, 3), 0, 0.0)
    with pytest.raises(ValueError, match="ou: std is 0.0"):
        ou((2, 3), 0, 1.0, std=0.0)
