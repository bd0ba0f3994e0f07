"""The table: every sample_* of k-diffusion and of ComfyUI, over fastdiff's solvers.

A row is the name, what makes its solver from the options, and the options with public code's own defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.solver import Solver, solvers
from ...solvers._adams import Adams
from . import cfg_pp
from .formulas import (
    DPM2RF,
    ER,
    SA,
    SDE,
    Consistent,
    DEISToData,
    DPMpp2SRF,
    IPNDMToData,
    IPNDMVToData,
    LMSToData,
    Seeds,
    Tab,
)
from .run import check_arguments, is_flow, levels_of, process_of, run, sampling_of

COMMON = {"extra_args": None, "callback": None, "disable": None}
CHURN = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": float("inf"), "s_noise": 1.0}
NOISE = {"eta": 1.0, "s_noise": 1.0, "noise_sampler": None}
OFFSET = 1e-4  # of the way from pure noise, where public code starts flow models

SAMPLERS: dict[str, Callable[..., Tensor]] = {}  # name without "sample_" -> function
make = solvers.make


class Row(NamedTuple):
    """aware: public code knows flow models here; elsewhere it treats their sigma as EDM's.
    offset: there it begins a little below sigma = 1.      flow: for flow models alone.      pair: see
    `run`."""

    name: str
    solver: Callable[[SimpleNamespace], Solver]
    aware: bool = False
    offset: bool = False
    flow: bool = False
    pair: bool = False


def sampler(
    name: str,
    solver: Callable[[SimpleNamespace], Solver],
    options: dict[str, Any] | None = None,
    **facts: bool,
) -> Callable[..., Tensor]:
    """A sample_* function."""
    row = Row(name, solver, **facts)
    plain = [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in ("model", "x", "sigmas")]
    given = {**COMMON, **(options or {})}
    usual = [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD, default=v) for n, v in given.items()]
    own = {"legacy": True, "seeds": None, "flow": None}
    further = [Parameter(n, Parameter.KEYWORD_ONLY, default=v) for n, v in own.items()]
    signature = Signature([*plain, *usual, *further], return_annotation=Tensor)

    def sample(*args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return _sample(row, SimpleNamespace(**bound.arguments))

    sample.__name__ = sample.__qualname__ = f"sample_{name}"
    sample.__doc__ = (
        f"sample_{name} of k-diffusion or ComfyUI. legacy=True: their numbers; False: docs/kdiffusion.md. "
        "seeds: of the noise, where there is no noise_sampler. flow: a flow model? None: ask the model."
    )
    sample.__signature__ = signature  # type: ignore[attr-defined]
    SAMPLERS[name] = sample
    return sample


def _sample(row: Row, o: SimpleNamespace) -> Tensor:
    noise_sampler = getattr(o, "noise_sampler", None)
    extra_args = check_arguments(o.x, o.extra_args, o.callback, noise_sampler, o.legacy)
    o.sampling = sampling_of(o.model)
    flow = row.flow or (is_flow(o.sampling) if o.flow is None else bool(o.flow))
    o.times = levels_of(o.sigmas, flow)
    if len(o.times) < 2:
        return o.x
    o.flow = flow and (row.aware or row.flow or not o.legacy)
    if o.flow and row.offset and o.times[0] == 1 and (o.legacy or getattr(o, "noise_scaler", None)):
        percent = getattr(o.sampling, "percent_to_sigma", lambda part: 1 - part)
        o.times[0] = float(percent(OFFSET))
    if flow and hasattr(o, "s_noise"):
        o.s_noise = o.s_noise * getattr(o.sampling, "noise_scale", 1.0)
    o.steps, o.change = len(o.times) - 1, None
    solver = row.solver(o)
    return run(
        solver,
        process_of(o.times[0], o.flow),
        o.times,
        o.model,
        o.x,
        o.sigmas,
        extra_args,
        o.callback,
        o.disable,
        noise_sampler,
        o.seeds,
        row.pair,
        o.change,
    )


# Karras' one-step methods


def _churned(key: str) -> Callable[[SimpleNamespace], Solver]:
    return lambda o: make(key, churn=o.s_churn, s_tmin=o.s_tmin, s_tmax=o.s_tmax, s_noise=o.s_noise)


def _heunpp2(o: SimpleNamespace) -> Solver:
    if o.s_churn:
        raise ValueError(f"sample_heunpp2: s_churn must be 0, got {o.s_churn!r}; sample_heun has churn")
    return make("heunpp2")


sample_euler = sampler("euler", _churned("euler"), CHURN)
sample_heun = sampler("heun", _churned("heun"), CHURN)
sample_dpm_2 = sampler("dpm_2", _churned("dpm2"), CHURN)
sample_heunpp2 = sampler("heunpp2", _heunpp2, CHURN)


# ancestral steps


def _noisy(o: SimpleNamespace) -> dict[str, float]:
    return {"eta": o.eta, "s_noise": o.s_noise}


def _euler_rf(o: SimpleNamespace) -> Solver:
    return make("euler-a-rf", **_noisy(o))


def _dpm_2_rf(o: SimpleNamespace) -> Solver:
    return DPM2RF(**_noisy(o))


def _dpmpp_2s_rf(o: SimpleNamespace) -> Solver:
    return DPMpp2SRF(**_noisy(o))


sample_euler_ancestral = sampler(
    "euler_ancestral", lambda o: _euler_rf(o) if o.flow else make("euler-a", **_noisy(o)), NOISE, aware=True
)
sample_euler_ancestral_RF = sampler("euler_ancestral_RF", _euler_rf, NOISE, flow=True)
sample_dpm_2_ancestral = sampler(
    "dpm_2_ancestral", lambda o: _dpm_2_rf(o) if o.flow else make("dpm2-a", **_noisy(o)), NOISE, aware=True
)
sample_dpm_2_ancestral_RF = sampler("dpm_2_ancestral_RF", _dpm_2_rf, NOISE, flow=True)
sample_dpmpp_2s_ancestral = sampler(
    "dpmpp_2s_ancestral",
    lambda o: _dpmpp_2s_rf(o) if o.flow else make("dpmpp-2s-a", **_noisy(o)),
    NOISE,
    aware=True,
)
sample_dpmpp_2s_ancestral_RF = sampler("dpmpp_2s_ancestral_RF", _dpmpp_2s_rf, NOISE, flow=True)
sample_ddpm = sampler("ddpm", lambda o: make("ddpm"), {"noise_sampler": None})


def _lcm(o: SimpleNamespace) -> Solver:
    if o.noise_clip_std < 0:
        raise ValueError(f"sample_lcm: noise_clip_std must not be below 0, got {o.noise_clip_std!r}")
    if o.noise_clip_std:
        o.change = lambda noise, draw: _clipped(noise, o.noise_clip_std, o.legacy)
    end = o.s_noise if o.s_noise_end is None else o.s_noise_end
    return make("lcm") if o.s_noise == end == 1 else Consistent(s_noise=o.s_noise, s_noise_end=end)


def _clipped(noise: Tensor, limit: float, legacy: bool) -> Tensor:
    """Public code measures the deviation over the batch; a normal's is 1."""
    bound = limit * noise.std() if legacy else torch.full_like(noise, limit)
    return torch.minimum(torch.maximum(noise, -bound), bound)


LCM = {"noise_sampler": None, "s_noise": 1.0, "s_noise_end": None, "noise_clip_std": 0.0}
sample_lcm = sampler("lcm", _lcm, LCM, aware=True)


# linear multistep


def _adams(rule: type[Adams], option: str) -> Callable[[SimpleNamespace], Solver]:
    return lambda o: rule(order=getattr(o, option), lower_order_final="never")


def _lms(o: SimpleNamespace) -> Solver:
    return make("lms", order=o.order, legacy=True) if o.legacy else _adams(LMSToData, "order")(o)


def _deis(o: SimpleNamespace) -> Solver:
    options: dict[str, Any] = {"order": o.max_order, "lower_order_final": "never"}
    if o.deis_mode == "tab":
        return Tab(**options, legacy=o.legacy)
    if o.deis_mode == "rhoab":
        return DEISToData(variant="rhoab", **options)
    raise ValueError(f"sample_deis: deis_mode must be 'tab' or 'rhoab', got {o.deis_mode!r}")


def _unipc(o: SimpleNamespace) -> Solver:
    if o.legacy and o.times[-1] == 0 and o.times[-2] > 1e-3:
        o.times[-1] = 1e-3
    return make("unipc", order=max(1, min(3, o.steps - 1)), variant=o.variant)


def _bh2(o: SimpleNamespace) -> Solver:
    return _unipc(SimpleNamespace(**vars(o), variant="bh2"))


sample_lms = sampler("lms", _lms, {"order": 4})
sample_ipndm = sampler("ipndm", _adams(IPNDMToData, "max_order"), {"max_order": 4})
sample_ipndm_v = sampler("ipndm_v", _adams(IPNDMVToData, "max_order"), {"max_order": 4})
sample_deis = sampler("deis", _deis, {"max_order": 3, "deis_mode": "tab"})
sample_unipc = sampler("unipc", _unipc, {"variant": "bh1"})
sample_unipc_bh2 = sampler("unipc_bh2", _bh2)
sample_gradient_estimation = sampler(
    "gradient_estimation", lambda o: make("ge", gamma=o.ge_gamma), {"ge_gamma": 2.0}
)


# exponential multistep


def _2m_sde(o: SimpleNamespace) -> Solver:
    return make("dpmpp-2m-sde", weight=o.solver_type, lower_order_final="never", **_noisy(o))


def _3m_sde(o: SimpleNamespace) -> Solver:
    return make("dpmpp-3m-sde", lower_order_final="never", legacy=o.legacy, **_noisy(o))


def _dpmpp_sde(o: SimpleNamespace) -> Solver:
    if o.legacy:
        return SDE(r=o.r, given=o.noise_sampler is not None, **_noisy(o))
    return _seeds_of((o.r,), "phi_1", o)


def _res(o: SimpleNamespace) -> Solver:
    return make("res-2m", lower_order_final="never")


def _res_a(o: SimpleNamespace) -> Solver:
    return make("res-2m-a", lower_order_final="never", **_noisy(o))


BROWNIAN: dict[str, bool] = {"aware": True, "offset": True}
sample_dpmpp_2m = sampler("dpmpp_2m", lambda o: make("dpmpp-2m", lower_order_final="never"))
sample_dpmpp_2m_sde = sampler("dpmpp_2m_sde", _2m_sde, {**NOISE, "solver_type": "midpoint"}, **BROWNIAN)
sample_dpmpp_2m_sde_heun = sampler("dpmpp_2m_sde_heun", _2m_sde, {**NOISE, "solver_type": "heun"}, **BROWNIAN)
sample_dpmpp_3m_sde = sampler("dpmpp_3m_sde", _3m_sde, NOISE, **BROWNIAN)
sample_dpmpp_sde = sampler("dpmpp_sde", _dpmpp_sde, {**NOISE, "r": 0.5}, **BROWNIAN)
sample_res_multistep = sampler("res_multistep", _res, {"s_noise": 1.0, "noise_sampler": None})
sample_res_multistep_ancestral = sampler("res_multistep_ancestral", _res_a, NOISE)


# stochastic methods of ComfyUI's


def _seeds_of(nodes: tuple[float, ...], weight: Any, o: SimpleNamespace) -> Solver:
    usual = {((0.5,), "phi_1"): 2, ((1 / 3, 2 / 3), "phi_2"): 3}.get((nodes, weight))
    return (
        make("seeds", order=usual, **_noisy(o)) if usual else Seeds(nodes=nodes, weight=weight, **_noisy(o))
    )


def _heun_x0(o: SimpleNamespace) -> Solver:
    return Seeds(
        nodes=(1.0,), weight=o.solver_type, eta=getattr(o, "eta", 0.0), s_noise=getattr(o, "s_noise", 0.0)
    )


def _er_sde(o: SimpleNamespace) -> Solver:
    return ER(
        order=o.max_stage,
        lower_order_final="never",
        legacy=o.legacy,
        s_noise=o.s_noise,
        scaler=o.noise_scaler,
    )


def _sa(o: SimpleNamespace) -> Solver:
    return SA(
        predictor=o.predictor_order,
        corrector=o.corrector_order,
        pece=o.use_pece,
        legacy=o.simple_order_2,
        taus=tuple(float(_tau(o)(v)) for v in o.times[1:]),
        s_noise=o.s_noise,
        lower=o.times[-1] == 0,
    )


def _tau(o: SimpleNamespace) -> Callable[[float], float]:
    if o.tau_func is not None:
        return o.tau_func
    percent = getattr(o.sampling, "percent_to_sigma", None)
    if percent is None:
        raise ValueError(
            "sample_sa_solver: tau_func=None is noise from 20 to 80 % of the way of ComfyUI's "
            "model_sampling, which this model has not; give tau_func(sigma) -> noise level"
        )
    top, low = float(percent(0.2)), float(percent(0.8))
    return lambda sigma: 1.0 if low <= sigma <= top else 0.0


def _pece(o: SimpleNamespace) -> Solver:
    return _sa(SimpleNamespace(**vars(o), use_pece=True))


SA_OPTIONS = {
    "tau_func": None,
    "s_noise": 1.0,
    "noise_sampler": None,
    "predictor_order": 3,
    "corrector_order": 4,
    "simple_order_2": False,
}
THIRDS = {"r_1": 1 / 3, "r_2": 2 / 3}
sample_seeds_2 = sampler(
    "seeds_2",
    lambda o: _seeds_of((o.r,), o.solver_type, o),
    {**NOISE, "r": 0.5, "solver_type": "phi_1"},
    **BROWNIAN,
)
sample_seeds_3 = sampler(
    "seeds_3", lambda o: _seeds_of((o.r_1, o.r_2), "phi_2", o), {**NOISE, **THIRDS}, **BROWNIAN
)
sample_exp_heun_2_x0 = sampler("exp_heun_2_x0", _heun_x0, {"solver_type": "phi_2"}, **BROWNIAN)
sample_exp_heun_2_x0_sde = sampler(
    "exp_heun_2_x0_sde", _heun_x0, {**NOISE, "solver_type": "phi_2"}, **BROWNIAN
)
sample_er_sde = sampler(
    "er_sde",
    _er_sde,
    {"s_noise": 1.0, "noise_sampler": None, "noise_scaler": None, "max_stage": 3},
    **BROWNIAN,
)
sample_sa_solver = sampler(
    "sa_solver",
    _sa,
    {
        **{k: v for k, v in SA_OPTIONS.items() if k != "simple_order_2"},
        "use_pece": False,
        "simple_order_2": False,
    },
    **BROWNIAN,
)
sample_sa_solver_pece = sampler("sa_solver_pece", _pece, SA_OPTIONS, **BROWNIAN)


# CFG++


def _2s_pp(o: SimpleNamespace) -> Solver:
    return cfg_pp.DPMpp2SRFpp(**_noisy(o)) if o.flow else cfg_pp.DPMpp2SA(**_noisy(o))


sample_euler_cfg_pp = sampler("euler_cfg_pp", lambda o: cfg_pp.Euler(eta=0.0), aware=True, pair=True)
sample_euler_ancestral_cfg_pp = sampler(
    "euler_ancestral_cfg_pp", lambda o: cfg_pp.Euler(**_noisy(o)), NOISE, aware=True, pair=True
)
sample_dpmpp_2s_ancestral_cfg_pp = sampler("dpmpp_2s_ancestral_cfg_pp", _2s_pp, NOISE, aware=True, pair=True)
sample_dpmpp_2s_ancestral_RF_cfg_pp = sampler(
    "dpmpp_2s_ancestral_RF_cfg_pp", _2s_pp, NOISE, flow=True, pair=True
)
sample_dpmpp_2m_cfg_pp = sampler("dpmpp_2m_cfg_pp", lambda o: cfg_pp.DPMpp2M(), pair=True)
sample_res_multistep_cfg_pp = sampler(
    "res_multistep_cfg_pp",
    lambda o: cfg_pp.RES2M(eta=0.0),
    {"s_noise": 1.0, "noise_sampler": None},
    pair=True,
)
sample_res_multistep_ancestral_cfg_pp = sampler(
    "res_multistep_ancestral_cfg_pp", lambda o: cfg_pp.RES2M(**_noisy(o)), NOISE, pair=True
)
sample_gradient_estimation_cfg_pp = sampler(
    "gradient_estimation_cfg_pp",
    lambda o: cfg_pp.GE(gamma=o.ge_gamma),
    {"ge_gamma": 2.0},
    pair=True,
)

# ComfyUI's names for noise made on the GPU: here noise is made where x is
sample_dpmpp_sde_gpu = SAMPLERS["dpmpp_sde_gpu"] = sample_dpmpp_sde
sample_dpmpp_2m_sde_gpu = SAMPLERS["dpmpp_2m_sde_gpu"] = sample_dpmpp_2m_sde
sample_dpmpp_2m_sde_heun_gpu = SAMPLERS["dpmpp_2m_sde_heun_gpu"] = sample_dpmpp_2m_sde_heun
sample_dpmpp_3m_sde_gpu = SAMPLERS["dpmpp_3m_sde_gpu"] = sample_dpmpp_3m_sde


__all__ = sorted(name for name in globals() if name.startswith("sample_"))  # type: ignore[assignment]
