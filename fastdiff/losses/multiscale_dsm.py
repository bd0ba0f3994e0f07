"""MultiscaleDSM: an energy trained so that one jump of a fixed size cleans noise of every size.

    y~ = y + sigma xi          loss = E  w(sigma) |y - (y~ - sigma_0^2 grad E(y~))|^2,   w = 1 / sigma^2

The jump is a data prediction, so this is `Denoising` of it; at sigma = sigma_0 it is Tweedie's formula and E
is the energy of the noised data. Along the network's own gradient: two passes back.

Source: Li et al. 2022 (D3VAE), arXiv:2301.03028, equations 12 and 13; Li, Chen & Sommer 2019,
arXiv:1910.07762.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.process import Process
from ..processes.edm import EDM
from ._loss import Loss, Net, Terms
from .denoising import Denoising
from .weightings import Weighting


class MultiscaleDSM(Loss):
    """E w(sigma) |y - jump(net, y~)|^2 for a network that gives an energy of each sample, (B,) or (B, 1).

    sigma_0   the size of the jump
    process   one with alpha = 1 (EDM, VE), whose sigma the noise has; default EDM
    weighting of the error of the jump, as in `Denoising`; default "noise", 1 / sigma^2
    options   those of `Denoising`: time_sampler, t_min, t_max, rho, drop, ...

    `loss(net, x0, cond=None, seeds=None)`; `jump(net, x, t, **cond)` is what cleans at inference.
    """

    key = "multiscale-dsm"

    def __init__(
        self,
        sigma_0: float,
        process: Process | None = None,
        weighting: str | Weighting | Callable[[Tensor, Process], Tensor] = "noise",
        **options: Any,
    ):
        if not (isinstance(sigma_0, (int, float)) and 0 < sigma_0 < float("inf")):
            raise ValueError(f"MultiscaleDSM: sigma_0 must be a number > 0, got {sigma_0!r}")
        if taken := sorted({"predicts", "precondition"} & set(options)):
            raise ValueError(f"MultiscaleDSM: {taken[0]} is not one of its options: the network is an energy")
        process = EDM() if process is None else process
        self.denoising = Denoising(process, "data", weighting, **options)
        if process.const is not None or process.alpha(process.t_max) != 1:
            raise ValueError(f"MultiscaleDSM: process must have alpha = 1 (EDM, VE), got {process!r}")
        self.sigma_0, self.process = float(sigma_0), process

    def jump(self, net: Net, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """x - sigma_0^2 grad E(x), differentiable where gradients are on."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            energy = net(x, t, **cond)
            if not isinstance(energy, Tensor) or energy.shape not in ((x.shape[0],), (x.shape[0], 1)):
                came = tuple(energy.shape) if isinstance(energy, Tensor) else type(energy).__name__
                raise ValueError(f"MultiscaleDSM: the network must give energies ({x.shape[0]},), got {came}")
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=wanted)
            clean = x - self.sigma_0**2 * slope
        return clean if wanted else clean.detach()

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`, whose output is the jump; t (B,): times of your own instead of drawn ones."""
        return self.denoising.per_sample(self._cleaner(net), x0, cond=cond, seeds=seeds, t=t)

    def __call__(
        self, net: Net, x0: Tensor, *, cond: Mapping[str, Any] | None = None, seeds: Any = None
    ) -> Tensor:
        """The mean over the batch, a scalar."""
        return self.denoising(self._cleaner(net), x0, cond=cond, seeds=seeds)

    def _cleaner(self, net: Net) -> Net:
        if not callable(net):
            raise TypeError(
                f"MultiscaleDSM: net must be callable as net(x, t, **cond), got {type(net).__name__}"
            )
        return lambda x, t, **cond: self.jump(net, x, t, **cond)

    def __repr__(self) -> str:
        return f"MultiscaleDSM({self.sigma_0!r}, {self.process!r})"
