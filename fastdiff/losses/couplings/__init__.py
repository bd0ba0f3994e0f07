"""Couplings of data with noise: which noise a sample of the batch moves to. One file, one coupling;
registered by being here."""

from ._coupling import Coupling
from ._coupling import couplings as registry
from .assignment import assign
from .sinkhorn import transport_plan

names = registry.names

__all__ = ["Coupling", "assign", "names", "registry", "transport_plan"]
