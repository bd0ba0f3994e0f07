"""Fitting the sampler to the network before sampling: where its steps should lie."""

from .ays import ays
from .gits import gits

__all__ = ["ays", "gits"]
