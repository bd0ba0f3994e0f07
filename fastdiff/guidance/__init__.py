"""Guidance: hooks that change the prediction."""

from .cfg import CFG
from .clip import Clip
from .rescale import Rescale
from .threshold import DynamicThreshold

__all__ = ["CFG", "Clip", "DynamicThreshold", "Rescale"]
