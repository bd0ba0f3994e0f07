"""iPNDM: Adams-Bashforth of order 1, 2, 3, 4 in straight coordinates, with the weights of equal steps.

    x_t / c_t = x_s / c_s + (tau_t - tau_s) d
    d = d_0 | (3 d_0 - d_1) / 2 | (23 d_0 - 16 d_1 + 5 d_2) / 12 | (55 d_0 - 59 d_1 + 37 d_2 - 9 d_3) / 24

Order `order` where steps are equal in tau = sigma / alpha (t on straight paths), 2 on other smooth grids:
`ipndm-v` has the weights for those. legacy=True never lowers the order, as diffusers.

Source: Zhang & Chen 2022, arXiv:2204.13902, section 3.3; PNDM: Liu et al. 2022.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.math import Number
from ..core.process import Node
from ._adams import MIXTURES, Adams


@dataclass(frozen=True)
class IPNDM(Adams):
    key = "ipndm"
    source = "Zhang & Chen 2022, arXiv:2204.13902"
    startups = ("ramp",)

    def weights(self, s: Node, t: Node, nodes: Sequence[Node]) -> Sequence[Number]:
        rows, denominator = MIXTURES[len(nodes)]
        return [(t.tau - s.tau) * (p + q) / denominator for p, q in rows]
