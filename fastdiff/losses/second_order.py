"""SecondOrder: the trace of the score's Jacobian matched to the network's own error.

For the true score  sigma^2 div s + n = E[|eps - eps*|^2 | x_t]  (n numbers in a sample). So beside a
first-order loss stands

    loss = first + coefficient (w / n) (sigma^2 div s_hat + n - sg |eps - eps_hat|^2)^2

div s_hat by probes (stream 4), w the first-order weight of the noise's error. For a velocity on the unit
circle that is (sigma div v - alpha (n - |v - v_hat|^2))^2. It bounds the error of the flow's likelihood.

Source: Lu et al. 2022, arXiv:2206.08265; Zheng et al. 2023, arXiv:2305.03935, section 4.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor

from ..core.predict import convert
from ..core.process import Process
from ..noise.seeds import Seeds
from ..noise.streams import PROBES
from ..ops.dots import dots
from ..ops.noise import noise
from ._loss import Loss, Net, Terms, begin
from .denoising import Denoising
from .weightings._weighting import error_factor, inside


class SecondOrder(Loss):
    """`Denoising` plus the trace's loss; the network is differentiated twice.

    coefficient  of the trace's loss; default 0.1
    probes       sign vectors for the divergence
    options      process, predicts and what else `Denoising` takes, with rho="l2"
    """

    key = "second-order"

    def __init__(
        self,
        process: Process,
        predicts: str = "velocity",
        coefficient: float = 0.1,
        probes: int = 1,
        **options: Any,
    ):
        if not 0 <= coefficient < inf:
            raise ValueError(f"SecondOrder: coefficient must be a number >= 0, got {coefficient!r}")
        if type(probes) is not int or probes < 1:
            raise ValueError(f"SecondOrder: probes must be a whole number >= 1, got {probes!r}")
        if options.get("rho", "l2") != "l2":
            raise ValueError(f"SecondOrder: the trace goes with rho='l2', got {options['rho']!r}")
        if process.const is not None or options.get("precondition") is not None:
            raise ValueError("SecondOrder: not for a process with a const, nor a preconditioned network")
        self.first = Denoising(process, predicts, **options)
        self.coefficient, self.probes = float(coefficient), probes

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms` of both orders; t (B,): times of your own instead of drawn ones."""
        _, rng = begin("SecondOrder", net, x0, cond, seeds)
        seen: list[Tensor] = []

        def watched(x: Tensor, t: Tensor, **given: Any) -> Any:
            seen.append(x.detach().requires_grad_())
            return net(seen[0], t, **given)

        with torch.enable_grad():
            terms = self.first.per_sample(watched, x0, cond=cond, seeds=Seeds(rng[:, 0], rng[:, 1]), t=t)
            raw, x = self.first.model.take(terms.output, seen[0]), seen[0]
            node, n = inside(self.first.process.node(terms.t)), x0[0].numel()
            p, q = convert(self.first.predicts, "noise", node, check=False)
            trace = torch.stack([self._trace(raw, x, rng, k) for k in range(self.probes)]).mean(0)
            to_noise = error_factor(self.first.predicts, node) / error_factor("noise", node)
            residual = n * terms.loss.detach() / to_noise
            bracket = n - node.sigma * (p * n + q * trace) - residual
            second = self.coefficient * to_noise * bracket**2 / n
        loss = terms.loss + second.to(terms.loss.dtype)
        return Terms(loss, terms.weight, terms.t, terms.x_t, terms.output)

    def _trace(self, raw: Tensor, x: Tensor, rng: Tensor, draw: int) -> Tensor:
        """e^T J e, (B,) float64."""
        e = noise("rademacher", tuple(x.shape), rng, draw, PROBES, dtype=x.dtype)
        g = None
        if raw.requires_grad:
            (g,) = torch.autograd.grad(raw, x, e.to(raw.dtype), create_graph=True, allow_unused=True)
        if g is None:
            raise ValueError("SecondOrder: the network's output has no derivative by its input")
        return dots([g.contiguous(), e], [(0, 1)])[:, 0].double()

    def __repr__(self) -> str:
        return f"SecondOrder({self.first!r}, coefficient={self.coefficient:g})"
