"""fd.rl.DiffusionDPO: written out in float64, at equal networks, and which way it pulls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastdiff as fd
from fastdiff.rl import DiffusionDPO

DOUBLE = torch.float64
PROCESSES = [fd.processes.VP(), fd.processes.FlowMatching()]


class Net(nn.Module):
    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.w = nn.Parameter(torch.randn(3, 3, dtype=DOUBLE) / 2)

    def forward(self, x: Tensor, t: Tensor, shift: Tensor | None = None) -> Tensor:
        y = torch.einsum("ij,bj->bi", self.w, torch.tanh(x)) + torch.cos(t)[:, None].to(x.dtype)
        return y if shift is None else y + shift[:, None]


def pairs(batch: int = 5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 3, generator=g, dtype=DOUBLE) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.key)
@pytest.mark.parametrize("predicts", ["noise", "velocity", "flow"])
@pytest.mark.parametrize("kind", ["dpo", "ipo", "hinge"])
def test_written_out(process, predicts: str, kind: str) -> None:
    """Value 1e-12, slope 1e-10: float64 sums of 60 squares. One noise for both of a pair."""
    net, reference, (winner, loser), beta = Net(), Net(2), pairs(), 3.0
    shift = torch.linspace(-1, 1, 5, dtype=DOUBLE)
    loss = DiffusionDPO(process, predicts, beta=beta, kind=kind, t_min=1e-3)
    u = fd.noise.uniform((5,), 7, stream=3, dtype=DOUBLE)
    t = 1e-3 + (process.t_max - 1e-3) * u
    a, s, da, ds = (f(t)[:, None] for f in (process.alpha, process.sigma, process.dalpha, process.dsigma))

    def e(f: nn.Module, x0: Tensor) -> Tensor:
        x, eps = process.perturb(x0, t, seeds=7)
        target = {"noise": eps, "velocity": a * eps - s * x0, "flow": da * x0 + ds * eps}[predicts]
        return (f(x, t, shift) - target).square().mean(1)

    with torch.no_grad():
        before = e(reference, winner) - e(reference, loser)
    h = -0.5 * (e(net, winner) - e(net, loser) - before)
    want = {
        "dpo": -(1 / (1 + torch.exp(-beta * h))).log(),
        "ipo": (h - 1 / (2 * beta)) ** 2,
        "hinge": torch.relu(1 - beta * h),
    }[kind].mean()
    got = loss(net, reference, winner, loser, cond={"shift": shift}, seeds=7)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    slopes = [torch.autograd.grad(v, net.w)[0] for v in (got, want)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_equal_networks_give_log_2_and_the_slope_of_the_errors() -> None:
    """At h = 0 the slope is beta / 4 times that of e_w - e_l: 1 - sigmoid(0) is 1/2 and h has another 1/2.
    Descent lowers e_w - e_l."""
    process, net, (winner, loser), beta = PROCESSES[0], Net(), pairs(), 40.0
    loss = DiffusionDPO(process, "noise", beta=beta)
    value = loss(net, net, winner, loser, seeds=3)
    torch.testing.assert_close(value, torch.tensor(math.log(2), dtype=DOUBLE), rtol=1e-15, atol=0)
    (slope,) = torch.autograd.grad(value, net.w)
    e = [
        fd.losses.Denoising(process, "noise").per_sample(net, x, seeds=3).loss.mean() for x in (winner, loser)
    ]
    (want,) = torch.autograd.grad(e[0] - e[1], net.w)
    torch.testing.assert_close(slope, beta / 4 * want, rtol=1e-10, atol=1e-12)
    moved = Net()
    with torch.no_grad():
        moved.w.sub_(1e-3 * slope)
    assert float(loss.margins(moved, net, winner, loser, seeds=3).mean()) > 0


def test_a_pair_keeps_its_noise_and_order_turns_the_sign() -> None:
    """Wherever it stands in a batch; winner and loser exchanged is -h, bit for bit, and equal ones give 0."""
    process, net, reference, (winner, loser) = PROCESSES[0], Net(), Net(2), pairs()
    loss = DiffusionDPO(process, "noise")
    h = loss.margins(net, reference, winner, loser, seeds=4)
    part = loss.margins(net, reference, winner[3:], loser[3:], seeds=fd.Seeds(4, ids=[3, 4]))
    torch.testing.assert_close(h[3:], part, rtol=1e-12, atol=0)
    assert torch.equal(loss.margins(net, reference, loser, winner, seeds=4), -h)
    assert torch.equal(loss.margins(net, reference, winner, winner, seeds=4), torch.zeros_like(h))


def test_discrete_times_and_conditions_that_do_not_stack() -> None:
    process = fd.processes.DiscreteVP(torch.linspace(0.999, 0.01, 10, dtype=DOUBLE).numpy())
    seen: list[Tensor] = []

    def net(x: Tensor, t: Tensor, mode: str) -> Tensor:
        seen.append(t)
        return torch.tanh(x)

    winner, loser = pairs()
    loss = DiffusionDPO(process, "noise", time=("index", 10))
    loss(net, net, winner, loser, cond={"mode": "plain"}, seeds=0)
    t = torch.cat(seen)
    assert t.dtype == torch.int64 and int(t.min()) >= 0 and int(t.max()) <= 9


def test_what_is_wrong_is_said() -> None:
    process, net, (winner, loser) = PROCESSES[0], Net(), pairs()
    with pytest.raises(ValueError, match="kind"):
        DiffusionDPO(process, "noise", kind="kt")
    with pytest.raises(ValueError, match="beta"):
        DiffusionDPO(process, "noise", beta=0)
    with pytest.raises(ValueError, match="loser must be like winner"):
        DiffusionDPO(process, "noise")(net, net, winner, loser[:2])
    with pytest.raises(TypeError, match="reference"):
        DiffusionDPO(process, "noise")(net, None, winner, loser)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="t_min"):
        DiffusionDPO(process, "noise", t_min=0.5, t_max=0.2)
