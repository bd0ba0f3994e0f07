"""FastScheduler: a diffusers scheduler that runs our plans.

    pipe.scheduler = FastScheduler.from_config(pipe.scheduler.config)                       # the same method
    pipe.scheduler = FastScheduler.from_config(pipe.scheduler.config, solver="dpmpp-2m", grid="karras")

`step` is one pass over the sample, the network's output and the history. It waits for nothing on the device:
it counts its calls. Everything but that count and the history is shared, so requests that run at the same
time each take a `session()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from ...core.errors import unknown
from ...core.grid import grids
from ...core.hook import Hook
from ...core.plan import Recipe
from ...core.solver import Solver, solvers
from ...guidance.clip import Clip
from .churn import Churning
from .configs import OURS, PEERS, Request, Threshold, fields_of, guessed, peer_class, read
from .legs import DATA, JUMP, NEXT, Legs, legs_of
from .levels import Levelled
from .output import JUMPS, FastSchedulerOutput
from .schedule import Schedule, ask, make_peer, regrid, schedule_of, tell
from .stepping import WITH_ETA, Settings, Stepping

__all__ = ["FastScheduler", "FastSchedulerOutput"]

NOISES = (None, "path")
# options of a configuration's own method that are no fields of it
ALONE = {
    **dict.fromkeys(("DDIMScheduler", "DDIMParallelScheduler", "TCDScheduler"), ("eta",)),
    "LMSDiscreteScheduler": ("order",),
}


# solvers that ask the network at the end of a step: its result is not what the caller sees
EARLY = ("unipc", "unipc-hb", "sa-solver")


class Shared:
    """What every session of a scheduler reads: schedules and legs by what they were made for."""

    def __init__(self) -> None:
        self.schedules: dict[Any, Schedule] = {}
        self.legs: dict[Any, Legs] = {}


class FastScheduler(Stepping, Churning, Levelled, SchedulerMixin, ConfigMixin):
    """See the module. Made by `from_config` or `from_pretrained`."""

    _compatibles = list(PEERS)
    ignore_for_config: list[str] = []

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        peer: str | None = None,
        *,
        solver: str | None = None,
        grid: str | None = None,
        grid_options: Mapping[str, Any] | None = None,
        legacy: bool = True,
        seeds: Any = None,
        noise: str | None = None,
        solver_options: Mapping[str, Any] | None = None,
    ):
        if config is None or peer is None:
            raise TypeError(
                "FastScheduler is made of a configuration: FastScheduler.from_config(pipe.scheduler)"
            )
        own = {
            "peer": peer,
            "solver": solver,
            "grid": grid,
            "grid_options": dict(grid_options or {}),
            "legacy": legacy,
            "seeds": seeds if isinstance(seeds, (int, list, tuple)) else None,
            "noise": noise,
            "solver_options": dict(solver_options or {}),
        }
        defaults = sorted(k for k in fields_of(peer) if k not in config)
        self.register_to_config(**{**fields_of(peer), **config, **own, "_use_default_values": defaults})
        self.peer, self.seeds, self.noise, self._shared = peer, seeds, noise, Shared()
        self._takes_eta = solver is None and peer in WITH_ETA
        if noise not in NOISES:
            raise ValueError(f"noise={noise!r}; allowed: None (independent draws) and 'path'")
        if PEERS[peer].inverse and (solver is not None or grid is not None):
            raise ValueError(f"{peer} goes from data to noise, for which solver= and grid= have no other way")
        if grid is not None:
            grids.get(grid)
        elif grid_options:
            raise ValueError("grid_options without a grid")
        self._made_solver()
        self.order = peer_class(peer).order if solver is None else 1  # type: ignore[attr-defined]
        template = make_peer(peer, self._fields())
        self.alphas_cumprod = getattr(template, "alphas_cumprod", None)
        self.betas = getattr(template, "betas", None)
        self.num_inference_steps: int | None = None
        self._schedule: Schedule | None = None
        self.timesteps = getattr(template, "timesteps", None)
        self.sigmas = getattr(template, "sigmas", None)
        self._values: list[float] = []
        self._base = -1
        self._start: Any = getattr(template, "init_noise_sigma", 1.0)
        self._reset()

    # making, saving

    @classmethod
    def from_config(  # type: ignore[override]
        cls, config: Any = None, return_unused_kwargs: bool = False, **options: Any
    ) -> Any:
        """A scheduler for the configuration of another (or for the scheduler itself).

        peer     the class whose configuration it is, where the configuration does not say
        solver   a key of `fd.solvers.names()`; None: the configuration's own class names it
        grid     a key of `fd.grids.names()`, with `grid_options`; None: the configuration's own timesteps
        legacy   True: the numbers of diffusers' class; False: without its open defects (docs/diffusers.md)
        seeds    noise by sample instead of by `generator`: an int, a sequence, fd.Seeds
        noise    "path": the increments of one Brownian path per sample
        others   fields of the configuration, or options of the solver

        Raises ValueError for a class that is not known here, for fields that contradict each other or are not
        supported and for options that do not exist; warns of fields that the class does not have.
        """
        if isinstance(config, ConfigMixin):
            options.setdefault("peer", getattr(config, "peer", type(config).__name__))
            config = config.config
        if not isinstance(config, Mapping):
            raise TypeError(f"config must be a scheduler's configuration, got {type(config).__name__}")
        config = dict(config)
        name = options.pop("peer", None) or config.get("peer") or config.get("_class_name") or guessed(config)
        options = {**{k: config[k] for k in OURS if k in config and k != "peer"}, **options}
        peer_class(name)  # raises for a class that is not known
        known = fields_of(name)
        config = {k: v for k, v in config.items() if k not in OURS}
        taken = {k: options.pop(k) for k in OURS if k in options}
        config.update({k: options.pop(k) for k in list(options) if k in known})
        for k in ("commit_hash", "torch_dtype", "_commit_hash"):
            options.pop(k, None)
        extra = dict(taken.pop("solver_options", None) or {})
        extra.update(options)
        made = cls(read(name, config), name, solver_options=extra, **taken)
        return (made, {}) if return_unused_kwargs else made

    def session(self, seeds: Any = None) -> FastScheduler:
        """This scheduler with a state of its own: for a request that runs while others do. Tables and plans
        are shared."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        if seeds is not None:
            other.seeds = seeds
        other._reset()
        return other

    def __copy__(self) -> FastScheduler:
        return self.session()

    def __deepcopy__(self, memo: Any) -> FastScheduler:
        return self.session()

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def _fields(self) -> dict[str, Any]:
        return {k: v for k, v in dict(self.config).items() if k in fields_of(self.peer)}

    def _made_solver(self) -> Solver | None:
        """The solver that was asked for by name, with its options."""
        key, options = self.config.solver, dict(self.config.solver_options)
        if key is None:
            allowed = ALONE.get(self.peer, ())
            for k in options:
                if k not in allowed:
                    known = [*fields_of(self.peer), *allowed, *(o for o in OURS if o != "peer")]
                    raise unknown(f"option of FastScheduler for {self.peer}", k, known)
            return None
        cls = solvers.get(key)
        has = {f.name for f in dataclass_fields(cls)}  # type: ignore[arg-type]
        if "legacy" in has:
            options.setdefault("legacy", bool(self.config.legacy))
        made = solvers.make(key, **options)
        if made.adaptive:
            raise ValueError(f"solver={key!r} chooses its own steps, so no scheduler can run it")
        return made

    # the schedule

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """Choose the levels and compile. timesteps, sigmas, mu and what else diffusers' class takes
        (original_inference_steps, strength) mean what they mean there."""
        if self.config.grid is not None and (timesteps is not None or sigmas is not None):
            raise ValueError("set_timesteps: timesteps and sigmas cannot be given beside grid=")
        wanted = {
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "sigmas": sigmas,
            "mu": mu,
        }
        wanted.update(others)
        listed = {k: _listed(v) for k, v in wanted.items() if v is not None}
        key = repr(sorted(self._fields().items())), repr(sorted(listed.items()))
        found = self._shared.schedules.get(key)
        if found is None:
            peer = ask(self.peer, self._fields(), listed)
            found = schedule_of(self.peer, self._fields(), peer, bool(self.config.legacy))
            if self.config.grid is not None:
                steps = num_inference_steps or len(found.ends)
                options = dict(self.config.grid_options)
                found = regrid(self.peer, self._fields(), found, steps, self.config.grid, options)
            self._shared.schedules[key] = found
        self._key, self._schedule = key, found
        self.num_inference_steps, self.sigmas = len(found.ends), found.sigmas
        self._start = found.start
        self._reset()
        told = self._told(self._compiled(0, self._settings))
        self._values = told.tolist()
        self.timesteps = told.to(device) if device is not None else told
        self._base = self.timesteps.untyped_storage().data_ptr()

    def _told(self, legs: Legs) -> Tensor:
        """What the network is told at each call."""
        schedule = self._plan_schedule
        own = self.config.solver is None and self.config.grid is None
        if own and len(schedule.timesteps) == len(legs.legs):
            return schedule.timesteps.clone()
        return tell(schedule.show(np.array([leg.t for leg in legs.legs])), schedule.timesteps)

    @property
    def _plan_schedule(self) -> Schedule:
        if self._schedule is None:
            if not (PEERS[self.peer].scaled or self.peer.startswith("DDPM")):
                raise ValueError("FastScheduler: call set_timesteps first")
            begin = self._begin_index
            self.set_timesteps(len(self))  # as diffusers' classes, which then walk every training step
            self._begin_index = begin
        assert self._schedule is not None
        return self._schedule

    def _hooks(self) -> tuple[Hook, ...]:
        get = dict(self.config).get
        if get("thresholding"):
            cap = get("sample_max_value", 1.0)
            return (Threshold(float(get("dynamic_thresholding_ratio", 0.995)), float(cap)),)
        if get("clip_sample") and "clip_sample" in PEERS[self.peer].reads:
            bound = float(get("clip_sample_range") or 1.0)
            return (Clip(-bound, bound),)
        return ()

    def _compiled(self, first: int, settings: Settings) -> Legs:
        """Legs from node `first` on, from the cache where they were made before."""
        schedule = self._plan_schedule
        key = (*self._key, first, settings)
        found = self._shared.legs.get(key)
        if found is None:
            config = {**dict(self.config), **dict(self.config.solver_options)}
            eta, clipped = settings
            config["use_clipped_model_output"] = clipped
            own, peer = self._made_solver(), PEERS[self.peer]
            times = schedule.times[first:].copy()
            if own is None:
                eta = config.get("eta", 0.0 if "DDIM" in self.peer else None) if eta is None else eta
                solver = peer.solver(Request(config, schedule, first, bool(self.config.legacy), eta))
            else:
                solver, last = own, schedule.ends[-1]
                times[-1] = last if last < times[-2] else 0.0
            recipe = Recipe(solver, schedule.process, tuple(times.tolist()), schedule.predicts, self._hooks())
            spends = None
            if own is None and peer.spent != "used" and solver.stochastic:
                spends = 0.0 if peer.spent == "each" else 1.5 / schedule.train_steps
            early = getattr(solver, "inner", solver).key in EARLY
            extra = NEXT if peer.extra is None else JUMP if peer.extra in JUMPS else DATA
            found = legs_of(recipe, peer.scaled, schedule.sign, spends, early, extra)
            self._shared.legs[key] = found
        return found

    @property
    def init_noise_sigma(self) -> Any:
        """What the first normal sample is multiplied by."""
        return self._start

    def scale_model_input(self, sample: Tensor, timestep: Any = None, *_: Any, **__: Any) -> Tensor:
        """What the network is shown of a sample."""
        if not PEERS[self.peer].scaled:
            return sample
        self._plan_schedule  # noqa: B018 - says that set_timesteps is missing
        index = self._enter(timestep, self._settings)
        assert self._legs is not None
        return sample * self._legs.shown[index - self._offset]


def _listed(v: Any) -> Any:
    """Tensors and arrays as lists."""
    return v.tolist() if hasattr(v, "tolist") else list(v) if isinstance(v, tuple) else v
