"""Training losses. Built once, called as `loss(net, x0, cond=None, seeds=None)`: tensors in, a scalar out, so
that it stands in any training loop. One file, one loss; registered by being here."""

from . import couplings, times, weightings
from ._loss import Loss, Terms
from ._loss import losses as registry
from .denoising import Denoising
from .flow_matching import FlowMatching
from .interpolant import Interpolant
from .learned_coupling import LearnedCoupling, curvature

names = registry.names

__all__ = [
    "Denoising",
    "FlowMatching",
    "Interpolant",
    "LearnedCoupling",
    "Loss",
    "Terms",
    "couplings",
    "curvature",
    "names",
    "registry",
    "times",
    "weightings",
]
