"""Likelihoods: what a network thinks the density of data is, exactly or as a bound, in nats and in bits."""

from .bits_per_dim import bits_per_dim
from .elbo import Bound, elbo
from .ito_density import ItoDensity
from .ode import Density, ode
from .truncated_normal_dequantize import truncated_normal_dequantize

__all__ = [
    "Bound",
    "Density",
    "ItoDensity",
    "bits_per_dim",
    "elbo",
    "ode",
    "truncated_normal_dequantize",
]
