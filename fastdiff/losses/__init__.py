"""Training losses. Built once, called as `loss(net, x0, cond=None, seeds=None)`: tensors in, a scalar out, so
that it stands in any training loop. One file, one loss; registered by being here."""

from . import couplings, times, weightings
from ._loss import Loss, Terms
from ._loss import losses as registry
from .coupled_diffusion import CoupledDiffusion
from .denoising import Denoising
from .diffenc import DiffEnc
from .flow_matching import FlowMatching
from .fokker_planck import FokkerPlanck, fokker_planck_residual
from .fourier import Fourier
from .hybrid_vlb import HybridVLB
from .interpolant import Interpolant
from .learned_coupling import LearnedCoupling, curvature
from .local_dsm import LocalDSM
from .mean_reverting_ml import MeanRevertingML
from .multiscale_dsm import MultiscaleDSM
from .ndm import NDM
from .nfdm import NFDM
from .restoration import Restoration
from .second_order import SecondOrder
from .velocity_ml import VelocityML

names = registry.names

__all__ = [
    "NDM",
    "NFDM",
    "CoupledDiffusion",
    "Denoising",
    "DiffEnc",
    "FlowMatching",
    "FokkerPlanck",
    "Fourier",
    "HybridVLB",
    "Interpolant",
    "LearnedCoupling",
    "LocalDSM",
    "Loss",
    "MeanRevertingML",
    "MultiscaleDSM",
    "Restoration",
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
