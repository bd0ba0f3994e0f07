"""Classifier-free guidance, folded into the step's coefficients.

    out = u + scale (c - u)          scale = 1: the conditional output c alone; scale = 0: the unconditional u

Both halves run in one batch where their conditions stack. The combination is linear, so it costs no pass
over memory of its own. It does not sample the tilted law p_u^{1-w} p_c^w: the tests have the exact laws.

Source: Ho & Salimans 2022, arXiv:2207.12598; interval: Kynkaanniemi et al. 2024, arXiv:2404.07724.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.hook import Hook
from ..core.math import Number, plain
from ..core.number import Real
from ..core.options import check_numbers


@dataclass(frozen=True, eq=False)
class CFG(Hook):
    """scale     the weight w; a torch scalar that requires a gradient gets one through a run with `gradient`
    uncond    keyword arguments of the network that replace those of `cond` in the unconditional half; a
              tensor whose first size is the batch is per sample
    interval  (lo, hi) in sigma/alpha: guidance only while lo < sigma/alpha <= hi; outside, one network call
              instead of two
    """

    scale: Any
    uncond: Mapping[str, Any] = field(default_factory=dict)
    interval: tuple[float, float] | None = None

    branches = 1

    def __post_init__(self) -> None:
        check_numbers(self, "scale")
        if self.trains and (self.scale.dim() or plain(self.scale) in (0, 1)):
            # at 0 and 1 a branch is not run at all, so nothing would tell of it
            came = (
                f"shape {tuple(self.scale.shape)}" if self.scale.dim() else f"exactly {plain(self.scale):g}"
            )
            raise ValueError(f"CFG: a scale to train must be one number other than 0 and 1, got {came}")
        if not isinstance(self.uncond, Mapping):
            raise TypeError(
                "CFG: uncond must be a dict of the network's keyword arguments, "
                f"got {type(self.uncond).__name__}"
            )
        if self.interval is not None:
            object.__setattr__(self, "interval", _interval(self.interval))

    @property
    def trains(self) -> bool:  # type: ignore[override]
        return hasattr(self.scale, "detach")

    def plan_key(self) -> Any:
        return CFG, plain(self.scale), self.interval

    def active(self, node: Any, step: int) -> bool:
        if self.interval is None:
            return True
        rho = plain(node.sigma) / plain(node.alpha) if plain(node.alpha) else float("inf")
        return self.interval[0] < rho <= self.interval[1]

    def weights(self, node: Any, step: int) -> Sequence[Number]:
        scale = plain(self.scale) if isinstance(node.t, Real) else self.scale
        return scale, 1 - scale

    def inputs(self, ctx: Any) -> Sequence[dict[str, Any]]:
        return (dict(self.uncond),)


def _interval(given: Any) -> tuple[float, float]:
    try:
        lo, hi = (float(v) for v in given)
    except TypeError as e:
        raise TypeError(f"CFG: interval must be two numbers (lo, hi), got {given!r}") from e
    except ValueError as e:
        kind = TypeError if isinstance(given, str) else ValueError
        raise kind(f"CFG: interval must be two numbers (lo, hi), got {given!r}") from e
    if not lo < hi:
        raise ValueError(f"CFG: interval must be (lo, hi) with lo < hi in sigma/alpha, got {given!r}")
    return lo, hi
