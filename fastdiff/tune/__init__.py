"""Fitting the sampler to the network before sampling: where its steps should lie, and where it should
start."""

from ..core.statistics import ModelStatistics
from .ays import ays
from .gits import gits
from .horizon import horizon, prior_gap
from .model_statistics import model_statistics
from .search_initial_noise import Found, search_initial_noise

__all__ = [
    "Found",
    "ModelStatistics",
    "ays",
    "gits",
    "horizon",
    "model_statistics",
    "prior_gap",
    "search_initial_noise",
]
