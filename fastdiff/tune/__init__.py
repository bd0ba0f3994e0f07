"""Fitting the sampler to the network before sampling: where its steps should lie, where it should start, and
the numbers of its steps."""

from ..core.statistics import ModelStatistics
from .ays import ays
from .bespoke import bespoke
from .d_ode import d_ode
from .fit import fit
from .gits import gits
from .horizon import horizon, prior_gap
from .iia import iia
from .model_statistics import model_statistics
from .s3_search import s3_search
from .search_initial_noise import Found, search_initial_noise

__all__ = [
    "Found",
    "ModelStatistics",
    "ays",
    "bespoke",
    "d_ode",
    "fit",
    "gits",
    "horizon",
    "iia",
    "model_statistics",
    "prior_gap",
    "s3_search",
    "search_initial_noise",
]
