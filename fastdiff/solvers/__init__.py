"""Solvers: one file, one formula; registered by being here."""
from ..core.solver import solvers as registry

names = registry.names
make = registry.make
