"""Edits of given data: noise that replays them, controlled inversion."""

from .cycle_noise import CycleNoise
from .rf_inversion import RFInversion

__all__ = ["CycleNoise", "RFInversion"]
