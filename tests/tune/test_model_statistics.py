"""Statistics of networks whose statistics are known: Gaussian data in closed form, a mixture by
quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fastdiff as fd
from fastdiff.testing import GaussianMixture

VP = fd.processes.VP()
MEANS, STDS = [0.3, -1.0, 0.5], [0.4, 0.8, 1.2]


def gaussian(dtype: torch.dtype = torch.float64, time: object = "t") -> fd.Denoiser:
    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = (t + 1) / 1000 if time != "t" else t
        a, s = (f(t.to(x.dtype)).view(-1, 1) for f in (VP.alpha, VP.sigma))
        return s * (x - a * x.new_tensor(MEANS)) / (a**2 * x.new_tensor(STDS) ** 2 + s**2)

    return fd.Denoiser(net, VP, predicts="noise", time=time)  # type: ignore[arg-type]


def levels(lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    times = np.asarray(VP.time_of(lam))
    return np.asarray(VP.alpha(times)), np.asarray(VP.sigma(times))


def test_gaussian_data() -> None:
    """l = sigma^2 / V, s = 0, b = d(-sigma^2 mu / V) / dlambda. The Jacobian is diagonal, so that random
    signs give it exactly; b has the error of differences over the nodes, that falls by 16 here."""
    x0 = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0 = x0.new_tensor(MEANS) + x0.new_tensor(STDS) * x0
    errors = []
    for nodes in (60, 240):
        held = fd.tune.model_statistics(gaussian(), x0, nodes=nodes, chunk=16)
        alpha, sigma = (v[:, None] for v in levels(held.lam))
        r, var, mean = (sigma / alpha) ** 2, np.square(STDS), np.array(MEANS)
        assert held.shape == (3,) and held.process == repr(VP)
        assert np.abs(held.l - r / (var + r)).max() < 1e-13
        assert not held.s.any(), "f does not vary"
        errors.append(np.abs(held.b - 2 * r * var * mean / (var + r) ** 2)[2:-2].max())
    # every node has its own draws, whose mean multiplies the error of the differences
    assert errors[-1] < 1e-3 and abs(math.log2(errors[0] / errors[1]) / 2 - 2) < 0.2
    times = fd.grid("logsnr", VP, steps=4, final="sigma_min")
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None].expand(5, 3).contiguous()
    y = fd.sample(gaussian(), x, solver="dpm-v3", order=1, statistics=held, times=times)
    s, t = (VP.node(float(v)) for v in times[[0, -1]])
    sd, mean = x.new_tensor(STDS), x.new_tensor(MEANS)
    scale = ((t.alpha**2 * sd**2 + t.sigma**2) / (s.alpha**2 * sd**2 + s.sigma**2)).sqrt()
    assert (y - t.alpha * mean - scale * (x - s.alpha * mean)).abs().max() < 2.5e-3, (
        "straight lines between nodes"
    )


@pytest.mark.parametrize("time, tol", [("t", 1e-3), (("index", 1000), 0.05)])
def test_other_clocks_and_float32(time: object, tol: float) -> None:
    """float32: rounding over steps of 5e-3. Discrete times: half an index of rounding in lambda' of up to
    0.1 an index at the data."""
    x0 = torch.tensor(MEANS) + torch.tensor(STDS) * torch.randn(
        20, 3, generator=torch.Generator().manual_seed(1)
    )
    nodes = VP.time_of(np.linspace(-4.0, 2.0, 31))
    held = fd.tune.model_statistics(gaussian(time=time), x0, times=nodes)
    alpha, sigma = (v[:, None] for v in levels(held.lam))
    r, var, mean = (sigma / alpha) ** 2, np.square(STDS), np.array(MEANS)
    assert np.abs(held.l - r / (var + r)).max() < tol
    # differences of l over nodes 0.2 apart: (0.2)^2 / 6 of its third derivative, about 0.01
    assert np.abs(held.b - 2 * r * var * mean / (var + r) ** 2)[1:-1].max() < 0.02 + tol


def test_a_mixture_by_quadrature() -> None:
    """Expectations over p_t by 4000 points on the line; statistical errors of 20000 samples: 5 standard
    errors of a mean of size 1 is 0.035, of s, a ratio, twice that."""
    mix = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
    denoiser = fd.Denoiser(mix.denoiser(VP, "noise"), VP, predicts="noise")
    g = torch.Generator().manual_seed(2)
    which = torch.rand(20000, 1, dtype=torch.float64, generator=g) < 0.3
    z = torch.randn(20000, 1, dtype=torch.float64, generator=g)
    x0 = torch.where(which, -1.0 + 0.3 * z, 1.5 + 0.5 * z)
    lam = np.linspace(-2.0, 2.0, 41)
    held = fd.tune.model_statistics(denoiser, x0, times=VP.time_of(lam), chunk=20000, per="all")
    assert held.shape == ()

    def at(v: float) -> tuple[torch.Tensor, ...]:
        n = VP.node(float(VP.time_of(v)))
        x = torch.linspace(-8, 8, 4001, dtype=torch.float64, requires_grad=True)
        var = [(n.alpha * sd) ** 2 + n.sigma**2 for sd in (0.3, 0.5)]
        density = sum(
            w * torch.exp(-((x - n.alpha * m) ** 2) / (2 * u)) / math.sqrt(2 * math.pi * u)
            for w, m, u in zip((0.3, 0.7), (-1.0, 1.5), var, strict=True)
        )
        assert isinstance(density, torch.Tensor)
        weights = (density * 16 / 4000).detach()
        D = mix.expectations(x, n.alpha, n.sigma)[0]
        (slope,) = torch.autograd.grad(D.sum(), x)
        return x.detach(), weights, D.detach(), slope, torch.tensor(n.alpha), torch.tensor(n.sigma)

    def l_at(v: float) -> float:
        _, w, _, slope, alpha, _ = at(v)
        return float(1 - alpha * (w * slope).sum())

    for k in range(2, 39, 6):
        v, d = float(lam[k]), 1e-3
        x, w, D, _, alpha, _ = at(v)
        y, l, dl = x / alpha, l_at(v), (l_at(v + 0.01) - l_at(v - 0.01)) / 0.02  # noqa: E741
        moved = []
        for u in (v + d, v - d):
            n = VP.node(float(VP.time_of(u)))
            along = n.alpha * (y + (u - v) * (D - y))
            moved.append(mix.expectations(along, n.alpha, n.sigma)[0])
        D1 = (moved[0] - moved[1]) / (2 * d)
        f, f1 = (1 - l) * y - D, -dl * y + (1 - l) * (D - y) - D1
        mean, mean1 = (w * f).sum(), (w * f1).sum()
        s = float(((w * f * f1).sum() - mean * mean1) / ((w * f * f).sum() - mean**2))
        assert held.l[k] == pytest.approx(l, abs=0.035)
        assert held.s[k] == pytest.approx(s, abs=0.2)
        assert held.b[k] == pytest.approx(float(mean1 - s * mean), abs=0.2)


def test_groups_and_seeds() -> None:
    x0 = torch.randn(6, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    denoiser = fd.Denoiser(lambda x, t: 0.9 * x.tanh(), VP, predicts="noise")
    shapes = {"element": (2, 3, 4), "channel": (2, 1, 1), "all": ()}
    held = {k: fd.tune.model_statistics(denoiser, x0, nodes=4, per=k) for k in shapes}
    assert {k: v.shape for k, v in held.items()} == shapes
    # l is a mean: over groups it is the mean of the elements' own
    assert np.allclose(held["element"].l.mean((2, 3)), held["channel"].l[..., 0, 0], rtol=1e-12)
    assert np.allclose(held["element"].l.mean((1, 2, 3)), held["all"].l, rtol=1e-12)
    parts = fd.tune.model_statistics(denoiser, x0, nodes=4, chunk=2)
    assert np.allclose(parts.s, held["element"].s, rtol=1e-8), "the same draws in parts"


def test_errors() -> None:
    x0, ok = torch.randn(4, 3), gaussian()
    for arguments, words in [
        ((ok, x0[:0]), "at least 1 sample"),
        ((fd.Denoiser(lambda x, t: x, fd.processes.FlowMatching(), predicts="flow"), x0), "give times"),
        ((fd.Denoiser(lambda x, t: x, fd.processes.MeanReverting(), predicts="noise"), x0), "const"),
    ]:
        with pytest.raises(ValueError, match=words):
            fd.tune.model_statistics(*arguments)
    for options, words in [
        ({"nodes": 1}, "nodes"),
        ({"per": "pixel"}, "per"),
        ({"step": 0.0}, "step"),
        ({"chunk": 0}, "chunk"),
        ({"times": [1.0, 0.5, 0.0]}, "sigma = 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            fd.tune.model_statistics(ok, x0, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="denoiser"):
        fd.tune.model_statistics(VP, x0)  # type: ignore[arg-type]
