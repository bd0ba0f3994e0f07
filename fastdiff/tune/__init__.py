"""Fitting the sampler to the network before sampling: where its steps should lie, where it should start, and
the numbers of its steps."""

from ..core.statistics import ModelStatistics
from .ays import ays
from .bespoke import bespoke
from .fit import fit
from .gits import gits
from .horizon import horizon, prior_gap
from .model_statistics import model_statistics
from .search_initial_noise import Found, search_initial_noise

__all__ = [
    "Found",
    "ModelStatistics",
    "ays",
    "bespoke",
    "fit",
    "gits",
    "horizon",
    "model_statistics",
    "prior_gap",
    "search_initial_noise",
]
