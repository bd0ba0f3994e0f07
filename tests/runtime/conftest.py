"""Networks whose arithmetic is known: what the runtime's tests sample from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastdiff as fd


def column(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype)


def exact_net(x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
    """Only products, sums and quotients, one rounding each: an element's bits do not depend on its place in
    memory, as those of torch's vectorised exp and tanh do."""
    y = x / (x * x + 1) + column(t, x) * x
    for c in cond.values():
        y = y + column(c, x)
    return y


class Counted:
    """A network that counts its calls and keeps what it was given."""

    def __init__(self, net: Callable[..., Any] = exact_net):
        self.net, self.calls = net, 0
        self.seen: list[tuple[Tensor, Tensor, dict[str, Any]]] = []

    def __call__(self, x: Tensor, t: Tensor, **cond: Any) -> Any:
        self.calls += 1
        self.seen.append((x.clone(), t.clone(), cond))
        return self.net(x, t, **cond)


class Mixture:
    """Data whose elements are independent draws of a mixture of normals: the exact data prediction, and every
    other one by its definition in `alpha x0 + sigma eps`."""

    weights, means, stds = (0.3, 0.7), (-1.0, 0.8), (0.3, 0.2)

    def __init__(self, process: fd.processes.VP, predicts: str):
        self.process, self.predicts = process, predicts

    def data(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        logs, means = [], []
        for w, m, v in zip(self.weights, self.means, np.square(self.stds), strict=True):
            var = a * a * v + s * s
            logs.append(np.log(w) - var.log() / 2 - (x - a * m) ** 2 / (2 * var))
            means.append(m + a * v / var * (x - a * m))
        r = torch.stack(logs).softmax(0)
        return (r * torch.stack(means)).sum(0)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        process, at = self.process, t.double().numpy()
        a, s, da, ds = (
            column(torch.as_tensor(np.broadcast_to(f(at), at.shape).copy()), x)
            for f in (process.alpha, process.sigma, process.dalpha, process.dsigma)
        )
        if self.predicts == "edm":  # x is c_in x_t / alpha
            sd = getattr(process, "sigma_data", 0.5)
            rho = s / a
            z = x * (rho**2 + sd**2).sqrt()
            x0 = self.data(a * z, a, s)
            skip, out = sd**2 / (rho**2 + sd**2), rho * sd / (rho**2 + sd**2).sqrt()
            return (x0 - skip * z) / out
        x0 = self.data(x, a, s)
        eps = (x - a * x0) / s
        return {
            "data": lambda: x0,
            "noise": lambda: eps,
            "velocity": lambda: a * eps - s * x0,
            "flow": lambda: da * x0 + ds * eps,
            "score": lambda: -eps / s,
        }[self.predicts]()


@pytest.fixture
def vp() -> fd.processes.VP:
    return fd.processes.VP()


@pytest.fixture
def nets() -> Any:
    """The classes and functions above."""

    class Namespace:
        column, exact, Counted, Mixture = staticmethod(column), staticmethod(exact_net), Counted, Mixture

    return Namespace
