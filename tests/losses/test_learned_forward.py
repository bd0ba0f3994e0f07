"""fd.losses.NDM and NFDM: against their drifts written out in float64 with autograd, against `Denoising`
where the way is a process's own, and on Gaussian data, where the least loss is a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import NDM, NFDM, Denoising

DOUBLE = torch.float64
VP = fd.processes.VP()
TURN = 0.3  # radians for each unit of log SNR
ACROSS = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=DOUBLE)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(2, 2, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) @ self.w + torch.cos(t)[:, None]


class Path(torch.nn.Module):
    """mu = (1 - t) x + t (1 - t) tanh(v x), log s = (1 - t) ln 0.05 + t (1 - t) sin(v x)."""

    def __init__(self) -> None:
        super().__init__()
        self.v = torch.nn.Parameter(torch.tensor([0.7, -1.2], dtype=DOUBLE))

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t[:, None]
        log_s = (1 - t) * math.log(0.05) + t * (1 - t) * torch.sin(x * self.v)
        return (1 - t) * x + t * (1 - t) * torch.tanh(x * self.v), log_s.exp()

    def slopes(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """mu' and s', by hand."""
        by = 1 - 2 * t[:, None]
        rate = -math.log(0.05) + by * torch.sin(x * self.v)
        return by * torch.tanh(x * self.v) - x, rate * self(x, t)[1]


def data(batch: int = 6) -> Tensor:
    return 0.3 + torch.randn(batch, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def turned(x: Tensor, level: Tensor) -> Tensor:
    angle = TURN * level[:, None]
    return torch.cos(angle) * x + torch.sin(angle) * (x @ ACROSS)


def same(loss: Tensor, want: Tensor, parameters: list[Tensor]) -> None:
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(v, parameters, retain_graph=True) for v in (loss, want))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * float(b.abs().max()))


def test_the_drift_of_ndm_written_out() -> None:
    """|b - b_hat|^2 / (2 g^2) of the reverse SDE given the data, with dF/dt by hand and no term taken
    together: value to 1e-12, gradients of network and map to 1e-10."""
    x0, net = data(), Net()
    w = torch.tensor(0.4, dtype=DOUBLE, requires_grad=True)
    loss_fn = NDM(VP, lambda x, level: torch.sin(w * x) + level[:, None] * x, t_min=0.05)
    terms = loss_fn.per_sample(net, x0, seeds=3)
    t = terms.t
    node = VP.node(t[:, None])
    _, eps = VP.perturb(x0, t, seeds=3)
    F = lambda x: torch.sin(w * x) + 2 * node.lam * x  # noqa: E731
    z = node.alpha * F(x0) + node.sigma * eps
    g2, dlam = VP.g2(t)[:, None], VP.dlam(t)[:, None]

    def drift(x: Tensor) -> Tensor:
        left = z - node.alpha * F(x)
        velocity = node.dalpha * F(x) + node.alpha * 2 * dlam * x + node.dsigma / node.sigma * left
        return velocity + g2 / 2 * left / node.sigma**2

    want = ((drift(x0) - drift(net(z, t))).square() / (2 * g2)).mean()
    same(loss_fn(net, x0, seeds=3), want, [net.w, w])


@pytest.mark.parametrize(
    "process", [VP, fd.processes.FlowMatching(), fd.processes.EDM()], ids=lambda p: p.key
)
def test_the_process_itself(process: fd.processes.VP) -> None:
    """F(x, l) = x, and mu = alpha x, s = sigma with the process's g: `Denoising` of the data under "elbo".
    NFDM's path is on [0, 1], and its (eps - eps_hat) / s is a difference that EDM does not have there."""
    x0, net = data(), Net()
    t = torch.linspace(0.1, 0.9, 6, dtype=DOUBLE)
    plain = Denoising(process, "data", "elbo").per_sample(net, x0, seeds=1, t=t).weighted
    one = NDM(process, lambda x, level: x + 0 * level[:, None]).per_sample(net, x0, seeds=1, t=t)
    torch.testing.assert_close(one.weighted, plain, rtol=1e-12, atol=0)

    def path(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return process.alpha(t)[:, None] * x, process.sigma(t)[:, None]

    other = NFDM(path, process.g2).per_sample(net, x0, seeds=1, t=t)
    torch.testing.assert_close(other.weighted, plain, rtol=1e-12, atol=0)


def test_nfdm_written_out() -> None:
    """With slopes by hand and a learned g: value to 1e-12, gradients of network, path and g to 1e-10."""
    x0, net, path = data(), Net(), Path()
    rate = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    loss_fn = NFDM(path, lambda t: rate * (1 + t), t_min=0.05)
    terms = loss_fn.per_sample(net, x0, seeds=2)
    t = terms.t
    eps = fd.noise.normal((6, 2), 2, stream=fd.noise.streams.TRAINING, dtype=DOUBLE)
    mu, s = path(x0, t)
    z, g2 = mu + s * eps, (rate * (1 + t))[:, None]

    def drift(x: Tensor) -> Tensor:
        (m, d), (dm, dd) = path(x, t), path.slopes(x, t)
        score = -(z - m) / d**2
        return dm + dd * (z - m) / d - g2 / 2 * score

    want = ((drift(x0) - drift(net(z, t))).square() / (2 * g2)).mean()
    same(loss_fn(net, x0, seeds=2), want, [net.w, path.v, rate])


def test_straight() -> None:
    """mu = cos(t) x, s = t^2: d^2 z / dt^2 = 2 eps - cos(t) x."""
    x0, net = data(), Net()
    path = lambda x, t: (torch.cos(t)[:, None] * x, (t * t)[:, None])  # noqa: E731
    plain, bent = (NFDM(path, 0.5, straight=v, t_min=0.1).per_sample(net, x0, seeds=4) for v in (0.0, 0.7))
    eps = fd.noise.normal((6, 2), 4, stream=fd.noise.streams.TRAINING, dtype=DOUBLE)
    want = 0.7 * (2 * eps - torch.cos(bent.t)[:, None] * x0).square().mean(1)
    torch.testing.assert_close(bent.weighted - plain.weighted, want, rtol=1e-12, atol=1e-12)


def test_prior() -> None:
    x0, path = data(), Path()
    mu, s = path(x0, torch.full((6,), 0.9, dtype=DOUBLE))
    normal = torch.distributions.Normal
    want = torch.distributions.kl_divergence(normal(mu, s), normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(NFDM(path, t_max=0.9).prior(x0), want, rtol=1e-12, atol=1e-12)


def test_gaussian_data() -> None:
    """Data N(m, c): x_hat = E[x0 | z] errs by c V / (a^2 c + V) in the mean square, V the noise's variance.
    NDM with a turning F: |(F + dF/dl) e|^2 = (1 + TURN^2) |e|^2. NFDM with mu = a x and s alone: b - b_hat is
    a' - a s' / s - g^2 a / (2 s^2) times the error. 1e5 numbers, 5 standard errors."""
    m, c, n, t0 = 0.4, 1.6, 50_000, 0.35
    x0 = m + math.sqrt(c) * fd.noise.normal((n, 2), 5, dtype=DOUBLE)
    t = torch.full((n,), t0, dtype=DOUBLE)
    node = VP.node(t0)
    a, v = float(node.alpha), float(node.sigma) ** 2
    far = 5 * math.sqrt(2 / x0.numel())

    def back(x: Tensor, t: Tensor) -> Tensor:
        y = turned(x, -2 * VP.lam(t))  # F undone
        return m + a * c / (a * a * c + v) * (y - a * m)

    ndm = NDM(VP, turned, weighting="data").per_sample(back, x0, seeds=0, t=t)
    want = (1 + TURN**2) * c * v / (a * a * c + v)
    assert abs(ndm.weighted.mean().item() / want - 1) < far

    a, s, g2 = 1 - t0, 0.05 ** (1 - t0), 0.7
    path = lambda x, t: ((1 - t)[:, None] * x, (0.05 ** (1 - t))[:, None])  # noqa: E731
    mean = lambda x, t: m + a * c / (a * a * c + s * s) * (x - a * m)  # noqa: E731
    nfdm = NFDM(path, g2).per_sample(mean, x0, seeds=0, t=t)
    gain = -1 + a * math.log(0.05) - g2 * a / (2 * s * s)  # s' / s = -ln 0.05
    want = gain**2 * c * s * s / (a * a * c + s * s) / (2 * g2)
    assert abs(nfdm.weighted.mean().item() / want - 1) < far


def test_errors() -> None:
    with pytest.raises(TypeError, match="path must be callable"):
        NFDM(1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="g2 must be a number > 0 or a callable, got 0"):
        NFDM(Path(), 0.0)
    with pytest.raises(ValueError, match=r"t_min=0.5 and t_max=0.2 must be increasing in \[0, 1\]"):
        NFDM(Path(), t_min=0.5, t_max=0.2)
    with pytest.raises(ValueError, match=r"path\(x, t\) must give two tensors \(6, 2\)"):
        NFDM(lambda x, t: (x[:, :1].expand(-1, 3), t))(Net(), data())
    with pytest.raises(TypeError, match="transform must be callable"):
        NDM(VP, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rho is not one of its options"):
        NDM(VP, turned, rho="l1")
    with pytest.raises(ValueError, match=r"transform\(x, l\) must give a tensor \(6, 2\), got \(6, 1\)"):
        NDM(VP, lambda x, level: x[:, :1] * level[:, None])(Net(), data())
