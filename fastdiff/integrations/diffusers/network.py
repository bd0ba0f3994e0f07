"""A diffusers network as a Denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...processes.discrete_vp import DiscreteVP
from ...processes.edm import EDM
from ...processes.flow_matching import FlowMatching
from ...processes.trig import Trig
from ...runtime.denoiser import Denoiser
from .configs import KINDS, PEERS, check, fields_of, guessed
from .schedule import make_peer

NAMES = ("timestep", "timesteps", "t", "time", "sigma")


def from_diffusers(
    model: Any,
    scheduler_config: Any,
    *,
    timestep_scale: float | None = None,
    x_dtype: torch.dtype | None = None,
) -> Denoiser:
    """A diffusers network (UNet2DModel, UNet2DConditionModel, a transformer) as a `fd.Denoiser`, for
    `fd.sample`, `fd.Sampler` and capture.

    scheduler_config  of the scheduler that the network was trained with, or that itself: it says the process,
    what the
                      network predicts and what it is told of the time
    timestep_scale    flow networks are told scale * sigma; default num_train_timesteps
    x_dtype           dtype in which the network wants x

    What else the network takes (encoder_hidden_states, ...) goes to `fd.sample(..., cond={...})` by name.
    Raises ValueError for a configuration whose process is not known.
    """
    config = getattr(scheduler_config, "config", scheduler_config)
    if not isinstance(config, Mapping):
        raise TypeError(f"scheduler_config must be a scheduler's configuration, got {type(config).__name__}")
    own = type(scheduler_config).__name__
    name = config.get("peer") or (own if own in PEERS else config.get("_class_name")) or guessed(config)
    known = fields_of(name)
    fields = {k: v for k, v in config.items() if k in known}
    check(name, {**known, **fields})
    peer, table = make_peer(name, fields), PEERS[name].table
    steps, kind = int(peer.config.num_train_timesteps), KINDS[peer.config.get("prediction_type", "epsilon")]
    call = caller(model)
    if PEERS[name].edm:
        c = peer.config
        process = EDM(c.sigma_min, c.sigma_max, c.sigma_data)
        sign = -1.0 if kind == "velocity" else 1.0

        def raw(x: Tensor, t: Tensor, **cond: Any) -> Any:
            told = (4 * t).exp().atan() * (2 / np.pi) if "Cosine" in name else t
            return sign * first(call(x, told, **cond))

        return Denoiser(raw, process, precondition="edm", x_dtype=x_dtype)
    if table == "flow" or config.get("use_flow_sigmas"):
        scale = float(steps) if timestep_scale is None else float(timestep_scale)
        predicts, sign = "flow" if table == "flow" else kind, -1.0 if config.get("invert_sigmas") else 1.0

        def flow(x: Tensor, t: Tensor, **cond: Any) -> Any:
            return sign * first(call(x, (t if sign > 0 else 1 - t) * scale, **cond))

        return Denoiser(flow, FlowMatching(), predicts=predicts, x_dtype=x_dtype)
    if table == "angles":
        return Denoiser(call, Trig(), predicts="velocity", x_dtype=x_dtype)
    process = DiscreteVP(abar(peer))
    return Denoiser(call, process, predicts=kind, time=("index", steps), x_dtype=x_dtype)


def abar(peer: Any) -> np.ndarray:
    """alphas_cumprod in float64; with zero terminal SNR the last one is 0."""
    betas = peer.betas.double().numpy()
    with np.errstate(divide="ignore"):
        return np.exp(np.cumsum(np.log1p(-betas)))


def first(out: Any) -> Any:
    """The prediction inside whatever the network returned."""
    return out if isinstance(out, Tensor) else out.sample if hasattr(out, "sample") else out[0]


def caller(model: Any) -> Any:
    """model(x, t, **cond) by the name its signature has for the time, wherever that stands."""
    forward = getattr(model, "forward", model)
    try:
        names = list(inspect.signature(forward).parameters)
    except (TypeError, ValueError):
        return model
    name = next((n for n in NAMES if n in names[1:]), None)
    if name is None or names.index(name) == 1:
        return model

    def call(x: Tensor, t: Tensor, **cond: Any) -> Any:
        return model(x, **{name: t}, **cond)

    return call
