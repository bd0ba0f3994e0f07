"""Oracles for samplers, processes and losses: problems whose answers are known without running what is
tested.

    GaussianMixture(weights, means, stds)   data with a closed-form denoiser in every prediction kind
    pf_ode(mixture, process, x, t0, t1)     its probability flow, to 1e-10
    gaussian_flow(mean, std, process, ...)  the probability flow of Gaussian data, in closed form
    affine_law(run, process, ...)           exact mean and variance of a stochastic sampler on Gaussian data
    order_of(errors, steps)                 the measured order of convergence
"""
from .law import Law, affine_law
from .mixture import GaussianMixture, gaussian_flow
from .order import order_of
from .pf_ode import pf_ode

__all__ = ["GaussianMixture", "Law", "affine_law", "gaussian_flow", "order_of", "pf_ode"]
