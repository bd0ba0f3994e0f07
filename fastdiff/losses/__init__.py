"""Training losses. Built once, called as `loss(net, x0, cond=None, seeds=None)`: tensors in, a scalar out, so
that it stands in any training loop. One file, one loss; registered by being here."""

from . import couplings, times, weightings
from ._loss import Loss, Terms
from ._loss import losses as registry
from .denoising import Denoising
from .flow_matching import FlowMatching
from .fokker_planck import FokkerPlanck, fokker_planck_residual
from .interpolant import Interpolant
from .learned_coupling import LearnedCoupling, curvature
from .local_dsm import LocalDSM
from .second_order import SecondOrder
from .velocity_ml import VelocityML

names = registry.names

__all__ = [
    "Denoising",
    "FlowMatching",
    "FokkerPlanck",
    "Interpolant",
    "LearnedCoupling",
    "LocalDSM",
    "Loss",
    "SecondOrder",
    "Terms",
    "VelocityML",
    "couplings",
    "curvature",
    "fokker_planck_residual",
    "names",
    "registry",
    "times",
    "weightings",
]
