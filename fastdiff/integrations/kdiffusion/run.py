"""The runner behind every sample_*: sigmas and a model become times and a network, a plan is looked up, run.

The model is k-diffusion's: model(x, sigma, **extra_args) gives the data prediction, sigma one number for each
sample. Noise levels are read once, at the door; nothing after it waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ...core.plan import Plan, plan
from ...core.process import Process
from ...core.solver import Solver
from ...noise.seeds import resolve
from ...noise.streams import column_stream
from ...ops.normal import normal
from ...processes.edm import EDM
from ...processes.flow_matching import FlowMatching
from ...runtime.checks import check_x
from ...runtime.denoiser import Denoiser
from ...runtime.noise import Draw
from ...runtime.run import version
from ...runtime.sampler import Sampler

FLOW = FlowMatching()


def levels_of(sigmas: Any, flow: bool) -> list[float]:
    """The noise levels as numbers, or the error that says what is wrong with them."""
    if not isinstance(sigmas, Tensor):
        raise TypeError(f"sigmas must be a tensor, got {type(sigmas).__name__}")
    if sigmas.dim() != 1:
        raise ValueError(f"sigmas must have one axis, got shape {tuple(sigmas.shape)}")
    if not sigmas.is_floating_point():
        raise TypeError(f"sigmas must be of a floating dtype, got {sigmas.dtype}")
    found = sigmas.detach().double().tolist()
    for i, v in enumerate(found):
        if not math.isfinite(v) or v < 0:
            raise ValueError(f"sigmas must be finite and not below 0, got sigmas[{i}] = {v:g}")
    for i, (a, b) in enumerate(zip(found, found[1:], strict=False)):
        if not b < a:
            raise ValueError(
                f"sigmas must fall strictly, got sigmas[{i}] = {a:g} and sigmas[{i + 1}] = {b:g}; "
                "samplers that go up are not here, see fastdiff.invert"
            )
    if flow and found and found[0] > 1:
        raise ValueError(f"sigmas of a flow model lie in [0, 1], got sigmas[0] = {found[0]:.9g}")
    return found


def process_of(top: float, flow: bool) -> Process:
    return FLOW if flow else EDM(sigma_max=max(80.0, top))


def sampling_of(model: Any) -> Any:
    """ComfyUI's model_sampling of a model; None for any other."""
    inner = getattr(model, "inner_model", None)
    patcher = getattr(inner, "model_patcher", None)
    if hasattr(patcher, "get_model_object"):
        return patcher.get_model_object("model_sampling")  # type: ignore[union-attr]
    return getattr(getattr(inner, "inner_model", None), "model_sampling", None)


def is_flow(sampling: Any) -> bool:
    return any(c.__name__ == "CONST" for c in type(sampling).__mro__)


def check_arguments(
    x: Any, extra_args: Any, callback: Any, noise_sampler: Any, legacy: Any
) -> dict[str, Any]:
    check_x(x)
    if extra_args is not None and not isinstance(extra_args, Mapping):
        raise TypeError(
            f"extra_args must be a dict of the model's keyword arguments, got {type(extra_args).__name__}"
        )
    for name, given in (("callback", callback), ("noise_sampler", noise_sampler)):
        if given is not None and not callable(given):
            raise TypeError(f"{name} must be callable, got {type(given).__name__}")
    if not isinstance(legacy, bool):
        raise TypeError(f"legacy must be True or False, got {legacy!r}")
    return dict(extra_args or {})


def seeds_of(seeds: Any, extra_args: Mapping[str, Any]) -> Any:
    """seeds as given, or ComfyUI's seed; it has 64 bits, of which 63 count."""
    seed = extra_args.get("seed")
    return seed % 2**63 if seeds is None and type(seed) is int else seeds


def run(
    solver: Solver,
    process: Process,
    times: list[float],
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callable[..., Any] | None = None,
    disable: bool | None = None,
    noise_sampler: Callable[..., Any] | None = None,
    seeds: Any = None,
    pair: bool = False,
    change: Callable[[Tensor, Draw], Tensor] | None = None,
    with_time: bool = False,
) -> Tensor:
    """x at the last time. pair: the solver wants the output without guidance too; change(noise, draw) bends
    every draw."""
    made = plan(solver, process, times, predicts="data")
    seeds = seeds_of(seeds, extra_args)
    noise = noise_of(made, noise_sampler, sigmas, change, seeds, x)
    if pair:
        if x.dim() < 2:
            raise ValueError(f"a cfg_pp sampler needs x (B, C, ...), got shape {tuple(x.shape)}")
        model, extra_args = Guided(model, "model_options" in extra_args), hooked(extra_args)
    with bar_of(made.steps, disable) as bar:
        if callback is None and bar is None:
            network: Any = Network(model, extra_args)
        else:
            network = Watched(model, extra_args, made, sigmas, callback, bar, with_time)
        if pair:
            extra_args["model_options"]["sampler_post_cfg_function"].append(model.look)
        denoiser = Denoiser(network, process, predicts="data", variance="learned-range" if pair else None)
        out = Sampler(denoiser, made)(x, seeds=seeds, noise=noise)
        if bar is not None:
            bar.update(bar.total - bar.n)
    return out


def bar_of(steps: int | None, disable: bool | None) -> Any:
    """A progress bar, as tqdm's `disable` says; None without tqdm."""
    if disable is True:
        return nullcontext()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return nullcontext()
    return tqdm(total=steps, disable=disable)


# noise


def noise_of(
    made: Plan,
    noise_sampler: Callable[..., Any] | None,
    sigmas: Tensor,
    change: Callable[[Tensor, Draw], Tensor] | None,
    seeds: Any,
    x: Tensor,
) -> Any:
    """What Sampler is given as `noise`."""
    if not made.stochastic:
        return None
    if noise_sampler is not None:
        ask = asker(noise_sampler, sigmas, made.times.tolist())
    elif change is None:
        return "path" if any(span for s in made.stages for span in s.spans) else None
    else:
        ask = drawer(resolve(seeds, x.shape[0], x.device))
    return ask if change is None else lambda like, draw: change(ask(like, draw), draw)


def drawer(rng: Tensor) -> Callable[[Tensor, Draw], Tensor]:
    """The kernel's own independent draws, as tensors."""
    return lambda like, d: normal(like.shape, rng, d.step, column_stream(d.column), dtype=like.dtype)


def asker(noise_sampler: Callable[..., Any], sigmas: Tensor, times: list[float]) -> Callable[..., Tensor]:
    """noise_sampler(sigma, sigma_next) with sigmas like the user's own."""
    known = dict(zip(sigmas.detach().double().tolist(), sigmas.detach(), strict=True))

    def level(v: float) -> Tensor:
        found = known.get(v)
        return torch.full((), v, dtype=sigmas.dtype, device=sigmas.device) if found is None else found

    def ask(like: Tensor, draw: Draw) -> Tensor:
        s = times[draw.step] if draw.s is None else draw.s
        t = times[draw.step + 1] if draw.t is None else draw.t
        return noise_sampler(level(s), level(t))

    return ask


# the model


class Network:
    """The model as a network."""

    def __init__(self, model: Any, extra_args: dict[str, Any]):
        self.model, self.extra_args = model, extra_args

    def __call__(self, x: Tensor, t: Tensor) -> Any:
        return self.model(x, t, **self.extra_args)


class Watched:
    """The model as a network whose calls a callback and a progress bar see, one for each step."""

    def __init__(
        self,
        model: Any,
        extra_args: dict[str, Any],
        made: Plan,
        sigmas: Tensor,
        callback: Callable[..., Any] | None,
        bar: Any,
        with_time: bool,
    ):
        self.model, self.extra_args, self.sigmas = model, extra_args, sigmas
        self.callback, self.bar, self.with_time = callback, bar, with_time
        self.steps, self.calls, self.count = shown(made), made.calls, 0

    def __call__(self, x: Tensor, t: Tensor) -> Any:
        out = self.model(x, t, **self.extra_args)
        if isinstance(out, Tensor) and out.dtype == torch.float64:
            out = out.to(x.dtype)  # a wider output would have the run begin anew
        k, self.count = self.count, self.count + 1
        step = self.steps.get(k)
        if step is None:
            return out
        if self.bar is not None and step:
            self.bar.update(1)
        if self.callback is not None:
            at = self.calls[k].t
            sigma = self.sigmas[step]
            hat = torch.full_like(sigma, at)
            denoised = out[:, : x.shape[1]] if isinstance(out, Tensor) and out.shape != x.shape else out
            show(self.callback, x, denoised, i=step, sigma=sigma, sigma_hat=hat, **self.time(hat))
        return out

    def time(self, sigma: Tensor) -> dict[str, Tensor]:
        return {"t": -sigma.log(), "t_up": -sigma.log()} if self.with_time else {}


def show(callback: Callable[..., Any], x: Tensor, denoised: Any, **facts: Any) -> None:
    """The callback on a copy of x, whose memory is used again."""
    seen = x.clone()
    before = version(seen)
    callback({"x": seen, "denoised": denoised, **facts})
    if version(seen) != before:
        raise ValueError(
            f"callback changed x in place at step {facts['i']}; to steer a run use a fastdiff Hook"
        )


def shown(made: Plan) -> dict[int, int]:
    """Number of a network call -> the step it opens: a step's own first call, or where a predictor has called
    the network already, that call."""
    by_step: dict[int, list[tuple[int, float]]] = {}
    for k, call in enumerate(made.calls):
        by_step.setdefault(call.step, []).append((k, call.t))
    found = {}
    for step, (t, below) in enumerate(zip(made.times, made.times[1:], strict=False)):
        own = by_step.get(step, [])
        if own and own[0][1] > below:
            found[own[0][0]] = step
        else:
            earlier = [k for k, at in by_step.get(step - 1, []) if at == t]
            found.update(dict.fromkeys(earlier[:1], step))
    return found


# both outputs of a guided model


def hooked(extra_args: dict[str, Any]) -> dict[str, Any]:
    """extra_args with a list of its own for functions that look at ComfyUI's guidance."""
    options = dict(extra_args.get("model_options") or {})
    options["sampler_post_cfg_function"] = list(options.get("sampler_post_cfg_function", []))
    options["disable_cfg1_optimization"] = True
    return {**extra_args, "model_options": options}


class Guided:
    """A guided model with its output without guidance: (B, 2C, *). The model returns both as a pair, or calls
    model_options["sampler_post_cfg_function"] as ComfyUI's do."""

    def __init__(self, model: Any, comfy: bool):
        self.model, self.comfy = model, comfy
        self.unguided: Any = None

    def look(self, args: Mapping[str, Any]) -> Any:
        self.unguided = args["uncond_denoised"]
        return args["denoised"]

    def __call__(self, x: Tensor, t: Tensor, **extra_args: Any) -> Tensor:
        if not self.comfy:
            extra_args.pop("model_options", None)
        self.unguided = None
        out = self.model(x, t, **extra_args)
        if isinstance(out, tuple) and len(out) == 2:
            out, self.unguided = out
        if not isinstance(out, Tensor) or not isinstance(self.unguided, Tensor):
            raise TypeError(
                "a cfg_pp sampler needs the output without guidance too: let the model return (denoised, "
                'uncond_denoised), or call the functions in model_options["sampler_post_cfg_function"]'
            )
        return torch.cat([out, self.unguided.to(out.dtype)], 1)
