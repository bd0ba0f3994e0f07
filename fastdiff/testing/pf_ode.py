"""The probability flow of a mixture, solved so closely that it can be called exact.

In the angle theta = atan(sigma / alpha) the normalised u = x / sqrt(alpha^2 + sigma^2) moves by

    du / dtheta = cos(theta) E[eps | x] - sin(theta) E[x_0 | x]

for every process, with nothing singular at sigma = 0 or at alpha = 0.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..core.process import Process
from .mixture import GaussianMixture


def pf_ode(
    mixture: GaussianMixture, process: Process, x: Any, t0: float, t1: float, *, tol: float = 1e-12
) -> Any:
    """x carried from t0 to t1 along the probability flow: an array (or tensor) of x's shape in float64.

    DOP853 with relative and absolute tolerance `tol`; the result is good to about 100 tol. Needs scipy.
    """
    from scipy.integrate import solve_ivp  # not at import: only this function needs it

    start = np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, dtype=np.float64)
    (a0, s0), (a1, s1) = ((float(process.alpha(float(t))), float(process.sigma(float(t)))) for t in (t0, t1))

    def slope(theta: float, u: np.ndarray) -> np.ndarray:
        a, s = math.cos(theta), math.sin(theta)
        x0, eps = mixture.expectations(u.reshape(start.shape), a, s)
        return (a * eps - s * x0).reshape(-1)

    span = (math.atan2(s0, a0), math.atan2(s1, a1))
    u = start.reshape(-1) / math.hypot(a0, s0)
    flow = solve_ivp(slope, span, u, method="DOP853", rtol=max(tol, 3e-14), atol=tol)
    if not flow.success:
        raise RuntimeError(f"pf_ode: {flow.message}")
    end = (flow.y[:, -1] * math.hypot(a1, s1)).reshape(start.shape)
    return torch.from_numpy(end) if isinstance(x, torch.Tensor) else end
