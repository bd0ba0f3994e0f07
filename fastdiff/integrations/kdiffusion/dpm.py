"""sample_dpm_fast and sample_dpm_adaptive, which take the ends of the way in place of a list of sigmas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.solver import solvers
from ...noise.brownian_path import BrownianPath
from ...runtime.adaptive import AdaptiveSampler
from ...runtime.denoiser import Denoiser
from .ancestral_adaptive import Controller, ancestral, gains
from .formulas import Fast
from .run import (
    bar_of,
    check_arguments,
    is_flow,
    levels_of,
    process_of,
    run,
    sampling_of,
    seeds_of,
    show,
)


def sample_dpm_fast(
    model: Any,
    x: Tensor,
    sigma_min: Any,
    sigma_max: Any,
    n: int,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
    disable: bool | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: Callable[..., Any] | None = None,
    *,
    legacy: bool = True,
    seeds: Any = None,
    flow: bool | None = None,
) -> Tensor:
    """DPM-Solver-fast by n network calls, from sigma_max to sigma_min in steps uniform in log sigma. Its
    callback is called once for each of them."""
    extra_args = check_arguments(x, extra_args, callback, noise_sampler, legacy)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n must be an int of at least 1, got {n!r}")
    top, low, flows = _ends(model, sigma_min, sigma_max, legacy, flow)
    process = process_of(top, flows)
    whole, rest = divmod(int(n), 3)
    orders = [3] * whole + [rest] if rest else [3] * (whole - 1) + [2, 1]
    high, end = (float(process.lam(v)) for v in (min(top, 1 - 1e-4) if flows else top, low))
    times = [float(v) for v in process.time_of(np.linspace(high, end, len(orders) + 1))]
    times[0], times[-1] = top, low
    solver = Fast(eta=eta, s_noise=s_noise, orders_of_steps=tuple(orders), end=low)
    sigmas = torch.tensor(times, dtype=torch.get_default_dtype(), device=x.device)
    return run(
        solver,
        process,
        times,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler,
        seeds,
        with_time=True,
    )


def sample_dpm_adaptive(
    model: Any,
    x: Tensor,
    sigma_min: Any,
    sigma_max: Any,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
    disable: bool | None = None,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: Callable[..., Any] | None = None,
    return_info: bool = False,
    *,
    legacy: bool = True,
    seeds: Any = None,
    flow: bool | None = None,
) -> Any:
    """DPM-Solver-12 and -23 from sigma_max to sigma_min, which choose their steps. return_info: (x, counts).

    legacy=True takes one step for the whole batch; False one for each sample, and the counts are tensors. The
    callback sees the state that an attempt begins with. eta > 0, of legacy=True alone, steps as ancestral
    Euler does: lower, and back by noise.
    """
    extra_args = check_arguments(x, extra_args, callback, noise_sampler, legacy)
    if not 0 <= eta <= 1:
        raise ValueError(f"sample_dpm_adaptive: eta must lie in [0, 1], got {eta!r}")
    top, low, flows = _ends(model, sigma_min, sigma_max, legacy, flow)
    solver: Any = solvers.make(
        "dpm-adaptive",
        order=order,
        rtol=rtol,
        atol=atol,
        h_init=abs(h_init),
        controller="pid",
        pcoeff=pcoeff,
        icoeff=icoeff,
        dcoeff=dcoeff,
        accept_safety=accept_safety,
        legacy=legacy,
    )
    process = process_of(top, flows)
    if eta:
        if not legacy:
            raise ValueError(
                "sample_dpm_adaptive: eta goes with legacy=True; with legacy=False every sample has its own "
                "steps, and sample_dpmpp_sde is stochastic"
            )
        if not math.isfinite(s_noise):
            raise ValueError(f"sample_dpm_adaptive: s_noise must be finite, got {s_noise!r}")
        if noise_sampler is None:
            noise_sampler = by_path(x, low, top, seeds_of(seeds, extra_args))
        with bar_of(None, disable) as bar, torch.no_grad():

            def counted(y: Tensor, sigma: Tensor) -> Tensor:
                if bar is not None:
                    bar.update(1)
                return model(y, sigma, **extra_args)

            out, counts = ancestral(
                counted,
                x,
                top,
                low,
                order=order,
                rtol=rtol,
                atol=atol,
                controller=Controller(abs(h_init), gains(pcoeff, icoeff, dcoeff), accept_safety),
                eta=eta,
                s_noise=s_noise,
                noise=lambda s, t: noise_sampler(x.new_tensor(s), x.new_tensor(t)),
                callback=callback,
                max_steps=solver.max_steps,
            )
        return (out, counts) if return_info else out
    with bar_of(None, disable) as bar:
        network = _Attempts(model, extra_args, order, process.node(top).pure, callback, bar)
        adaptive = AdaptiveSampler(Denoiser(network, process, predicts="data"), solver, (top, low))
        got = adaptive.solve(x, seeds=seeds_of(seeds, extra_args))
    if not return_info:
        return got.x
    counts = {"nfe": got.calls, "n_accept": got.steps, "n_reject": got.rejected}
    if legacy:
        counts = {name: int(v.max()) if v.numel() else 0 for name, v in counts.items()}
    return got.x, {"steps": counts["n_accept"] + counts["n_reject"], **counts}


def by_path(x: Tensor, low: float, top: float, seeds: Any) -> Callable[[Any, Any], Tensor]:
    """Increments of one Brownian path over sigma for each sample, of variance 1."""
    path = BrownianPath(x.shape, seeds, low, top, depth=24, snap=False, dtype=x.dtype, device=x.device)

    def noise(s: Tensor, t: Tensor) -> Tensor:
        high, end = min(float(s), top), max(float(t), low)
        return path.increment(end, high) / (high - end) ** 0.5

    return noise


class _Attempts:
    """The model as a network, whose attempts a callback sees."""

    def __init__(
        self, model: Any, extra_args: dict[str, Any], order: int, pure: bool, callback: Any, bar: Any
    ):
        self.model, self.extra_args, self.order = model, extra_args, order
        self.callback, self.bar, self.count = callback, bar, -1 if pure else 0

    def __call__(self, x: Tensor, t: Tensor) -> Any:
        out = self.model(x, t, **self.extra_args)
        k, self.count = self.count, self.count + 1
        if self.bar is not None:
            self.bar.update(1)
        if self.callback is not None and k >= 0 and k % self.order == 0:
            sigma = t[0] if bool((t == t[0]).all()) else t
            time = -sigma.log()
            show(self.callback, x, out, i=k // self.order, sigma=sigma, sigma_hat=sigma, t=time, t_up=time)
        return out


def _ends(model: Any, low: Any, top: Any, legacy: bool, flow: bool | None) -> tuple[float, float, bool]:
    """sigma_max, sigma_min, and whether they are a flow model's."""
    flows = is_flow(sampling_of(model)) if flow is None else bool(flow)
    low, top = float(low), float(top)
    if low <= 0 or top <= low:
        raise ValueError(f"0 < sigma_min < sigma_max is allowed, got sigma_min={low:g}, sigma_max={top:g}")
    levels_of(torch.tensor([top, low], dtype=torch.float64), flows)
    return top, low, flows and not legacy
