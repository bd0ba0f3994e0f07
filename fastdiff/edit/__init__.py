"""Edits of given data: noise that replays them, controlled inversion, parts that are known."""

from .cycle_noise import CycleNoise
from .known import Known
from .rf_inversion import RFInversion

__all__ = ["CycleNoise", "Known", "RFInversion"]
