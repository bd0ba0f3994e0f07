"""FlowMatching: conditional flow matching, with a coupling of data and noise.

    x_t = alpha(t) x0 + sigma(t) x1          loss = E |F(x_t, t) - (alpha' x0 + sigma' x1)|^2

(x0, x1) from a coupling: independent, the batch's optimal assignment, its entropic plan, or pairs of one's
own. On the straight path (alpha = 1 - t, sigma = t, data at t = 0) the target is x1 - x0. With independent
pairs it is `Denoising` with predicts="flow", which is rectified flow and IADB.

Sources: Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003; Tong et al. 2023,
arXiv:2302.00482; Pooladian et al. 2023, arXiv:2304.14772; pairs that depend on the data: Albergo et al. 2023,
arXiv:2310.03725.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..core.process import Process
from ..noise.streams import TRAINING
from ..ops.normal import normal
from ..processes.flow_matching import FlowMatching as Straight
from ._loss import Loss, Net, Terms
from .couplings import Coupling
from .couplings.independent import Independent
from .denoising import Denoising


class FlowMatching(Loss):
    """E |net(x_t, t, **cond) - (alpha' x0 + sigma' x1)|^2, the mean over elements and samples.

    process   a Process (kind "gaussian"); default the straight path
    coupling  a key of fd.losses.couplings.names(), a Coupling, or a callable(x0, rng) -> x1 like x0: the far
              end of each sample, which may depend on it (a degraded picture with noise)
    predicts  "flow", or what else of `Denoising`
    options   those of `Denoising` but `noise` and `offset_noise`

    `loss(net, x0, x1=None, cond=None, seeds=None)`; x1 are pairs of your own, in place of the coupling.
    The noise is that of `Denoising`: with the same seeds a coupling only reorders it.
    """

    key = "flow-matching"

    def __init__(
        self,
        process: Process | None = None,
        coupling: str | Coupling | Callable[[Tensor, Tensor], Tensor] = "independent",
        predicts: str = "flow",
        **options: Any,
    ):
        if taken := sorted({"noise", "offset_noise"} & set(options)):
            raise ValueError(
                f"FlowMatching: {taken[0]} is the coupling's to say: pass coupling=callable(x0, rng)"
            )
        self.coupling = Coupling.of("FlowMatching", coupling)
        alone = isinstance(self.coupling, Independent)
        process = Straight() if process is None else process
        self.denoising = Denoising(process, predicts, noise=None if alone else self._coupled, **options)

    def _coupled(self, x0: Tensor, rng: Tensor) -> Tensor:
        if not isinstance(self.coupling, Coupling):
            return self.coupling(x0, rng)
        return self.coupling.pair(x0, normal(x0.shape, rng, 0, TRAINING, dtype=x0.dtype), rng)

    def _with(self, x1: Any, x0: Any) -> Denoising:
        if x1 is None:
            return self.denoising
        if not isinstance(x1, Tensor) or not isinstance(x0, Tensor) or x1.shape != x0.shape:
            came, need = (tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (x1, x0))
            raise ValueError(f"FlowMatching: x1 must be like x0 ({need}), got {came}")
        one = copy.copy(self.denoising)
        one.noise = lambda like, rng: x1
        return one

    def per_sample(
        self,
        net: Net,
        x0: Tensor,
        x1: Tensor | None = None,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
        t: Tensor | None = None,
    ) -> Terms:
        """`Terms`; t (B,): times of your own instead of drawn ones."""
        return self._with(x1, x0).per_sample(net, x0, cond=cond, seeds=seeds, t=t)

    def __call__(
        self,
        net: Net,
        x0: Tensor,
        x1: Tensor | None = None,
        *,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
    ) -> Tensor:
        """The mean over the batch, a scalar."""
        return self._with(x1, x0)(net, x0, cond=cond, seeds=seeds)

    def __repr__(self) -> str:
        return f"FlowMatching({self.denoising.process!r}, coupling={self.coupling!r})"
