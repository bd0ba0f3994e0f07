"""Laws of the training time. One file, one law; registered by being here."""

from ._times import Times
from ._times import times as registry

names = registry.names

__all__ = ["Times", "names", "registry"]
