"""What a diffusers configuration means here: the table of classes, and the solver that each names.

Which noise levels are visited, and what the network is told of them, is asked of diffusers' own class
(`schedule.py`), so its fields act as they do there. The fields that say how to step are read here.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from ..._version import __version__
from ...core.errors import unknown
from ...core.process import Node
from ...core.solver import Solver, solvers
from ...guidance.threshold import DynamicThreshold
from . import solvers as peers

KINDS = {
    "epsilon": "noise",
    "sample": "data",
    "original_sample": "data",
    "v_prediction": "velocity",
    "flow_prediction": "flow",
}


@dataclass(frozen=True)
class Peer:
    """A diffusers class.

    table     what it steps over: "alphas" (indices of the training steps), "sigmas" (sigma / alpha), "flow"
              (sigma, alpha = 1 - sigma), "angles"
    scaled    its sample is x / alpha
    edm       the network is Karras' raw one
    spent     draws that it makes of a generator: "each" step, those "above 0" (a timestep), "used" ones
    extra     what `step` returns besides prev_sample
    cast      its result has the dtype of the network's output
    reads     fields of the step, besides those of the schedule
    inverse   it goes from data to noise
    """

    solver: Callable[[Any], Solver]
    table: str = "sigmas"
    scaled: bool = False
    edm: bool = False
    spent: str = "used"
    extra: str | None = None
    cast: bool = False
    reads: tuple[str, ...] = ()
    inverse: bool = False


# fields that diffusers' own set_timesteps and constructor use up; both families' tables come out of them
SCHEDULE = set(
    "num_train_timesteps beta_start beta_end beta_schedule trained_betas timestep_spacing steps_offset "
    "rescale_betas_zero_snr set_alpha_to_one use_karras_sigmas use_exponential_sigmas use_beta_sigmas "
    "use_lu_lambdas use_flow_sigmas flow_shift final_sigmas_type lambda_min_clipped use_dynamic_shifting "
    "time_shift_type shift base_shift max_shift base_image_seq_len max_image_seq_len invert_sigmas "
    "shift_terminal interpolation_type timestep_type sigma_min sigma_max sigma_data sigma_schedule rho "
    "original_inference_steps prediction_type noise_sampler_seed".split()
)
CLIP = ("clip_sample", "clip_sample_range")
THRESHOLD = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")
MULTISTEP = ("solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final")


@dataclass(frozen=True)
class Threshold(DynamicThreshold):
    """Theirs may be capped below 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"dynamic_thresholding_ratio must lie in [0, 1], got {self.quantile}")


@dataclass(frozen=True)
class TauOf:
    """SA-Solver's noise level of the step that ends at a time: theirs is told the timestep it starts from."""

    levels: tuple[tuple[float, float], ...]

    def __call__(self, node: Node) -> float:
        t = float(node.t)
        return min(self.levels, key=lambda pair: abs(pair[0] - t))[1]


class Request:
    """What a solver is made for: the configuration, the schedule and where the run begins."""

    def __init__(self, config: Mapping[str, Any], schedule: Any, first: int, legacy: bool, eta: float | None):
        self.config, self.schedule, self.first = config, schedule, first
        self.legacy, self.eta = legacy, eta
        self.steps = len(schedule.ends)

    def get(self, name: str, default: Any = None) -> Any:
        return self.config.get(name, default)

    def stepped(self, inner: Solver, orders: list[int] | None = None) -> Solver:
        """`inner` over the schedule's own ends; it is itself where they are the nodes."""
        orders = orders if orders is not None else [4] * self.steps
        first = self.first
        return peers.Stepped(inner, tuple(orders[first:]), self.schedule.ends[first:])

    def lowered(self, order: int, always: bool = False) -> list[int]:
        """Orders by lower_order_final, euler_at_final and final_sigmas_type."""
        n, lower = self.steps, bool(self.get("lower_order_final", True))
        if lower and (always or n < 15):
            orders = [min(order, n - i) for i in range(n)]
        else:
            orders = [order] * n
        if self.get("euler_at_final"):
            orders[-1] = 1
        return orders


def _made(key: str, **options: Any) -> Solver:
    return solvers.make(key, **options)


def _simple(key: str, **options: Any) -> Callable[[Request], Solver]:
    return lambda r: r.stepped(_made(key, **options))


def _ddim(r: Request) -> Solver:
    reproject = bool(r.get("use_clipped_model_output", False)) or not r.legacy
    return r.stepped(_made("ddim", eta=r.eta or 0.0, reproject=reproject))


def _ddpm(r: Request) -> Solver:
    kind = str(r.get("variance_type", "fixed_small"))
    known = {
        "fixed_small": "small",
        "fixed_small_log": "small",
        "fixed_large": "large",
        "fixed_large_log": "large",
        "learned": "learned",
        "learned_range": "learned-range",
    }
    if kind not in known:
        raise unknown("variance_type", kind, known)
    if kind == "fixed_large_log" and r.legacy:
        raise ValueError(
            "variance_type='fixed_large_log': diffusers takes the root of a logarithm there, so its numbers "
            "are NaN; use 'fixed_large', or legacy=False, which does"
        )
    if kind.startswith("fixed_large") and r.legacy and r.schedule.indices[-1] > 0:
        return r.stepped(peers.DDPM(variance="large"))
    return r.stepped(_made("ddpm", variance=known[kind]))


def _pndm(r: Request) -> Solver:
    skip, schedule = bool(r.get("skip_prk_steps", False)), r.schedule
    if r.first or not r.legacy:
        return _made("ipndm" if r.first else "pndm", **({"legacy": r.legacy}))
    half = None if skip else schedule.stride // 2
    return peers.PNDM(
        schedule.indices, schedule.stride, half, schedule.final, schedule.train_steps, schedule.predicts
    )


def _multistep(r: Request) -> Solver:
    order, kind = int(r.get("solver_order", 2)), str(r.get("algorithm_type", "dpmsolver++"))
    weight = str(r.get("solver_type", "midpoint"))
    weight = weight if weight in ("midpoint", "heun") else "midpoint"
    kind = "dpmsolver++" if kind == "deis" else kind
    orders = r.lowered(order)
    if order not in (1, 2, 3):
        raise ValueError(f"solver_order must be 1, 2 or 3, got {order}")
    if kind in ("dpmsolver", "dpmsolver++"):
        key = ("dpmpp" if kind.endswith("++") else "dpm") + ("-3m" if order == 3 else "-2m")
        options = {"legacy": r.legacy} if order == 3 else {}
        return r.stepped(_made(key, order=order, weight=weight, **options), orders)
    if kind == "sde-dpmsolver++":
        if order < 3:
            return r.stepped(_made("dpmpp-2m-sde", order=order, weight=weight), orders)
        return r.stepped(peers.SDE3M(legacy=r.legacy, weight=weight), orders)
    if kind == "sde-dpmsolver":
        if order == 3:
            raise ValueError("algorithm_type='sde-dpmsolver' with solver_order=3 has no formula; use 1 or 2")
        return r.stepped(peers.SDENoise(order=order, weight=weight), orders)
    raise unknown("algorithm_type", kind, ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"))


def _noising(r: Request) -> Solver:
    if r.schedule.predicts == "data" and r.schedule.times[r.first] == 0:
        raise ValueError(
            "prediction_type='sample': at sigma = 0 a data prediction says nothing of the noise, NaN in "
            "diffusers; set set_alpha_to_one=False"
        )
    return r.stepped(peers.Noising())


def _inverse(r: Request) -> Solver:
    if str(r.get("algorithm_type")).startswith("sde"):
        raise ValueError(
            f"algorithm_type={r.get('algorithm_type')!r}: from data to noise a step's variance is "
            "negative, NaN in diffusers; allowed: 'dpmsolver', 'dpmsolver++'"
        )
    if r.get("use_flow_sigmas"):
        raise ValueError("use_flow_sigmas: diffusers' levels fall here, towards the data; leave it out")
    return _multistep(r)


def _singlestep(r: Request) -> Solver:
    kind = str(r.get("algorithm_type", "dpmsolver++"))
    kind = "dpmsolver++" if kind == "deis" else kind
    weight = str(r.get("solver_type", "midpoint"))
    weight = weight if weight in ("midpoint", "heun") else "midpoint"
    if kind not in ("dpmsolver", "dpmsolver++", "sde-dpmsolver++"):
        raise unknown("algorithm_type", kind, ("dpmsolver", "dpmsolver++", "sde-dpmsolver++"))
    return peers.Singlestep(
        tuple(r.schedule.orders[r.first :]),
        "noise" if kind == "dpmsolver" else "data",
        weight,
        int(kind.startswith("sde")),
        r.legacy,
    )


def _deis(r: Request) -> Solver:
    order = int(r.get("solver_order", 2))
    kind, kinds = str(r.get("algorithm_type", "deis")), ("deis", "dpmsolver", "dpmsolver++")
    if kind not in kinds:
        raise unknown("algorithm_type", kind, kinds)
    return r.stepped(_made("deis", order=order, variant="logrho"), r.lowered(order))


def _unipc(r: Request) -> Solver:
    if r.get("solver_p") is not None:
        raise ValueError("solver_p: a scheduler as UniPC's predictor is not supported; leave it out")
    order, variant = int(r.get("solver_order", 2)), str(r.get("solver_type", "bh2"))
    inner = peers.Corrected(
        order=order,
        variant=variant if variant in ("bh1", "bh2") else "bh2",  # type: ignore[arg-type]
        prediction="data" if r.get("predict_x0", True) else "noise",
        skipped=tuple(int(k) - r.first for k in r.get("disable_corrector") or ()),
    )
    return r.stepped(inner, r.lowered(order, always=True))


def _sa(r: Request) -> Solver:
    if r.get("algorithm_type", "data_prediction") != "data_prediction":
        raise ValueError(
            f"algorithm_type={r.get('algorithm_type')!r}: SA-Solver runs on data predictions; allowed: "
            "'data_prediction'"
        )
    predictor, corrector = int(r.get("predictor_order", 2)), int(r.get("corrector_order", 2))
    inner = _made("sa-solver", predictor=predictor, corrector=corrector, tau=r.schedule.tau, legacy=r.legacy)
    return r.stepped(inner, r.lowered(max(predictor, corrector - 1), always=True))


def _edm_multistep(r: Request) -> Solver:
    if r.get("algorithm_type") == "sde-dpmsolver++" and r.get("solver_order", 2) == 3 and r.legacy:
        raise ValueError(
            "EDMDPMSolverMultistepScheduler with solver_order=3 and algorithm_type='sde-dpmsolver++' raises "
            "in diffusers; use solver_order=2, or legacy=False"
        )
    return _multistep(r)


def _cosine(r: Request) -> Solver:
    order, weight = int(r.get("solver_order", 2)), str(r.get("solver_type", "midpoint"))
    inner = _made("dpmpp-2m-sde", order=order, weight=weight if weight == "heun" else "midpoint")
    return r.stepped(inner, r.lowered(order))


def _lms(r: Request) -> Solver:
    order = int(r.get("order", 4))
    if r.first and r.legacy:
        earlier = tuple(r.schedule.times[: r.first][::-1].tolist())
        return r.stepped(peers.EnteredLMS(order=order, legacy=True, earlier=earlier))
    return r.stepped(_made("lms", order=order, legacy=r.legacy))


def _flow_euler(r: Request) -> Solver:
    return r.stepped(_made("lcm" if r.get("stochastic_sampling") else "euler"))


def _flow_lcm(r: Request) -> Solver:
    if r.get("scale_factors"):
        raise ValueError("scale_factors: samples that grow between the steps are not supported; leave it out")
    return r.stepped(_made("lcm"))


def _lcm(r: Request) -> Solver:
    scaling, steps = float(r.get("timestep_scaling", 10.0)), r.schedule.train_steps
    return r.stepped(_made("lcm", boundary=True, timestep_scaling=scaling, train_steps=steps))


def _tcd(r: Request) -> Solver:
    gamma = 0.3 if r.eta is None else r.eta
    return r.stepped(_made("tcd", gamma=gamma, legacy=r.legacy, train_steps=r.schedule.train_steps))


def _rf(r: Request) -> Solver:
    return r.stepped(_made("euler-a-rf", eta=float(r.get("eta", 1.0)), s_noise=float(r.get("s_noise", 1.0))))


def _ipndm(r: Request) -> Solver:
    return peers.IPNDM() if r.legacy else r.stepped(_made("ipndm"))


_DDIM = Peer(_ddim, "alphas", spent="each", extra="pred_original_sample", reads=(*CLIP, *THRESHOLD))
_DDPM = Peer(
    _ddpm, "alphas", spent="above 0", extra="pred_original_sample", reads=("variance_type", *CLIP, *THRESHOLD)
)
_K = {"scaled": True, "extra": "pred_original_sample"}

PEERS: dict[str, Peer] = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "PNDMScheduler": Peer(_pndm, "alphas", reads=("skip_prk_steps",)),
    "LCMScheduler": Peer(_lcm, "alphas", extra="denoised", reads=(*CLIP, *THRESHOLD, "timestep_scaling")),
    "TCDScheduler": Peer(
        _tcd, "alphas", extra="pred_noised_sample", reads=(*CLIP, *THRESHOLD, "timestep_scaling")
    ),
    "DPMSolverMultistepScheduler": Peer(
        _multistep, spent="each", cast=True, reads=(*MULTISTEP, *THRESHOLD, "variance_type")
    ),
    "DPMSolverSinglestepScheduler": Peer(
        _singlestep, spent="each", reads=(*MULTISTEP, *THRESHOLD, "variance_type")
    ),
    "DPMSolverMultistepInverseScheduler": Peer(
        _inverse, reads=(*MULTISTEP, *THRESHOLD, "variance_type"), inverse=True
    ),
    "DDIMInverseScheduler": Peer(_noising, "alphas", extra="pred_original_sample", reads=CLIP, inverse=True),
    "DEISMultistepScheduler": Peer(_deis, reads=(*MULTISTEP, *THRESHOLD)),
    "UniPCMultistepScheduler": Peer(
        _unipc,
        reads=(*MULTISTEP, *THRESHOLD, "predict_x0", "disable_corrector", "solver_p", "sigma_min"),
    ),
    "SASolverScheduler": Peer(
        _sa,
        spent="each",
        reads=(*MULTISTEP, *THRESHOLD, "predictor_order", "corrector_order", "tau_func", "variance_type"),
    ),
    "EulerDiscreteScheduler": Peer(_simple("euler"), cast=True, **_K),
    "EulerAncestralDiscreteScheduler": Peer(_simple("euler-a"), spent="each", cast=True, **_K),
    "HeunDiscreteScheduler": Peer(_simple("heun"), reads=CLIP, **_K),
    "KDPM2DiscreteScheduler": Peer(_simple("dpm2"), **_K),
    "KDPM2AncestralDiscreteScheduler": Peer(_simple("dpm2-a"), **_K),
    "LMSDiscreteScheduler": Peer(_lms, **_K),
    "DPMSolverSDEScheduler": Peer(lambda r: r.stepped(_made("dpmpp-sde", legacy=r.legacy)), **_K),
    "EDMEulerScheduler": Peer(_simple("euler"), edm=True, cast=True, **_K),
    "EDMDPMSolverMultistepScheduler": Peer(
        _edm_multistep, scaled=True, edm=True, spent="each", reads=(*MULTISTEP, *THRESHOLD)
    ),
    "CosineDPMSolverMultistepScheduler": Peer(_cosine, scaled=True, edm=True, spent="each", reads=MULTISTEP),
    "IPNDMScheduler": Peer(_ipndm, "angles"),
    "FlowMatchEulerDiscreteScheduler": Peer(
        _flow_euler, "flow", spent="each", cast=True, reads=("stochastic_sampling",)
    ),
    "FlowMatchHeunDiscreteScheduler": Peer(_simple("heun"), "flow", cast=True),
    "FlowMatchLCMScheduler": Peer(
        _flow_lcm, "flow", spent="each", cast=True, reads=("scale_factors", "upscale_mode")
    ),
    "LTXEulerAncestralRFScheduler": Peer(_rf, "flow", reads=("eta", "s_noise")),
}


def peer_class(name: str) -> type:
    import diffusers

    if name not in PEERS:
        raise unknown("scheduler class (of the configuration)", name, PEERS)
    found = getattr(diffusers, name, None)
    if found is None:
        raise ValueError(f"diffusers {diffusers.__version__} has no {name}; fastdiff {__version__} knows it")
    return found


@lru_cache(maxsize=64)
def fields_of(name: str) -> Mapping[str, Any]:
    """The fields of a diffusers class with their defaults."""
    parameters = inspect.signature(peer_class(name).__init__).parameters
    return MappingProxyType({n: p.default for n, p in parameters.items() if n not in ("self", "kwargs")})


def guessed(config: Mapping[str, Any]) -> str:
    """The class of a configuration that does not name it, as of a scheduler made by hand: the one class with
    just these fields."""
    given = {k for k in config if not k.startswith("_")}
    fitting = [n for n in PEERS if set(fields_of(n)) == given and not n.endswith("ParallelScheduler")]
    if len(fitting) != 1:
        which = f"; it fits {' and '.join(fitting)}" if fitting else ""
        raise ValueError(
            f"the configuration has no _class_name{which}: give the scheduler itself, or peer='...Scheduler'"
        )
    return fitting[0]


def read(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's fields that its class has. Others are named in a warning; fields of the class that
    nothing here reads must have their defaults."""
    known, peer = fields_of(name), PEERS[name]
    taken = SCHEDULE | set(peer.reads)
    strangers = sorted(k for k in config if k not in known and not k.startswith("_") and k not in OURS)
    if strangers:
        warnings.warn(
            f"FastScheduler: {name} has no field {', '.join(strangers)}; ignored, as diffusers does",
            stacklevel=4,
        )
    fields = {k: v for k, v in config.items() if k in known}
    if fields.get("dynamic_thresholding_ratio", 0.5) is None:
        fields.pop("dynamic_thresholding_ratio")
    for k, v in fields.items():
        if k not in taken and v != known[k]:
            raise ValueError(f"{name}: {k}={v!r} is not supported; leave it at its default {known[k]!r}")
    check(name, {**known, **fields})
    return fields


def check(name: str, config: Mapping[str, Any]) -> None:
    """Fields that contradict each other."""
    kind = config.get("prediction_type", "epsilon")
    if kind not in KINDS:
        raise unknown("prediction_type", kind, KINDS)
    flow = bool(config.get("use_flow_sigmas"))
    if PEERS[name].table == "sigmas" and (kind == "flow_prediction") > flow:
        raise ValueError(f"{name}: prediction_type='flow_prediction' wants use_flow_sigmas=True")
    if flow and kind == "v_prediction":
        raise ValueError(f"{name}: use_flow_sigmas=True goes with 'flow_prediction', not 'v_prediction'")
    if config.get("use_dynamic_shifting") and config.get("time_shift_type") not in ("exponential", "linear"):
        raise ValueError(
            f"time_shift_type must be 'exponential' or 'linear', got {config['time_shift_type']!r}"
        )
    if PEERS[name].edm and kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"{name}: prediction_type must be 'epsilon' or 'v_prediction', got {kind!r}")
    if config.get("thresholding") and not 0 <= config.get("dynamic_thresholding_ratio", 0.995) <= 1:
        raise ValueError("dynamic_thresholding_ratio must lie in [0, 1]")


OURS = ("peer", "solver", "grid", "grid_options", "legacy", "seeds", "noise", "solver_options")
