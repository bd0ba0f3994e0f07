"""Data that follow a mixture of Gaussians with diagonal covariance: every conditional expectation is closed
form.

At x_t = alpha x_0 + sigma eps, with component k of weight w_k, mean mu_k and standard deviation s_k:

    v_k = alpha^2 s_k^2 + sigma^2
    r_k = softmax_k(log w_k - (1/2) sum log v_k - (1/2) sum (x - alpha mu_k)^2 / v_k)
    E[x_0 | x] = sum_k r_k (mu_k + alpha s_k^2 (x - alpha mu_k) / v_k)
    E[eps | x] = sum_k r_k sigma (x - alpha mu_k) / v_k
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.predict import PREDICTIONS, SIGMA_DATA
from ..core.process import Process

Array = Any  # numpy array | torch tensor | nested list of numbers


class GaussianMixture:
    """`means` and `stds` of shape (K, *event). A sample's last dimensions are the event; with event = ()
    every element is an independent draw of a mixture on the line. `stds` may also be one number per
    component."""

    def __init__(self, weights: Sequence[float], means: Array, stds: Array):
        w = torch.as_tensor(np.asarray(weights, dtype=np.float64))
        mu = torch.as_tensor(np.asarray(means, dtype=np.float64))
        s = torch.as_tensor(np.asarray(stds, dtype=np.float64))
        if w.ndim != 1 or mu.ndim < 1 or s.ndim < 1 or not len(w) == len(mu) == len(s):
            raise ValueError("GaussianMixture: one weight, mean and std per component, got shapes "
                             f"{tuple(w.shape)}, {tuple(mu.shape)} and {tuple(s.shape)}")
        if (w <= 0).any() or (s < 0).any():
            raise ValueError("GaussianMixture: weights must be positive and stds not negative")
        self.weights, self.means = w / w.sum(), mu
        self.stds = s.reshape(s.shape + (1,) * (mu.ndim - s.ndim)).expand_as(mu)

    @property
    def event(self) -> tuple[int, ...]:
        return tuple(self.means.shape[1:])

    def expectations(self, x: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        """(E[x_0 | x], E[eps | x]) in float64, of an array or a tensor x; alpha and sigma broadcast to x."""
        lib: Any = torch if isinstance(x, Tensor) else np
        x = x.double() if isinstance(x, Tensor) else np.asarray(x, dtype=np.float64)
        k = (-1,) + (1,) * (x.ndim - len(self.event)) + self.event  # components stand before x's dimensions
        rows = self.weights.reshape((-1,) + (1,) * x.ndim), self.means.reshape(k), (self.stds**2).reshape(k)
        w, mu, s2 = (v.to(x.device) if lib is torch else v.numpy() for v in rows)
        v, off = alpha * alpha * s2 + sigma * sigma, x - alpha * mu
        fit = -(lib.log(v) + off * off / v) / 2
        if self.event:
            fit = lib.sum(fit, tuple(range(-len(self.event), 0)), keepdims=True)
        r = w * lib.exp(fit - lib.amax(fit, 0))
        r = r / r.sum(0)
        return (r * (mu + alpha * s2 * off / v)).sum(0), (r * sigma * off / v).sum(0)

    def denoiser(
        self, process: Process, predicts: str = "noise", time: str | tuple[str, int] = "t"
    ) -> Callable[..., Tensor]:
        """net(x, t, **cond): the best possible network, of x's dtype, computed in float64.

        `predicts` is a prediction kind, or "edm": the raw network inside EDM's preconditioning, which sees
        the scaled x. `time` is what t means, as in `fastdiff.Denoiser`. t is a number or one per sample;
        cond is ignored.
        """
        if predicts not in (*PREDICTIONS, "edm"):
            raise unknown("prediction", predicts, (*PREDICTIONS, "edm"))
        sd = getattr(process, "sigma_data", SIGMA_DATA)

        def net(x: Tensor, t: Any, **cond: Any) -> Tensor:
            t = torch.as_tensor(_native_time(process, t, time), dtype=torch.float64, device=x.device)
            t = t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else t
            a, s = torch.as_tensor(process.alpha(t)), torch.as_tensor(process.sigma(t))
            scale = (s * s + (a * sd) ** 2).sqrt()
            x0, eps = self.expectations(x * scale if predicts == "edm" else x, a, s)
            if predicts == "noise":
                out = eps
            elif predicts == "data":
                out = x0
            elif predicts == "velocity":
                out = a * eps - s * x0
            elif predicts == "flow":
                out = process.dalpha(t) * x0 + process.dsigma(t) * eps
            elif predicts == "score":
                out = -eps / s
            else:  # F = (x0 - c_skip x / alpha) / c_out, multiplied out so that alpha may be 0
                out = (s * x0 / sd - a * sd * eps) / scale
            return out.to(x.dtype)

        return net

    def sample(self, shape: Sequence[int], seed: int = 0) -> Tensor:
        """float64 data; the last dimensions of `shape` are the event."""
        shape = tuple(shape)
        if self.event and shape[-len(self.event):] != self.event:
            raise ValueError(f"GaussianMixture: shape {shape} does not end in the event {self.event}")
        rng = np.random.default_rng(seed)
        size = shape[: len(shape) - len(self.event)]
        k = torch.as_tensor(rng.choice(len(self.weights), size=size, p=self.weights.numpy()))
        return self.means[k] + self.stds[k] * torch.as_tensor(rng.standard_normal(shape))


def _native_time(process: Process, t: Any, time: str | tuple[str, int]) -> Any:
    if time == "t":
        return t
    v = np.asarray(t.detach().cpu() if hasattr(t, "detach") else t, dtype=np.float64)
    if isinstance(time, tuple):
        v = (v + 1) / time[1]
        return v
    lam = {"sigma": lambda: -np.log(v), "lambda": lambda: v, "c_noise": lambda: -4 * v}
    if time not in lam:
        raise unknown("time", time, ("t", *lam))
    return process.time_of(lam[time]())


def gaussian_flow(mean: Array, std: Array, process: Process, x: Array, t0: float, t1: float) -> Array:
    """The probability flow of N(mean, std^2) from t0 to t1: (x - alpha mean) / sqrt(alpha^2 std^2 +
    sigma^2) stands still."""
    a0, s0, a1, s1 = (float(f(float(t))) for t in (t0, t1) for f in (process.alpha, process.sigma))
    ratio = (((a1 * std) ** 2 + s1**2) / ((a0 * std) ** 2 + s0**2)) ** 0.5
    return a1 * mean + ratio * (x - a0 * mean)
