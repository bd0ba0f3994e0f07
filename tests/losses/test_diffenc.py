"""fd.losses.DiffEnc against the published velocity form written out in float64, its two limits, and a value
by quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import Denoising, DiffEnc

DOUBLE = torch.float64
VP = fd.processes.VP()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(3, 3, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) @ self.w + torch.cos(t)[:, None]


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.v = torch.nn.Parameter(torch.linspace(-1, 1, 3, dtype=DOUBLE))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return torch.sin(x * self.v + level[:, None] / 5)

    def slope(self, x: Tensor, level: Tensor) -> Tensor:
        return torch.cos(x * self.v + level[:, None] / 5) / 5


def data(batch: int = 7) -> Tensor:
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def test_value_and_gradients_in_the_published_form() -> None:
    """(gamma' / 2) alpha^2 |v - v_hat + sigma (x_hat - x_t + y + dy/dgamma)|^2, gamma = -log SNR, for the
    network's and the encoder's parameters."""
    x0, net, encoder = data(), Net(), Encoder()
    loss_fn = DiffEnc(VP, encoder, t_min=1e-2)
    terms = loss_fn.per_sample(net, x0, seeds=3)
    t, parameters = terms.t, (net.w, encoder.v)
    a, s = VP.alpha(t)[:, None], VP.sigma(t)[:, None]
    level = 2 * VP.lam(t)
    y, by_gamma = encoder(x0, level), -encoder.slope(x0, level)
    x_t = x0 + s**2 * (y - x0)
    _, eps = VP.perturb(x0, t, seeds=3)
    z = a * x_t + s * eps
    v, v_hat = a * eps - s * x_t, net(z, t)
    x_hat = a * z - s * v_hat
    each = (v - v_hat + s * (x_hat - x_t + y + by_gamma)) ** 2
    want = (-VP.dlam(t) * VP.alpha(t) ** 2 * each.mean(1)).mean()
    got = terms.weighted.mean()
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    slopes, wants = (torch.autograd.grad(v, parameters) for v in (got, want))
    for slope, want_slope in zip(slopes, wants, strict=True):
        torch.testing.assert_close(slope, want_slope, rtol=1e-10, atol=1e-12 * float(want_slope.abs().max()))


@pytest.mark.parametrize("predicts", ("velocity", "noise", "data", "flow"))
def test_the_identity_encoder_is_denoising(predicts: str) -> None:
    """y = x and m_hat = 0."""
    x0, net = data(), Net()
    one = DiffEnc(VP, lambda x, level: x + 0 * level[:, None], predicts, drift="zero", t_min=1e-2)
    other = Denoising(VP, predicts, "elbo", t_min=1e-2)
    torch.testing.assert_close(one(net, x0, seeds=1), other(net, x0, seeds=1), rtol=1e-12, atol=0)


def test_the_fading_encoder() -> None:
    """y = 0: x_t = alpha^2 x, and what is to be met is (1 + sigma^2) x_t."""
    loss_fn = DiffEnc(VP, lambda x, level: 0 * x * level[:, None])
    t = torch.linspace(0.1, 0.9, 7, dtype=DOUBLE)
    code, slope = loss_fn.encoded(data(), t)
    torch.testing.assert_close(code, VP.alpha(t)[:, None] ** 2 * data(), rtol=1e-13, atol=0)
    torch.testing.assert_close(code + slope, (1 + VP.sigma(t)[:, None] ** 2) * code, rtol=1e-13, atol=0)


def test_the_integral() -> None:
    """x = 0.8, y = 0.1 gamma, x_hat = 0.3 z for gamma from -6 to 6: by Gauss-Legendre over gamma and the mean
    and variance of the error, which is linear in the noise. Allowed: 5 standard errors of 2e5 draws."""
    import numpy as np

    nodes, w = np.polynomial.legendre.leggauss(400)
    gamma = 6 * nodes
    a2 = 1 / (1 + np.exp(gamma))
    s2, a = 1 - a2, np.sqrt(a2)
    y = 0.1 * gamma
    code = a2 * 0.8 + s2 * y
    target = code + a2 * s2 * (0.8 - y) - 0.1 * s2
    mean, deviation = target - (1 + s2) * 0.3 * a * code, (1 + s2) * 0.3 * np.sqrt(s2)
    want = float((6 * w * 0.5 * a2 / s2 * (mean**2 + deviation**2)).sum())
    assert want == pytest.approx(63.6994, abs=1e-4)  # of an independent calculation

    low, high = (float(VP.time_of(lam)) for lam in (3.0, -3.0))
    x0 = torch.full((200_000, 1), 0.8, dtype=DOUBLE)
    loss_fn = DiffEnc(
        VP, lambda x, level: -0.1 * level[:, None] + 0 * x, "data", time_sampler="uniform-lambda",
        t_min=low, t_max=high,
    )  # fmt: skip
    found = loss_fn.per_sample(lambda z, t: 0.3 * z, x0, seeds=0).weighted * (high - low)
    assert abs(found.mean().item() - want) < 5 * found.std().item() / math.sqrt(len(x0))


def test_errors() -> None:
    with pytest.raises(TypeError, match="process must be variance preserving, got EDM"):
        DiffEnc(fd.processes.EDM(), Encoder())
    with pytest.raises(TypeError, match="encoder must be callable"):
        DiffEnc(VP, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="drift must be 'scaled' or 'zero'"):
        DiffEnc(VP, Encoder(), drift="none")
    with pytest.raises(ValueError, match=r"encoder\(x, l\) must give a tensor \(7, 3\), got \(7, 1\)"):
        DiffEnc(VP, lambda x, level: level[:, None])(Net(), data())
