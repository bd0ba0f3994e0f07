"""ConsistencyModel: a network made to give the data itself where almost no noise is left.

    f(x, t) = c_skip z + c_out F(c_in z, c_noise)                      z = x / alpha,  s = sigma / alpha

    c_skip = d^2 / ((s - s_min)^2 + d^2)      c_out = (s - s_min) d / sqrt(s^2 + d^2)      d = sigma_data

so that f(x, t_min) = x / alpha for every F. All of it is formed without dividing by alpha: it holds at pure
noise too. With `predicts` the network is an ordinary one, as a teacher is, and x0_hat its data prediction:
f = c_skip z + (s - s_min) / sqrt((s - s_min)^2 + d^2) x0_hat.

Sources: Song et al. 2023, arXiv:2303.01469, appendix C; Luo et al. 2023, arXiv:2310.04378, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.predict import SIGMA_DATA, convert
from ..core.process import Process
from ..runtime.denoiser import Denoiser
from ..runtime.train import asked, check_process, combined


class ConsistencyModel(torch.nn.Module):
    """f(x, t, **cond) -> data, for `fd.distill.Consistency` and, as Denoiser(f, process, predicts="data"),
    for the samplers "lcm" and "tcd".

    net         the raw network F; with `predicts` one that predicts "noise", "data", "velocity", "flow" or
                "score"
    process     a Process
    time        what the network is given, as in fd.Denoiser; default "c_noise", with `predicts` "t"
    sigma_data  deviation of the data; default the process's, or 0.5
    t_min       where f is x / alpha; default the process's t_min

    x (B, *), t (B,) in any float type. The arithmetic is the state's.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        process: Process,
        *,
        predicts: str | None = None,
        time: str | tuple[str, int] | None = None,
        sigma_data: float | None = None,
        t_min: float | None = None,
        x_dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_process("ConsistencyModel", process)
        raw = "edm" if predicts is None else None
        self._model = Denoiser(net, process, predicts=predicts, time=time, precondition=raw, x_dtype=x_dtype)
        self.net, self.process = net, process
        data = getattr(process, "sigma_data", SIGMA_DATA) if sigma_data is None else sigma_data
        if not (isinstance(data, (int, float)) and 0 < data < math.inf):
            raise ValueError(f"ConsistencyModel: sigma_data must be a number > 0, got {sigma_data!r}")
        self.sigma_data, self.t_min = float(data), float(process.t_min if t_min is None else t_min)
        if not process.t_zero <= self.t_min < process.t_max:
            raise ValueError(
                f"ConsistencyModel: t_min={self.t_min:g} must lie in "
                f"[{process.t_zero:g}, {process.t_max:g}), the process's times"
            )
        self.s_min = float(process.sigma(self.t_min) / process.alpha(self.t_min))

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        if not isinstance(t, Tensor) or t.shape != (x.shape[0],):
            came = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"ConsistencyModel: t must be a tensor ({x.shape[0]},), got {came}")
        node = self.process.node(t.to(x.device, torch.float64))
        a, s, d = node.alpha, node.sigma, self.sigma_data
        away = (s - self.s_min * a).clamp(min=0)  # alpha (s - s_min); a float32 t_min is t_min
        skip = a * d * d / (away**2 + (a * d) ** 2)  # c_skip / alpha
        raw: Tensor
        if self._model.predicts == "edm":
            r = (s * s + (a * d) ** 2).sqrt()
            seen = combined([x], [1 / r], node.t)
            seen = seen if self._model.x_dtype is None else seen.to(self._model.x_dtype)
            raw = self._model.take(self.net(seen, self._model.times_tensor(node.t, x), **cond), seen)
            return combined([x, raw], [skip, away * d / r], node.t)
        raw = asked(self._model, self.net, x, node, cond)
        p, q = convert(self._model.predicts, "data", node, check=False)
        out = away / (away**2 + (a * d) ** 2).sqrt()
        return combined([x, raw], [skip + out * p, out * q], node.t)
