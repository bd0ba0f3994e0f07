"""fd.likelihood's bound, units, dequantisation and running density against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import fastdiff as fd
from fastdiff.likelihood import ItoDensity, bits_per_dim, elbo, truncated_normal_dequantize
from fastdiff.likelihood.truncated_normal_dequantize import entropy

DOUBLE = torch.float64
VP = fd.processes.VP()
M, C = -0.3, 0.8


def net(x: Tensor, t: Tensor) -> Tensor:
    """The exact noise prediction for data N(M, C)."""
    n = VP.node(t.double().reshape(-1, *[1] * (x.dim() - 1)))
    return (n.sigma * (x - n.alpha * M) / (n.alpha**2 * C + n.sigma**2)).to(x.dtype)


DENOISER = fd.Denoiser(net, VP, predicts="noise")


def data(batch: int, n: int) -> Tensor:
    return M + math.sqrt(C) * fd.noise.normal((batch, n), 11, dtype=DOUBLE)


def snr(t: float) -> float:
    return math.exp(2 * float(VP.lam(t)))


def close(values: Tensor, want: float, errors: float = 5) -> None:
    """The mean within so many standard errors of what came."""
    mean, error = values.mean().item(), values.std().item() / math.sqrt(values.numel())
    assert abs(mean - want) < errors * error, (mean, want, error)


def test_continuous_bound_is_the_mutual_information() -> None:
    """On Gaussian data the integral is n [log(1 + C SNR)] / 2 between the ends (dI/dSNR = mmse / 2)."""
    low, n = 1e-2, 40
    bound = elbo(DENOISER, data(200, n), steps=60, seeds=0, t_min=low)
    close(bound.diffusion, n / 2 * math.log((1 + C * snr(low)) / (1 + C * snr(1.0))))


def test_discrete_bound() -> None:
    """sum (SNR_s - SNR_t) mmse_t / 2, mmse = C / (1 + C SNR); and above the continuous one."""
    times, n = np.linspace(1.0, 0.05, 21), 40
    bound = elbo(DENOISER, data(200, n), mode="discrete", times=times, seeds=0)
    r = np.array([snr(t) for t in times])
    want = n / 2 * float(((r[1:] - r[:-1]) * C / (1 + C * r[:-1])).sum())
    close(bound.diffusion, want)
    assert want > n / 2 * math.log((1 + C * r[-1]) / (1 + C * r[0]))


@pytest.mark.parametrize("predicts", ("noise", "data", "velocity"))
def test_discrete_terms_written_out(predicts: str) -> None:
    """Against torch.distributions on the same noise; 20 numbers in float64."""
    x0, times = data(5, 4), [1.0, 0.7, 0.3, 0.1]

    def other(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(2 * x) + t[:, None]

    bound = elbo(fd.Denoiser(other, VP, predicts=predicts), x0, mode="discrete", times=times, seeds=4)
    total = torch.zeros(5, dtype=DOUBLE)
    for k, t in enumerate(times):
        eps = fd.ops.normal(x0.shape, fd.noise.resolve(4, 5), k, 2, dtype=DOUBLE)
        a, s = float(VP.alpha(t)), float(VP.sigma(t))
        x_t = a * x0 + s * eps
        out = other(x_t, torch.full((5,), t, dtype=DOUBLE))
        hat = {"noise": (x_t - s * out) / a, "data": out, "velocity": a * x_t - s * out}[predicts]
        if t == times[-1]:
            recon = -Normal(hat, s / a).log_prob(x0).sum(1)
            break
        b, u = float(VP.alpha(times[k + 1])), float(VP.sigma(times[k + 1]))
        ats = a / b
        sts2 = s * s - ats * ats * u * u
        std = math.sqrt(sts2) * u / s
        q, p = (Normal(ats * u * u / s**2 * x_t + b * sts2 / s**2 * x, std) for x in (x0, hat))
        total += kl_divergence(q, p).sum(1)
    torch.testing.assert_close(bound.diffusion, total, rtol=1e-9, atol=0)
    torch.testing.assert_close(bound.recon, recon, rtol=1e-9, atol=0)
    a, s = float(VP.alpha(1.0)), float(VP.sigma(1.0))
    prior = kl_divergence(Normal(a * x0, s), Normal(0.0, VP.prior_std(1.0))).sum(1)
    torch.testing.assert_close(bound.prior, prior, rtol=1e-6, atol=1e-12)


def test_learned_variance() -> None:
    """log var = v log beta + (1 - v) log beta~, v = (out + 1) / 2."""
    x0, (t, u) = data(3, 8).reshape(3, 2, 4), (0.6, 0.4)
    denoiser = fd.Denoiser(
        lambda x, t: torch.cat([x / 2, torch.tanh(x)], 1), VP, predicts="noise", variance="learned-range"
    )
    bound = elbo(denoiser, x0, mode="discrete", times=[t, u], seeds=1)
    eps = fd.ops.normal(x0.shape, fd.noise.resolve(1, 3), 0, 2, dtype=DOUBLE)
    (a, s), (b, w) = ((float(VP.alpha(v)), float(VP.sigma(v))) for v in (t, u))
    x_t = a * x0 + s * eps
    beta = s * s - (a / b) ** 2 * w * w
    small = beta * w * w / (s * s)
    hat, v = (x_t - s * x_t / 2) / a, (torch.tanh(x_t) + 1) / 2
    q, p = ((a / b) * w * w / s**2 * x_t + b * beta / s**2 * x for x in (x0, hat))
    std = (0.5 * (v * math.log(beta) + (1 - v) * math.log(small))).exp()
    want = kl_divergence(Normal(q, math.sqrt(small)), Normal(p, std)).flatten(1).sum(1)
    torch.testing.assert_close(bound.diffusion, want, rtol=1e-9, atol=0)


def test_levels() -> None:
    """The decoder's cells: masses by scipy's normal, the end cells open; over all levels they sum to 1."""
    levels, t = 16, 0.02
    grid = torch.linspace(-1, 1, levels, dtype=DOUBLE)
    x0 = grid.reshape(levels, 1)
    a, s = float(VP.alpha(t)), float(VP.sigma(t))
    same = fd.Denoiser(lambda x, t: torch.full_like(x, 0.2), VP, predicts="data")
    recon = elbo(same, x0, mode="discrete", times=[1.0, t], seeds=0, levels=levels).recon
    edges = np.concatenate([[-np.inf], (np.asarray(grid[1:]) + np.asarray(grid[:-1])) / 2, [np.inf]])
    log_mass = np.log(np.diff(stats.norm.cdf(edges, 0.2, s / a)).clip(1e-300))
    seen = log_mass > -25  # beyond that a difference of distribution functions is rounding
    np.testing.assert_allclose(-recon.numpy()[seen], log_mass[seen], rtol=1e-8, atol=1e-12)
    assert (-recon).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_bound_is_below_the_density() -> None:
    """With the exact model, in the mean over data, and by little at 200 steps."""
    x0, n = data(200, 20), 20
    bound = elbo(DENOISER, x0, steps=200, seeds=0, t_min=5e-3).log_p
    exact = Normal(M, math.sqrt(C)).log_prob(x0).sum(1)
    gap = (exact - bound) / n
    assert 0 < gap.mean().item() < 0.05


def test_bits() -> None:
    """256 levels of equal probability are 8 bits, said as probability or as a density on [-1, 1]."""
    n = 12
    as_mass, as_density = (torch.tensor([-n * math.log(v)], dtype=DOUBLE) for v in (256, 2))
    assert bits_per_dim(as_mass, (3, 2, 2)).item() == pytest.approx(8, rel=1e-15)
    assert bits_per_dim(as_density, n, levels=256).item() == pytest.approx(8, rel=1e-15)
    with pytest.raises(ValueError, match="levels must be a whole number >= 2, got 1"):
        bits_per_dim(as_mass, n, levels=1)


def test_dequantisation_is_the_truncated_normal() -> None:
    """log q by scipy; the law of z by Kolmogorov and Smirnov; its entropy."""
    t0, levels, batch, n = 2e-3, 256, 40, 500
    x = (fd.noise.uniform((batch, n), 3, dtype=DOUBLE) * levels).long()
    points, log_q = truncated_normal_dequantize(x, VP, t0, 0, levels=levels, dtype=DOUBLE)
    a, s = float(VP.alpha(t0)), float(VP.sigma(t0))
    tau = a / (levels * s)
    centre = a * ((2 * x.double() + 1) / levels - 1)
    law = stats.truncnorm(-tau, tau)
    z = ((points - centre) / s).numpy()
    assert abs(z).max() <= tau * (1 + 1e-12)
    assert stats.kstest(z.reshape(-1), law.cdf).pvalue > 1e-4
    want = (law.logpdf(z.clip(-tau, tau)) - math.log(s)).sum(1)
    np.testing.assert_allclose(log_q.numpy(), want, rtol=1e-9)
    assert entropy(tau, s) == pytest.approx(law.entropy() + math.log(s), rel=1e-9)
    again, _ = truncated_normal_dequantize(x, VP, t0, 0, levels=levels, draw=1, dtype=DOUBLE)
    assert not torch.equal(points, again)


def test_dequantised_density_is_the_probability() -> None:
    """E_q[p(x) / q(x)] is the mass of the cell under p_t0."""
    t0, levels, i = 5e-2, 8, 3
    a, s = float(VP.alpha(t0)), float(VP.sigma(t0))
    points, log_q = truncated_normal_dequantize(
        torch.full((50_000, 1), i), VP, t0, 0, levels=levels, dtype=DOUBLE
    )
    law = Normal(a * M, math.sqrt(a * a * C + s * s))
    ratio = (law.log_prob(points).sum(1) - log_q).exp()
    left, right = (torch.tensor(a * (2 * v / levels - 1)) for v in (i, i + 1))
    close(ratio, float(law.cdf(right) - law.cdf(left)))


def test_ito_density() -> None:
    """Euler-Maruyama on a 4-D Gaussian: the estimate's error falls as the root of the steps, 2 for steps x 4;
    and it is of the size that its first term left out has."""
    errors, t_end = [], 1e-2
    n = VP.node(t_end)
    law = Normal(n.alpha * M, math.sqrt(n.alpha**2 * C + n.sigma**2))
    start = VP.node(1.0)
    first = Normal(start.alpha * M, math.sqrt(start.alpha**2 * C + start.sigma**2))
    for steps in (100, 400):
        ito = ItoDensity(start=lambda x: first.log_prob(x.double()).sum(1))
        times = np.linspace(1.0, t_end, steps + 1)
        x = fd.sample(DENOISER, (1500, 4), solver="em", times=times, seeds=1, hooks=[ito], dtype=DOUBLE)
        errors.append((ito.log_q - law.log_prob(x).sum(1)).square().mean().sqrt().item())
    assert 1.7 < errors[0] / errors[1] < 2.3
    assert errors[1] < 1.5


def test_ito_density_over_chunks() -> None:
    ito = ItoDensity()
    given = {"solver": "em", "times": np.linspace(1.0, 0.1, 11), "seeds": 1, "hooks": [ito]}
    fd.sample(DENOISER, (7, 4), **given)
    whole = ito.log_q
    fd.sample(DENOISER, (7, 4), chunk=3, **given)
    assert torch.equal(ito.log_q, whole) and whole.shape == (7,)


def test_errors() -> None:
    x0 = data(2, 3)
    with pytest.raises(ValueError, match="mode must be 'continuous' or 'discrete', got 'both'"):
        elbo(DENOISER, x0, mode="both")
    with pytest.raises(ValueError, match="times go with mode='discrete'"):
        elbo(DENOISER, x0, times=[1.0, 0.1])
    with pytest.raises(ValueError, match="times must be strictly decreasing to one with sigma > 0"):
        elbo(DENOISER, x0, mode="discrete", times=[1.0, 0.0])
    with pytest.raises(ValueError, match="lambda is infinite at t_max=1"):
        elbo(fd.Denoiser(net, fd.processes.FlowMatching(), predicts="flow"), x0)
    with pytest.raises(TypeError, match="x must be a tensor .* of whole numbers, got torch.float64"):
        truncated_normal_dequantize(x0, VP, 1e-3)
    with pytest.raises(ValueError, match=r"x must lie in 0 .. 255, got 0 .. 256"):
        truncated_normal_dequantize(torch.tensor([[0, 256]]), VP, 1e-3)
    with pytest.raises(ValueError, match="no run has been made"):
        _ = ItoDensity().log_q
