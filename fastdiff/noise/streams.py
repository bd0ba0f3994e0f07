"""The register of random streams: one number for each purpose, so that no two uses of a seed collide.

The numbers are part of every saved run and never change. 32 .. 95 are the user's, 96 .. 127 belong to hooks
(hook k draws from HOOKS + k), 130 .. 191 and 193 .. 255 are the further noise columns of solvers and losses.
"""

from __future__ import annotations

SOLVER = 0  # noise column 0 of every stochastic solver, churn, restarts, Langevin sweeps
INITIAL = 1  # x_T and every prior
TRAINING = 2  # noise column 0 of losses and perturb
TIMES = 3  # times drawn in training
PROBES = 4  # Hutchinson and other trace probes
ACCEPT = 5  # accept tests of MCMC
RESAMPLING = 6  # particles
DEQUANTISATION = 7
CATEGORICAL = 8  # tokens, jumps
SOLVER_SECOND = 9  # noise column 1 of solvers, Levy area on a grid
MIDPOINT = 10  # randomised midpoints
BERNOULLI = 11  # coins: masking, dropping conditions, stochastic rounding
COMPONENT = 12  # choice of a mixture's component
LATENT = 13  # latents of stochastic networks
GAMMA = 14  # gamma, beta, chi-square
COUNTS = 15  # binomial, Poisson
BROWNIAN_W = 16
BROWNIAN_H = 17
BROWNIAN_LEAF_W = 18
BROWNIAN_LEAF_H = 19
LEVY_ANGLE = 20
LEVY_EXPONENTIAL = 21
TEXTURE = 22
FORWARD = 23  # noise of forward chains
ORDER = 24  # permutations and orders
SEARCH = 25
MEASUREMENT = 26  # noise on measurements
INNER = 27  # inner chains
PROPOSAL = 28  # site proposals
SIMULATOR = 29
DEGRADATION = 30  # random degradations
USER = 32  # .. 95
HOOKS = 96  # .. 127
LAST = 255


def column_stream(c: int) -> int:
    """The stream of noise column c of a solver stage: 0, 9, 130, 131, .. 191."""
    if not 0 <= c <= 63:
        raise ValueError(f"column_stream: column {c}; a solver stage has columns 0 .. 63")
    return (SOLVER, SOLVER_SECOND)[c] if c < 2 else 128 + c


def training_column_stream(c: int) -> int:
    """The stream of column c of training noise: 2, 193, 194, .. 255."""
    if not 0 <= c <= 63:
        raise ValueError(f"training_column_stream: column {c}; training noise has columns 0 .. 63")
    return TRAINING if c == 0 else 192 + c


def hook_stream(k: int) -> int:
    """The stream of hook k: 96 .. 127."""
    if not 0 <= k <= 31:
        raise ValueError(f"hook_stream: hook {k}; there are 0 .. 31")
    return HOOKS + k
