"""fd.likelihood.ode against the densities of Gaussians and of a mixture, which are known at every time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import fastdiff as fd
from fastdiff.likelihood import ode

DOUBLE = torch.float64
M, C = 0.7, 0.3**2  # data N(0.7, 0.3^2), element by element


def gaussian(process, predicts: str, dtype: torch.dtype = DOUBLE) -> fd.Denoiser:
    def net(x: Tensor, t: Tensor) -> Tensor:
        n = process.node(t.double()[:, None])
        a, s = n.alpha, n.sigma
        hat = M + a * C / (a * a * C + s * s) * (x.double() - a * M)
        eps = (x - a * hat) / s
        kinds = {"noise": eps, "data": hat, "velocity": a * eps - s * hat, "score": -eps / s}
        y = n.dalpha * hat + n.dsigma * eps if predicts == "flow" else kinds[predicts]
        return y.to(x.dtype)

    return fd.Denoiser(net, process, predicts=predicts)


def law(process, t: float) -> Normal:
    a, s = float(process.alpha(t)), float(process.sigma(t))
    return Normal(torch.tensor(a * M, dtype=DOUBLE), math.sqrt(a * a * C + s * s))


def points(n: int = 7) -> Tensor:
    return M + 0.6 * torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def exact(process, x: Tensor, t: float) -> Tensor:
    return law(process, t).log_prob(x.double()).sum(1)


def prior_of(process, t: float):
    return lambda z: law(process, t).log_prob(z.double()).sum(1)


def test_runge_kutta_on_a_gaussian() -> None:
    """400 steps of order 4: below 1e-8; and the order itself."""
    process, x = fd.processes.VP(), points()
    errors = []
    for steps in (50, 100, 400):
        density = ode(
            gaussian(process, "noise"),
            x,
            method="rk4",
            steps=steps,
            probes="exact",
            t_min=1e-3,
            prior=prior_of(process, 1.0),
        )
        errors.append((density.log_p - exact(process, x, 1e-3)).abs().max().item())
        assert density.calls == 4 * steps
    assert errors[2] < 1e-8
    assert 3.5 < math.log2(errors[0] / errors[1]) < 4.5


CASES = [
    (fd.processes.VP(), "noise", 1.0),
    (fd.processes.VP(), "data", 1.0),
    (fd.processes.VP(), "velocity", 1.0),
    (fd.processes.VP(), "score", 1.0),
    (fd.processes.VP(), "flow", 1.0),
    (fd.processes.FlowMatching(), "flow", 1.0),
    (fd.processes.FlowMatching(), "noise", 0.99),
    (fd.processes.EDM(), "data", 80.0),
    (fd.processes.SubVP(), "noise", 1.0),
]


@pytest.mark.parametrize("process, predicts, end", CASES, ids=lambda v: getattr(v, "key", str(v)))
def test_adaptive_on_every_path(process, predicts: str, end: float) -> None:
    """Tolerance 1e-8 a step, under a hundred steps: below 1e-5 in nats of three numbers; a looser one takes
    fewer calls."""
    x, t = points(), 1e-3 * process.t_max
    given = {"probes": "exact", "t_min": t, "t_max": end, "prior": prior_of(process, end)}
    net = gaussian(process, predicts)
    fine = ode(net, x, rtol=1e-8, atol=1e-8, **given)
    assert (fine.log_p - exact(process, x, t)).abs().max() < 1e-5
    coarse = ode(net, x, rtol=1e-4, atol=1e-4, **given)
    assert (coarse.log_p - exact(process, x, t)).abs().max() < 0.02
    assert coarse.calls < fine.calls


def test_the_prior_by_default() -> None:
    """N(0, 80^2), at the end of the flow in place of the exact law."""
    process, x = fd.processes.EDM(), points()
    density = ode(gaussian(process, "data"), x, t_min=0.02, rtol=1e-8, atol=1e-8)
    instead = Normal(0.0, 80.0).log_prob(density.z).sum(1) - exact(process, density.z, 80.0)
    torch.testing.assert_close(density.log_p, exact(process, x, 0.02) + instead, rtol=0, atol=1e-5)


def test_a_sample_depends_on_itself_alone() -> None:
    process, x = fd.processes.VP(), points()
    whole = ode(gaussian(process, "noise"), x, seeds=3)
    part = ode(gaussian(process, "noise"), x[[5, 2]], seeds=fd.Seeds(3, ids=[5, 2]))
    assert torch.equal(whole.log_p[[5, 2]], part.log_p) and torch.equal(whole.z[[5, 2]], part.z)


def correlated(process) -> tuple[fd.Denoiser, MultivariateNormal]:
    """Data N(0, A A^T / 4): the Jacobian has parts off its diagonal."""
    A = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [-0.4, 0.3, 0.2]], dtype=DOUBLE)
    cov = A @ A.T / 4

    def net(x: Tensor, t: Tensor) -> Tensor:
        n = process.node(t[:, None, None])
        V = n.alpha**2 * cov + n.sigma**2 * torch.eye(3, dtype=DOUBLE)
        return n.sigma[..., 0] * torch.linalg.solve(V, x[..., None])[..., 0]

    n = process.node(0.01)
    return (
        fd.Denoiser(net, process, predicts="noise"),
        MultivariateNormal(torch.zeros(3, dtype=DOUBLE), n.alpha**2 * cov + n.sigma**2 * torch.eye(3)),
    )


def test_probes_are_unbiased() -> None:
    """One point under 3000 probes: the mean within 4 standard errors of the exact divergence's density; of
    four probes a quarter of the variance. The solver's error is that of both."""
    process = fd.processes.VP()
    denoiser, _ = correlated(process)
    x = torch.tensor([[0.5, 0.1, -0.3]], dtype=DOUBLE)
    given = {"method": "rk4", "steps": 30, "t_min": 0.01}
    want = ode(denoiser, x, probes="exact", **given).log_p.item()
    for law_ in ("rademacher", "normal"):
        got = ode(denoiser, x.expand(3000, 3), seeds=1, law=law_, **given).log_p
        assert abs(got.mean().item() - want) < 4 * got.std().item() / math.sqrt(3000)
    one = ode(denoiser, x.expand(3000, 3), seeds=1, **given).log_p
    four = ode(denoiser, x.expand(3000, 3), seeds=2, probes=4, **given).log_p
    assert 3 < (one.var() / four.var()).item() < 5.3  # F with 2999 and 2999 degrees, far beyond 5 deviations


def test_correlated_gaussian() -> None:
    process = fd.processes.VP()
    denoiser, law_ = correlated(process)
    x = points() - M
    density = ode(denoiser, x, probes="exact", t_min=0.01, rtol=1e-8, atol=1e-8)
    # VP ends at alpha^2 = 4.3e-5: the standard prior is off by alpha^2 (|z|^2 + 3) / 2 at most
    allowed = 4.4e-5 * (density.z.square().sum(1) + 3) / 2 + 1e-5
    assert ((density.log_p - law_.log_prob(x)).abs() < allowed).all()


def test_signs_have_no_variance_on_a_diagonal() -> None:
    process, x = fd.processes.VP(), points()
    given = {"method": "heun", "steps": 20}
    a = ode(gaussian(process, "noise"), x, probes="exact", **given).log_p
    b = ode(gaussian(process, "noise"), x, seeds=5, **given).log_p
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_times_of_ones_own_and_float32() -> None:
    """float32 data: 400 calls round to 2^-24 each, times the slope of the field, up to 1 / 0.3."""
    process, x = fd.processes.VP(), points()
    times = torch.linspace(1e-2, 1.0, 101, dtype=DOUBLE).tolist()
    given = {"method": "rk4", "times": times, "t_min": 1e-2, "t_max": 1.0, "probes": "exact"}
    wide = ode(gaussian(process, "noise"), x, **given)
    thin = ode(gaussian(process, "noise"), x.float(), **given)
    assert thin.z.dtype == torch.float32 and thin.log_p.dtype == DOUBLE
    torch.testing.assert_close(wide.log_p, thin.log_p, rtol=0, atol=1e-4)
    half = ode(
        gaussian(process, "noise"), x.bfloat16(), **given
    )  # the network's part alone is rounded to 2^-8
    assert half.z.dtype == torch.bfloat16
    same = ode(gaussian(process, "noise"), x.bfloat16().double(), **given)
    assert (half.log_p - same.log_p).abs().max() < 0.02 * same.log_p.abs().max()


def test_gradients() -> None:
    """d log p / dx is the score, and that by a parameter of the network is finite differences'."""
    process, x = fd.processes.VP(), points(3).requires_grad_()
    given = {"method": "rk4", "steps": 60, "t_min": 0.01, "probes": "exact", "create_graph": True}
    density = ode(gaussian(process, "noise"), x, prior=prior_of(process, 1.0), **given)
    (score,) = torch.autograd.grad(density.log_p.sum(), x)
    law_ = law(process, 0.01)
    torch.testing.assert_close(score, -(x.detach() - law_.mean) / law_.variance, rtol=1e-4, atol=1e-4)

    def with_shift(w: Tensor) -> Tensor:
        plain = gaussian(process, "noise").net
        bent = fd.Denoiser(lambda x, t: plain(x, t) + w * torch.tanh(x), process, predicts="noise")
        return ode(bent, x.detach(), **given).log_p.sum()

    w = torch.tensor(0.1, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(with_shift(w), w)
    h = 1e-5
    finite = (with_shift(w.detach() + h) - with_shift(w.detach() - h)) / (2 * h)
    torch.testing.assert_close(slope, finite, rtol=1e-6, atol=1e-6)


def test_errors() -> None:
    process, x = fd.processes.VP(), points()
    net = gaussian(process, "noise")
    with pytest.raises(ValueError, match="unknown method 'dopri8'"):
        ode(net, x, method="dopri8")
    with pytest.raises(ValueError, match="probes must be a whole number >= 1 or 'exact', got 0"):
        ode(net, x, probes=0)
    with pytest.raises(ValueError, match=r"t_min=0 and t_max=1 must be increasing in \(0, 1\]"):
        ode(net, x, t_min=0)
    with pytest.raises(ValueError, match="times go with a method of fixed steps"):
        ode(net, x, times=[0.1, 1.0])
    with pytest.raises(ValueError, match="noise prediction cannot be turned into velocity at t=1"):
        ode(gaussian(fd.processes.FlowMatching(), "noise"), x)
    with pytest.raises(ValueError, match="pulls to 'mu'"):
        ode(gaussian(fd.processes.MeanReverting(), "noise"), x)
    with pytest.raises(ValueError, match="has no derivative by its input"):
        ode(fd.Denoiser(lambda x, t: x.detach(), process, predicts="noise"), x)
    with pytest.raises(fd.NonFinite, match="the flow cannot be followed"):
        ode(fd.Denoiser(lambda x, t: x * math.nan, process, predicts="noise"), x)
    with pytest.raises(RuntimeError, match="2 steps"):
        ode(net, x, max_steps=2)
