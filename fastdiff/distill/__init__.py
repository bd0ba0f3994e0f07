"""Few-step students: what trains a network to reach the data in one or a few calls. One file, one method."""

from .consistency import Consistency, curriculum
from .consistency_model import ConsistencyModel
from .dmd import DMD
from .mmd import MMD, mmd2
from .trajectory import Trajectory

__all__ = ["DMD", "MMD", "Consistency", "ConsistencyModel", "Trajectory", "curriculum", "mmd2"]
