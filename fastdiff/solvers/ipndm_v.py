"""iPNDM with variable steps: `ipndm` with the weights of the grid's own spacing.

    x_t / c_t = x_s / c_s + sum_j w_j d_j,      w_j = int_{tau_s}^{tau_t} L_j

The closed forms that public code writes out are these integrals, so it equals `lms`, and `ipndm` where steps
are equal in tau = sigma / alpha.

Source: Zhang & Chen 2022, arXiv:2204.13902, section 3.3.
"""
from __future__ import annotations

from dataclasses import dataclass

from ._adams import Adams


@dataclass(frozen=True)
class IPNDMV(Adams):
    key = "ipndm-v"
    source = "Zhang & Chen 2022, arXiv:2204.13902"
