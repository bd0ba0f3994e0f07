"""fd.losses.MeanRevertingML against the joint law of (x_{i-1}, x_i) and a reverse Euler step, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastdiff as fd
from fastdiff.losses import MeanRevertingML

DOUBLE = torch.float64
PROCESSES = {
    "published": (fd.processes.MeanReverting.irsde(), {}),
    "continuous": (fd.processes.MeanReverting(0.7, "linear"), {"steps": 20}),
}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.w = torch.nn.Parameter(torch.randn(3, 3, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.einsum("ij,bjn->bin", self.w, torch.tanh(x)) + torch.cos(t).reshape(-1, 1, 1)


def data(seed: int, batch: int = 6) -> Tensor:
    return torch.randn(batch, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def earlier(process, x0: Tensor, x: Tensor, mu: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """E[x_s | x_t, x0] by regression of jointly normal variables: covariance over variance."""
    m = [mu + (x0 - mu) * torch.exp(-process.Theta(v)) for v in (s, t)]
    decay = torch.exp(process.Theta(s) - process.Theta(t))
    var = [process.s_inf**2 * -torch.expm1(-2 * process.Theta(v)) for v in (s, t)]
    return m[0] + var[0] * decay / var[1] * (x - m[1])


@pytest.mark.parametrize("rho", ("l1", "l2"))
@pytest.mark.parametrize("predicts", ("noise", "data", "velocity", "score"))
@pytest.mark.parametrize("name", PROCESSES)
def test_value_and_gradient(name: str, predicts: str, rho: str) -> None:
    """Value to 1e-12, gradient to 1e-10: the difference is about 1 / 30 of its terms."""
    process, options = PROCESSES[name]
    loss_fn = MeanRevertingML(process, predicts, rho=rho, gamma=lambda i: 1 / i, **options)
    N, x0, mu, net = loss_fn.steps, data(0), data(1), Net()
    i = torch.tensor([1, 2, 3, N // 2, N - 1, N])
    t, s = i.double() / N, (i - 1).double() / N
    x, _ = process.perturb(x0, t, seeds=3, consts={"mu": mu})
    terms = loss_fn.per_sample(net, x0, mu=mu, seeds=3, t=t)
    a, sd = (v.reshape(-1, 1, 1) for v in (process.alpha(t), process.sigma(t)))
    rest, out = x - (1 - a) * mu, net(x, t)  # alpha x0 + sigma eps
    score = {
        "noise": -out / sd,
        "data": (a * out - rest) / sd**2,
        "velocity": -(sd * rest + a * out) / (a * a + sd * sd) / sd,
        "score": out,
    }[predicts]
    d, s_, t_ = (
        (process.Theta(t) - process.Theta(s)).reshape(-1, 1, 1),
        *(v.reshape(-1, 1, 1) for v in (s, t)),
    )
    guess = x - d * (mu - x) + 2 * d * process.s_inf**2 * score
    error = guess - earlier(process, x0, x, mu, s_, t_)
    want = (error.abs() if rho == "l1" else error**2).mean((1, 2)) / i
    torch.testing.assert_close(terms.loss, want, rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(terms.weighted.mean(), net.w)
    (want_slope,) = torch.autograd.grad(want.mean(), net.w)
    torch.testing.assert_close(slope, want_slope, rtol=1e-10, atol=1e-12 * float(want_slope.abs().max()))
    assert loss_fn(net, x0, mu=mu, seeds=3).isfinite()


def test_the_first_step_ends_in_the_data() -> None:
    """x*_0 = x0: a network that gives the score at which Euler's step lands on x0 has loss 0."""
    process = fd.processes.MeanReverting.irsde(steps=10)
    x0, mu, t = data(0), data(1), torch.full((6,), 0.1, dtype=DOUBLE)
    d = process.Theta(0.1)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return (x0 - x + d * (mu - x)) / (2 * d * process.s_inf**2)

    loss = MeanRevertingML(process, "score").per_sample(net, x0, mu=mu, seeds=0, t=t).loss
    assert loss.max() < 1e-14


def test_the_conditional_score_is_right_to_the_square_of_the_step() -> None:
    """With s = grad log q(x_i | x0) the residual is that of one Euler step of the reverse flow of the mean:
    by halving the step it falls by 4, to the next order."""
    x0, mu, found = data(0), data(1), []
    for N in (200, 400, 800):
        process = fd.processes.MeanReverting(0.5, "const")
        t = torch.full((6,), 0.5, dtype=DOUBLE)
        xi = []

        def net(x: Tensor, t: Tensor, process=process, xi=xi) -> Tensor:
            _, eps = process.perturb(x0, t, seeds=0, consts={"mu": mu})
            return eps

        loss_fn = MeanRevertingML(process, "noise", steps=N)
        found.append(loss_fn.per_sample(net, x0, mu=mu, seeds=0, t=t).loss)
    for coarse, fine in zip(found, found[1:], strict=False):
        assert math.log2((coarse / fine).mean().item()) == pytest.approx(2, abs=0.05)


def test_errors() -> None:
    process = fd.processes.MeanReverting.irsde()
    with pytest.raises(TypeError, match="process must be a MeanReverting, got VP"):
        MeanRevertingML(fd.processes.VP())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="say steps=N"):
        MeanRevertingML(fd.processes.MeanReverting())
    with pytest.raises(ValueError, match="rho must be 'l1' or 'l2'"):
        MeanRevertingML(process, rho="huber")
    with pytest.raises(ValueError, match="predicts='flow' moves with mu"):
        MeanRevertingML(process, "flow")
    with pytest.raises(TypeError, match="mu must be a tensor like x0, got NoneType"):
        MeanRevertingML(process)(Net(), data(0))
