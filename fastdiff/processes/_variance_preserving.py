"""What the processes with alpha^2 + sigma^2 = 1 share: sigma' and g^2 follow from alpha and alpha'.

    sigma' = -alpha alpha' / sigma          g^2 = -2 alpha' / alpha = -2 f
"""
from __future__ import annotations

from ..core.math import Number, divide
from ..core.process import Process


class VariancePreserving(Process):
    """A subclass gives alpha, sigma, dalpha and _time_of. sigma comes in a form that does not cancel near
    alpha = 1."""

    def dsigma(self, t: Number) -> Number:
        return divide(-self.alpha(t) * self.dalpha(t), self.sigma(t))

    def g2(self, t: Number) -> Number:
        return -2 * self.f(t)

    def prior_std(self, t: float) -> float:
        return 1.0
