"""Fitting the sampler to the network before sampling: where its steps should lie, and where it should
start."""

from .ays import ays
from .gits import gits
from .horizon import horizon, prior_gap
from .search_initial_noise import Found, search_initial_noise

__all__ = ["Found", "ays", "gits", "horizon", "prior_gap", "search_initial_noise"]
