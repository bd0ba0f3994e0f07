"""Counter-based noise: who draws (seeds), for what (streams), and from which law."""

from . import streams
from .consistent_noise import ConsistentNoise
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
from .gaussian_field import RBF, Exponential, GaussianField, Matern, PowerLaw
from .markov_fbm import MarkovFBM
from .seeds import Seeds, resolve
from .simulators import fractional_brownian, ou, scaled_brownian

__all__ = [
    "RBF",
    "ConsistentNoise",
    "Exponential",
    "GaussianField",
    "MarkovFBM",
    "Matern",
    "PowerLaw",
    "Seeds",
    "bernoulli",
    "bimodal",
    "exponential",
    "fractional_brownian",
    "gamma",
    "gumbel",
    "laplace",
    "multivariate_t",
    "normal",
    "ou",
    "rademacher",
    "resolve",
    "scaled_brownian",
    "streams",
    "student_t",
    "symmetric",
    "uniform",
]
