"""PLMS with Nesterov momentum: as `plms-hb`, the newest mean counted once more.

    p         = the Adams-Bashforth mean of the newest `nodes` slopes, for equal steps
    v         = (1 - beta) v + beta p,      v_0 = p_0
    x_t / c_t = x_s / c_s + (tau_t - tau_s) ((1 - beta) v + beta p)

Order 1; beta = 1 is `ipndm` but for the step to sigma = 0.

Source: Wizadwongsa et al. 2023, arXiv:2307.11118, appendix.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._heavy_ball import HeavyPLMS


@dataclass(frozen=True)
class PLMSNT(HeavyPLMS):
    key = "plms-nt"
    source = "Wizadwongsa et al. 2023, arXiv:2307.11118"

    def direction(self, v: Any, mean: Any) -> Any:
        return self.smooth(v, mean)
