"""Counter-based noise: who draws (seeds), for what (streams), and from which law."""

from . import streams
from .families import (
    bernoulli,
    bimodal,
    exponential,
    gamma,
    gumbel,
    laplace,
    multivariate_t,
    normal,
    rademacher,
    student_t,
    symmetric,
    uniform,
)
from .seeds import Seeds, resolve

__all__ = [
    "Seeds",
    "bernoulli",
    "bimodal",
    "exponential",
    "gamma",
    "gumbel",
    "laplace",
    "multivariate_t",
    "normal",
    "rademacher",
    "resolve",
    "streams",
    "student_t",
    "symmetric",
    "uniform",
]
