"""Training losses. Built once, called as `loss(net, x0, cond=None, seeds=None)`: tensors in, a scalar out, so
that it stands in any training loop. One file, one loss; registered by being here."""

from . import times, weightings
from ._loss import Loss, Terms
from ._loss import losses as registry
from .coupled_diffusion import CoupledDiffusion
from .denoising import Denoising
from .diffenc import DiffEnc
from .fourier import Fourier
from .hybrid_vlb import HybridVLB
from .mean_reverting_ml import MeanRevertingML
from .multiscale_dsm import MultiscaleDSM
from .restoration import Restoration

names = registry.names

__all__ = [
    "CoupledDiffusion",
    "Denoising",
    "DiffEnc",
    "Fourier",
    "HybridVLB",
    "Loss",
    "MeanRevertingML",
    "MultiscaleDSM",
    "Restoration",
    "Terms",
    "names",
    "registry",
    "times",
    "weightings",
]
