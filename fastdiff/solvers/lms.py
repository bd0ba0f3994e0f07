"""LMS: linear multistep, Adams-Bashforth in straight coordinates on the grid's own spacing.

    x_t / c_t = x_s / c_s + sum_j w_j d_j,      w_j = int_{tau_s}^{tau_t} L_j

c, tau, d as in `euler` (order 1 is `euler`); L_j are the Lagrange polynomials on the newest `order` nodes,
and their integrals are exact, to sigma = 0 too. legacy=True never lowers the order, for however few steps, as
k-diffusion and diffusers.

Source: Katherine Crowson's k-diffusion (sample_lms), on Karras et al. 2022, arXiv:2206.00364.
"""
from __future__ import annotations

from dataclasses import dataclass

from ._adams import Adams


@dataclass(frozen=True)
class LMS(Adams):
    key = "lms"
    source = "Karras et al. 2022, arXiv:2206.00364"
