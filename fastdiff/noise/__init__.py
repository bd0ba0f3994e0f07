"""Counter-based noise: who draws (seeds), for what (streams), from which law."""

from . import streams
from .brownian_path import BrownianPath
from .families import normal, uniform
from .seeds import Seeds, resolve

__all__ = ["BrownianPath", "Seeds", "normal", "resolve", "streams", "uniform"]
