"""Sinkhorn: pairs drawn from the batch's transport plan with an entropy.

    P_ij = e^{(f_i + g_j - c_ij) / eps},   rows and columns of P sum to 1 / n          c = |x0_i - x1_j|^2

eps is `scale` times the mean cost. f and g are found in logarithms, so no eps is too small to be computed.
Sample i takes the noise of a column drawn from row i of P; a noise may serve twice in a batch or not at all,
over many batches all serve alike. scale -> 0 is "assignment", scale -> infinity "independent".

Source: Cuturi 2013, arXiv:1306.0895; Tong et al. 2023, arXiv:2302.00482.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log

import torch
from torch import Tensor

from ...noise.streams import CATEGORICAL
from ...ops.noise import noise
from ._coupling import Coupling, square, squared_distances

LOOK_EVERY = 10  # steps between two looks at the error


@dataclass(frozen=True)
class Sinkhorn(Coupling):
    """Pairs drawn from the plan with entropy scale x (mean cost)."""

    key = "sinkhorn"
    scale: float = 0.05
    tol: float = 1e-3
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        for name in ("scale", "tol"):
            value = getattr(self, name)
            if not 0 < value < inf:
                raise ValueError(f"coupling 'sinkhorn': {name} must be > 0, got {value!r}")
        if type(self.max_iterations) is not int or self.max_iterations < 1:
            raise ValueError(
                "coupling 'sinkhorn': max_iterations must be a whole number >= 1, got "
                f"{self.max_iterations!r}"
            )

    def pair(self, x0: Tensor, x1: Tensor, rng: Tensor) -> Tensor:
        cost = squared_distances(x0, x1)
        plan = transport_plan(
            cost, self.scale * cost.mean(), tol=self.tol, max_iterations=self.max_iterations
        )
        dice = noise("gumbel", plan.shape, rng, 0, CATEGORICAL, dtype=torch.float64)
        return x1[(plan + dice).argmax(1)]


@torch.no_grad()
def transport_plan(
    cost: Tensor, eps: Tensor | float, *, tol: float = 1e-3, max_iterations: int = 1000
) -> Tensor:
    """ln P (n, n), float64, of the plan between uniform weights whose entropy weighs eps.

    Ends when no row's sum is off 1 / n by more than the part `tol`, or after max_iterations; columns sum to
    1 / n exactly. Raises TypeError and ValueError that name the argument.
    """
    c = square("transport_plan", cost)
    n = c.shape[0]
    e = torch.as_tensor(eps, dtype=torch.float64, device=c.device)
    if e.dim() or not bool(e > 0) or not bool(e.isfinite()):
        raise ValueError(f"transport_plan: eps must be a number > 0, got {eps!r}")
    k = -c / e
    g = torch.zeros_like(k[0])
    for i in range(1, max_iterations + 1):
        f = -log(n) - (k + g).logsumexp(1)
        g = -log(n) - (k + f[:, None]).logsumexp(0)
        if i % LOOK_EVERY == 0 or i == max_iterations:
            rows = (k + f[:, None] + g).logsumexp(1) + log(n)
            if bool(rows.abs().amax() <= tol):
                break
    return k + f[:, None] + g
