"""Schedule: the noise levels of a configuration, asked of diffusers' own class.

A network trained by a diffusers configuration has to meet the levels and timesteps of that class, its
roundings included, so its tables are taken as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.grid import grids
from ...core.math import Number, log, sqrt
from ...core.process import Process
from ...processes._variance_preserving import VariancePreserving
from ...processes.discrete_vp import DiscreteVP
from ...processes.edm import EDM
from ...processes.flow_matching import FlowMatching
from ...processes.trig import Trig
from .configs import KINDS, PEERS, TauOf, peer_class


@dataclass(frozen=True)
class Levels(VariancePreserving):
    """A variance preserving process whose time is rho = sigma / alpha itself."""

    sigma_data: float = 0.5

    t_min, t_max = 1e-3, float("inf")

    def alpha(self, t: Number) -> Number:
        return 1 / sqrt(1 + t * t)

    def sigma(self, t: Number) -> Number:
        return t / sqrt(1 + t * t)

    def dalpha(self, t: Number) -> Number:
        return -t * self.alpha(t) * self.alpha(t) * self.alpha(t)

    def lam(self, t: Number) -> Number:
        return -log(t)

    def _time_of(self, lam: Any) -> Any:
        return np.exp(-lam)


@dataclass(frozen=True, eq=False)
class Schedule:
    """process    in whose times the rest is
    times      of the nodes, strictly decreasing, the end included
    ends       where each step ends: the next node, but for steps of a fixed stride
    shown      what the network is told at each node
    timesteps  diffusers' own list, one for each network call of its method
    sign       -1: the network's output is the negative of a prediction
    sigmas     diffusers' own, or None
    start      init_noise_sigma
    """

    process: Process
    times: np.ndarray
    ends: tuple[float, ...]
    shown: np.ndarray
    timesteps: Tensor
    predicts: str
    sign: float = 1.0
    sigmas: Tensor | None = None
    start: Any = 1.0
    train_steps: int = 1000
    indices: tuple[int, ...] = ()
    stride: int = 1
    final: float = 0.0
    orders: tuple[int, ...] = ()
    tau: Any = 0.0

    def show(self, times: np.ndarray) -> np.ndarray:
        """What the network is told at times between the nodes too: by log rho, which it is told of."""
        lam, known = (np.asarray([_lam(self.process, t) for t in row]) for row in (times, self.times[:-1]))
        return np.interp(lam, known, self.shown)


def _lam(process: Process, t: float) -> float:
    node = process.node(float(t))
    return -1e3 if node.pure else 1e3 if node.clean else float(process.lam(float(t)))


def make_peer(name: str, fields: Mapping[str, Any]) -> Any:
    return peer_class(name)(**fields)


def ask(name: str, fields: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """diffusers' class after its set_timesteps; arguments it does not take are refused."""
    peer = make_peer(name, fields)
    takes = inspect.signature(peer.set_timesteps).parameters
    given = {k: v for k, v in arguments.items() if v is not None}
    for k in given:
        if k not in takes:
            raise ValueError(f"set_timesteps: {name} takes no {k}; allowed: {', '.join(takes)}")
    steps = given.get("num_inference_steps", 4)
    if name == "PNDMScheduler" and steps < 4 and not peer.config.skip_prk_steps:
        raise ValueError(
            "set_timesteps: num_inference_steps must be 4 or more for the Runge-Kutta warm-up of PNDM, got "
            f"{steps}"
        )
    peer.set_timesteps(**given)
    return peer


def schedule_of(name: str, fields: Mapping[str, Any], peer: Any, legacy: bool) -> Schedule:
    table, kind = PEERS[name].table, KINDS[fields.get("prediction_type", "epsilon")]
    start = getattr(peer, "init_noise_sigma", 1.0)
    common: dict[str, Any] = {
        "timesteps": peer.timesteps,
        "start": start,
        "train_steps": int(peer.config.num_train_timesteps),
    }
    if table == "alphas":
        return _of_alphas(name, peer, kind, legacy, common)
    if table == "angles":
        times = np.append(peer.timesteps.double().numpy(), 0.0)
        trig = Trig()
        return Schedule(trig, times, _ends(times), times[:-1], predicts="velocity", **common)
    rho = peer.sigmas.double().numpy()
    if peer.order == 2:
        rho, shown = rho[np.append(True, np.diff(rho) != 0)], peer.timesteps[::2]
    else:
        rho, shown = rho[: len(peer.timesteps) + 1], peer.timesteps  # "log_linear" has one level more
    common |= {"sigmas": peer.sigmas, "shown": shown.double().numpy()[: len(rho) - 1]}
    ends, times = rho[1:], rho
    if len(rho) > 2 and rho[-1] == rho[-2]:  # a last step that goes nowhere
        times = np.append(rho[:-1], 0.0)
    if table == "flow" or peer.config.get("use_flow_sigmas"):
        sign = 1.0
        if peer.config.get("invert_sigmas"):
            times, ends, sign = 1 - times, 1 - ends, -1.0
        process: Process = FlowMatching()
        kind = "flow" if table == "flow" else kind
        return Schedule(
            process, times, tuple(ends), predicts=kind, sign=sign, **common, **_own(name, peer, ends)
        )
    if PEERS[name].edm:
        sign = -1.0 if kind == "velocity" else 1.0
        levels = Levels(sigma_data=float(peer.config.sigma_data))
        return Schedule(levels, times, tuple(ends), predicts="edm", sign=sign, **common)
    return Schedule(Levels(), times, tuple(ends), predicts=kind, **common, **_own(name, peer, ends))


def _ends(times: np.ndarray) -> tuple[float, ...]:
    return tuple(times[1:].tolist())


def _own(name: str, peer: Any, ends: np.ndarray) -> dict[str, Any]:
    """What one class alone has."""
    if name == "DPMSolverSinglestepScheduler":
        return {"orders": tuple(peer.order_list)}
    if name == "SASolverScheduler":
        levels = [float(peer.tau_func(int(t))) for t in peer.timesteps]
        return {"tau": TauOf(tuple(zip(ends.tolist(), levels, strict=True)))}
    return {}


def _of_alphas(name: str, peer: Any, kind: str, legacy: bool, common: dict[str, Any]) -> Schedule:
    """Times (n + 1) / N of the training steps n."""
    N = common["train_steps"]
    process = DiscreteVP(peer.alphas_cumprod.double().numpy())
    final = 0.0
    if name == "TCDScheduler" or name in STRIDED and float(peer.final_alpha_cumprod) != 1:
        final = 1 / N
    n = peer.timesteps.numpy()
    if name == "PNDMScheduler":
        n = np.asarray(peer._timesteps, dtype=np.int64)[::-1]
    stride = N // int(peer.num_inference_steps or N)
    if PEERS[name].inverse:  # each step ends at its own timestep and begins a stride below, or at the data
        clean = 0.0 if float(peer.initial_alpha_cumprod) == 1 else 1 / N
        begins = [(min(m, N - 1) + 1) / N if m >= 0 else clean for m in (n - stride).tolist()]
        ends = tuple(((n + 1) / N).tolist())
        times = np.array([*begins, ends[-1]])
        return Schedule(process, times, ends, n.astype(np.float64), predicts=kind, stride=stride, **common)
    if name in STRIDED and legacy:
        ends = tuple((m + 1) / N if m >= 0 else final for m in (n - stride).tolist())
    else:
        ends = (*((n[1:] + 1) / N).tolist(), final)
    times = np.append((n + 1) / N, 0.0)
    extra = {"indices": tuple(n.tolist()), "stride": stride, "final": final}
    return Schedule(process, times, ends, n.astype(np.float64), predicts=kind, **extra, **common)


STRIDED = ("DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler")


def regrid(
    name: str, fields: Mapping[str, Any], old: Schedule, steps: int, grid: str, options: Mapping[str, Any]
) -> Schedule:
    """The schedule on one of `fd.grids` over the levels that the network was trained on."""
    peer = make_peer(name, fields)
    if PEERS[name].table == "flow" or isinstance(old.process, FlowMatching):
        base: Process = FlowMatching()
        times = grids.make(grid, **options).times(base, steps)
        return replace(old, times=times, ends=_ends(times), shown=times[:-1] * old.train_steps)
    if PEERS[name].edm:
        cfg = peer.config
        base = EDM(cfg.sigma_min, cfg.sigma_max, cfg.sigma_data)
        times = grids.make(grid, **options).times(base, steps)
        shown = 2 / np.pi * np.arctan(times[:-1]) if "Cosine" in name else np.log(times[:-1]) / 4
        return replace(old, times=times, ends=_ends(times), shown=shown)
    if PEERS[name].table == "angles":
        times = grids.make(grid, **options).times(old.process, steps)
        return replace(old, times=times, ends=_ends(times), shown=times[:-1])
    base = DiscreteVP(peer.alphas_cumprod.double().numpy())
    times = grids.make(grid, **options).times(base, steps)
    shown = np.clip(base.model_index(times[:-1], old.train_steps), 0, old.train_steps - 1)
    if PEERS[name].table == "sigmas":
        rho = np.append(np.exp(-np.asarray(base.lam(times[:-1]))), 0.0)
        start = old.start if not PEERS[name].scaled else float(rho[0])
        return replace(old, times=rho, ends=_ends(rho), shown=shown, start=start)
    return replace(old, times=times, ends=_ends(times), shown=shown)


def tell(values: np.ndarray, like: Tensor) -> Tensor:
    """Values for the network in the dtype in which diffusers' class has them."""
    if not like.dtype.is_floating_point:
        values = np.rint(values)
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.dtype)
