"""VelocityML: maximum likelihood of a velocity, flat after its law of times.

    loss = E  (-lam' alpha^2 / q) |v - v_hat|^2          t of density q, against the uniform one

`Denoising` with weighting="elbo" and time_sampler="likelihood": the bound's integrand in v is
-lam' alpha^2 |v - v_hat|^2 on the unit circle, so under a density q proportional to -lam' alpha^2 the weight
is constant.

Source: Zheng et al. 2023, arXiv:2305.03935, sections 4.2 and 4.3.
"""

from __future__ import annotations

from typing import Any

from ..core.process import Process
from .denoising import Denoising


class VelocityML(Denoising):
    """`Denoising` with the bound's weighting and law of times; options are its own.

    Summed over elements and multiplied by t_max - t_min the loss is the diffusion part of the bound, in nats.
    """

    key = "velocity-ml"

    def __init__(self, process: Process, predicts: str = "velocity", **options: Any):
        super().__init__(process, predicts, **{"weighting": "elbo", "time_sampler": "likelihood", **options})
