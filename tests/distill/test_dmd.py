"""fd.distill.DMD: written out in float64, and on Gaussian laws, whose denoisers are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.distill import DMD

DOUBLE = torch.float64
VP = fd.processes.VP()


def gaussian(m: float, c: float, process=VP, predicts: str = "noise") -> fd.Denoiser:
    """The exact denoiser of data N(m, c)."""

    def net(x: Tensor, t: Tensor, shift: Tensor | None = None) -> Tensor:
        a, s = (f(t.double()).reshape(-1, *[1] * (x.dim() - 1)) for f in (process.alpha, process.sigma))
        at = m if shift is None else m + shift[:, None]
        eps = s * (x - a * at) / (a * a * c + s * s)
        return eps if predicts == "noise" else (x - s * eps) / a

    return fd.Denoiser(net, process, predicts=predicts)


def data(batch: int = 5, size: int = 7) -> Tensor:
    return torch.randn(batch, size, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def drawn(x: Tensor, seeds: int, process=VP):
    """(t, alpha, sigma, x_t) of the call: uniform in the middle 96 %, noise of process.perturb."""
    u = fd.noise.uniform((len(x),), seeds, stream=3, dtype=DOUBLE)
    span = process.t_max - process.t_zero
    t = process.t_zero + span * (0.02 + 0.96 * u)
    return t, process.alpha(t)[:, None], process.sigma(t)[:, None], process.perturb(x, t, seeds=seeds)[0]


@pytest.mark.parametrize("process", [VP, fd.processes.FlowMatching()], ids=lambda p: p.key)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_written_out(process, reduction: str) -> None:
    """Value 1e-12, slope 1e-10: some ten float64 operations."""
    x = data().requires_grad_()
    real, fake = gaussian(0.3, 1.2, process), gaussian(-0.5, 0.7, process, "data")
    loss = DMD(real, fake, reduction=reduction)
    t, a, s, x_t = drawn(x.detach(), 6, process)
    x0_real = (x_t - s * real.net(x_t, t)) / a
    G = fake.net(x_t, t) - x0_real
    G = G / (x.detach() - x0_real).abs().mean(1, keepdim=True)
    scale = 5 * 7 if reduction == "mean" else 5
    got = loss(x, seeds=6)
    torch.testing.assert_close(got, 0.5 * G.square().sum() / scale, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(got, x)[0], G / scale, rtol=1e-10, atol=1e-13)


def test_equal_laws_stand_still_and_a_shifted_one_goes_back() -> None:
    """Equal variances: x0_fake - x0_real = (1 - alpha k) (m_fake - m_real), k = alpha c / (alpha^2 c +
    sigma^2), the same for every x."""
    x, c = data() - 0.5, 0.7
    assert float(DMD(gaussian(0.3, c), gaussian(0.3, c)).direction(x, seeds=2).abs().max()) < 1e-12
    real, fake = gaussian(0.3, c), gaussian(-0.5, c)
    G = DMD(real, fake).direction(x, seeds=2)
    t, a, s, x_t = drawn(x, 2)
    size = (x - (x_t - s * real.net(x_t, t)) / a).abs().mean(1, keepdim=True)
    gain = 1 - a * a * c / (a * a * c + s * s)
    torch.testing.assert_close(G, (gain * (-0.5 - 0.3) / size).expand_as(G), rtol=1e-10, atol=1e-12)
    assert (G < 0).all()  # descent raises x


def test_guidance_of_the_real_one() -> None:
    """A shift of the mean as condition: guided x0 is the conditional one, s times its way from the other."""
    x, c = data(), 0.7
    cond, none = {"shift": torch.ones(5, dtype=DOUBLE)}, {"shift": torch.zeros(5, dtype=DOUBLE)}
    fake = gaussian(0.0, c)
    one = DMD(gaussian(0.3, c), fake, scale=2.5, uncond=none).direction(x, cond=cond, seeds=2)
    far = {"shift": torch.full((5,), 2.5, dtype=DOUBLE)}  # x0 is affine in the mean

    still = fd.Denoiser(lambda y, t, shift=None: fake.net(y, t, cond["shift"]), VP, predicts="noise")
    two = DMD(gaussian(0.3, c), still).direction(x, cond=far, seeds=2)
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_no_number_counts_as_zero() -> None:
    """A denoiser that gives x itself back has size 0, and 0 / 0 is left out."""
    x = torch.zeros(2, 3, dtype=DOUBLE)
    zero = fd.Denoiser(lambda x, t: torch.zeros_like(x), VP, predicts="data")
    assert torch.equal(DMD(zero, zero).direction(x, seeds=0), torch.zeros_like(x))


def test_what_is_wrong_is_said() -> None:
    d = gaussian(0, 1)
    with pytest.raises(TypeError, match="fake"):
        DMD(d, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uncond"):
        DMD(d, d, scale=2.0)
    with pytest.raises(ValueError, match="times"):
        DMD(d, d, times=(0.5, 0.2))
    with pytest.raises(ValueError, match="one process"):
        DMD(d, gaussian(0, 1, fd.processes.FlowMatching()))
