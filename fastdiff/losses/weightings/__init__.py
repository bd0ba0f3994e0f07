"""Weightings of a denoising loss over time. One file, one weighting; registered by being here."""

from ._weighting import Weighting
from ._weighting import weightings as registry

names = registry.names

__all__ = ["Weighting", "names", "registry"]
