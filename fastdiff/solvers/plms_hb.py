"""PLMS with heavy ball momentum: `ipndm` along a running mean of its directions.

    p         = the Adams-Bashforth mean of the newest `nodes` slopes, for equal steps
    v         = (1 - beta) v + beta p,      v_0 = p_0
    x_t / c_t = x_s / c_s + (tau_t - tau_s) v

c, tau, d as in `euler`. beta = 1 is `ipndm` but for the step to sigma = 0; else order 1: `ghvb` keeps it. For
guidance so strong that `ipndm` diverges.

Source: Wizadwongsa et al. 2023, arXiv:2307.11118, section 4.1.
"""
from __future__ import annotations

from dataclasses import dataclass

from ._heavy_ball import HeavyPLMS


@dataclass(frozen=True)
class PLMSHB(HeavyPLMS):
    key = "plms-hb"
    source = "Wizadwongsa et al. 2023, arXiv:2307.11118"
