"""LearnedCoupling: flow matching whose noise an encoder gives, for paths that bend less.

    z = mu(x0) + e^{l(x0) / 2} eps          x_t = (1 - t) x0 + t z
    loss = E |F(x_t, t) - (z - x0)|^2 + weight KL(N(mu, e^l) || N(0, 1)) / d

Network and encoder are trained together; samples start from N(0, I). `curvature` measures what it is for.
Source: Lee, Kim & Ye 2023, "Minimizing trajectory curvature of ODE-based generative models",
arXiv:2301.12003, and its published code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from ..core.process import Process
from ..noise.seeds import Seeds
from ..noise.streams import TRAINING
from ..ops.normal import normal
from ._loss import Loss, Net, Terms, begin, wide
from .flow_matching import FlowMatching


class LearnedCoupling(Loss):
    """Flow loss with z = mu + e^{l / 2} eps from `encoder`, plus weight KL / d.

    encoder  encoder(x0) -> (mu, l), tensors like x0
    weight   of the divergence, a mean over elements
    options  process and those of `Denoising`
    """

    key = "learned-coupling"

    def __init__(
        self,
        encoder: Callable[[Tensor], tuple[Tensor, Tensor]],
        weight: float = 10.0,
        process: Process | None = None,
        **options: Any,
    ):
        if not callable(encoder):
            raise TypeError(
                f"LearnedCoupling: encoder must be callable as encoder(x0), got {type(encoder).__name__}"
            )
        if not 0 <= weight < inf:
            raise ValueError(f"LearnedCoupling: weight must be a number >= 0, got {weight!r}")
        self.encoder, self.weight = encoder, float(weight)
        self.flow = FlowMatching(process, **options)

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`, the divergence within `loss`."""
        _, rng = begin("LearnedCoupling", net, x0, cond, seeds)
        out = self.encoder(x0)
        shapes = [tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__ for o in out]
        if shapes != [tuple(x0.shape)] * 2:
            raise ValueError(
                f"LearnedCoupling: encoder must give two tensors {tuple(x0.shape)}, got {shapes}"
            )
        mu, log_var = out
        z = mu + (log_var / 2).exp() * normal(x0.shape, rng, 0, TRAINING, dtype=mu.dtype)
        terms = self.flow.per_sample(
            net, x0, z, cond=cond, seeds=seeds if seeds is not None else _same(rng), t=t
        )
        kl = 0.5 * (mu * mu + log_var.exp() - 1 - log_var).to(wide(x0)).flatten(1).mean(1)
        return Terms(terms.loss + self.weight * kl, terms.weight, terms.t, terms.x_t, terms.output)


def _same(rng: Tensor) -> Seeds:
    """The seeds of an rng that was drawn here."""
    return Seeds(rng[:, 0], rng[:, 1])


def curvature(states: Tensor | Sequence[Tensor]) -> Tensor:
    """Mean of |N (x_{i-1} - x_i) - (x_0 - x_N)|^2 over steps, samples and elements; 0 for straight paths.

    states (N + 1, B, *) at times of equal distance. Source: Lee, Kim & Ye 2023, arXiv:2301.12003, eq. 9.
    """
    x = states if isinstance(states, Tensor) else torch.stack(list(states))
    if x.dim() < 2 or x.shape[0] < 2:
        raise ValueError(
            f"curvature: states must be (steps + 1, B, *) with a step at least, got {tuple(x.shape)}"
        )
    n = x.shape[0] - 1
    return (n * (x[:-1] - x[1:]) - (x[:1] - x[-1:])).square().mean()
