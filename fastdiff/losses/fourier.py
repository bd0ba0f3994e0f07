"""Fourier: an error of the data prediction, and the same of its Fourier transform.

    loss = E  w(t) ( mean |e| + scale mean (|Re F e| + |Im F e|) ),     e = x0_hat - x0

F is the discrete transform along one axis of length L, divided by L ("forward"). It is linear, so one half
transform of e serves, its inner bins counted twice as the mirrored half would be. With rho "l2" the Fourier
term is the plain one over L, by Parseval.

Source: Yuan & Qiao 2024, Diffusion-TS, arXiv:2403.01742, and its published code (axis 1 of (B, L, features),
scale sqrt(L) / 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.predict import convert
from ..core.process import Process
from ..ops.regression_loss import regression_loss
from ._loss import Loss, Net, Terms, wide
from .denoising import Denoising
from .weightings import Weighting

NORMS = ("forward", "ortho", "backward")


def fourier_error(e: Tensor, axis: int, rho: str = "l1", norm: str = "forward") -> Tensor:
    """mean of |Re F e|^p + |Im F e|^p over all L bins and the other axes, (B,); p = 1 of "l1", 2 of "l2"."""
    n = e.shape[axis]
    spectrum = torch.view_as_real(torch.fft.rfft(e.movedim(axis, -1), norm=norm))
    size = (spectrum.abs() if rho == "l1" else spectrum.square()).sum(-1)
    inner = size[..., 1 : (n + 1) // 2]  # those that have a mirror image
    return (size.flatten(1).sum(1) + inner.flatten(1).sum(1)) / e[0].numel()


class Fourier(Loss):
    """E w(t) (|e| + scale |F e|) of the data prediction's error e, the mean over elements and samples.

    process    a Process without a const
    predicts   "data" | "noise" | "velocity" | "flow" | "score"; other than data are turned into it
    weighting  of the error of x0_hat, as in `Denoising` (default "diffusion-ts", for an absolute error)
    axis       the transform's, which may not be the batch's; default 1
    scale      of the Fourier term; default sqrt(L) / 5
    rho        "l1" | "l2"
    norm       "forward" | "ortho" | "backward", as torch.fft has it
    options    those of `Denoising`: time, time_sampler, drop, steps, ...
    """

    key = "fourier"

    def __init__(
        self,
        process: Process,
        predicts: str = "data",
        weighting: str | Weighting | Any = "diffusion-ts",
        *,
        axis: int = 1,
        scale: float | None = None,
        rho: str = "l1",
        norm: str = "forward",
        **options: Any,
    ):
        if rho not in ("l1", "l2"):
            raise ValueError(f"Fourier: rho must be 'l1' or 'l2', got {rho!r}")
        if norm not in NORMS:
            raise ValueError(f"Fourier: norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if type(axis) is not int or axis == 0:
            raise ValueError(f"Fourier: axis must be a whole number other than 0, the batch's, got {axis!r}")
        if scale is not None and not 0 <= scale < math.inf:
            raise ValueError(f"Fourier: scale must be a number >= 0, got {scale!r}")
        if process.const is not None:
            raise ValueError(f"Fourier: process must pull to nothing, got {process!r}")
        if "precondition" in options:
            raise ValueError("Fourier: a preconditioned network gives no data; say predicts=")
        self.denoising = Denoising(process, predicts, weighting, **options)
        self.process, self.predicts, self.axis, self.scale = process, predicts, axis, scale
        self.rho, self.norm = rho, norm
        self.data = Denoising(process, "data", weighting)  # weighs the error of x0_hat

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`; t (B,): times of your own instead of drawn ones."""
        if isinstance(x0, Tensor) and not -x0.dim() < self.axis < x0.dim():
            raise ValueError(f"Fourier: axis {self.axis} of x0 with shape {tuple(x0.shape)}")
        made, dtype = self.denoising.noised("Fourier", net, x0, cond, seeds, t=t), wide(x0)
        pred = made.pred.to(dtype)
        if self.predicts != "data":
            shape = (-1, *[1] * (x0.dim() - 1))
            p, q = convert(self.predicts, "data", made.node, check=False)
            pred = p.to(dtype).reshape(shape) * made.x_t + q.to(dtype).reshape(shape) * pred
        scale = math.sqrt(x0.shape[self.axis]) / 5 if self.scale is None else self.scale
        loss = regression_loss(pred, x0, p=1.0, rho=self.rho)
        loss = loss + scale * fourier_error(pred - x0, self.axis, self.rho, self.norm)
        weight = self.data.weigh(made.node)
        weight = weight if made.importance is None else weight * made.importance
        if torch.is_grad_enabled():
            self.denoising.times.observe(made.node.t, loss)
        return Terms(loss, weight.to(dtype), made.node.t, made.x_t, made.output)

    def __repr__(self) -> str:
        return f"Fourier({self.process!r}, predicts={self.predicts!r}, axis={self.axis}, rho={self.rho!r})"
