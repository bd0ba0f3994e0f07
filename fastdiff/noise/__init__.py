"""Counter-based noise: who draws (seeds), for what (streams), and from which law."""

from . import streams
from .families import normal, uniform
from .seeds import Seeds, resolve

__all__ = ["Seeds", "normal", "resolve", "streams", "uniform"]
