"""Whole samplers against diffusers and k-diffusion, per network call, the network's output ready made.

Both sides see the same shapes and dtypes and the same constant output. Of diffusers only `.step()` is timed.
On a GPU ours is one captured graph, and the plan's own sums compiled by torch are a peer too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import fastdiff as fd

from . import _peers
from ._case import Case, Goal, Scale, Spent, Work
from .step import summed

STEPS = 20
SHAPE = (16, 4, 64, 64)
MULTISTEP = "DPMSolverMultistepScheduler"
CASES = {  # ours -> (solver, options), the diffusers class and its options
    "dpmpp-2m": (("dpmpp-2m", {}), MULTISTEP, {"algorithm_type": "dpmsolver++"}),
    "unipc-2": (("unipc", {"order": 2}), "UniPCMultistepScheduler", {"solver_order": 2}),
    "dpmpp-2m-sde": (("dpmpp-2m-sde", {}), MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}),
    "ddim": (("ddim", {}), "DDIMScheduler", {"clip_sample": False}),
    "euler": (("euler", {}), "EulerDiscreteScheduler", {}),
    "heun": (("heun", {}), "HeunDiscreteScheduler", {}),
}
LARGE = (64, 16, 256, 256)
F32, BF16 = torch.float32, torch.bfloat16
GOALS = {  # GPU, ours, dtype, shape
    (False, "dpmpp-2m", F32, SHAPE): (Goal(least=6.0, peer="diffusers"),),
    (False, "dpmpp-2m", BF16, SHAPE): (Goal(least=12.0, peer="diffusers"),),
    (False, "unipc-2", F32, SHAPE): (Goal(least=12.0, peer="diffusers"),),
    (False, "dpmpp-2m-sde", F32, SHAPE): (Goal(least=4.8, peer="diffusers"),),
    (False, "dpmpp-2m", F32, LARGE): (Goal(least=25.0, peer="diffusers"),),
    (True, "dpmpp-2m", BF16, SHAPE): (
        Goal(least=40.0, peer="diffusers"),
        Goal(least=5.0, peer="torch.compile, a step"),
        Goal("ours_us", most=4.0),
    ),
    (True, "dpmpp-2m", F32, SHAPE): (Goal("ours_us", most=4.0),),
    (True, "dpmpp-2m-sde", F32, SHAPE): (Goal(least=200.0, peer="k-diffusion"),),
}
THEIRS = {"dpmpp-2m": "sample_dpmpp_2m", "dpmpp-2m-sde": "sample_dpmpp_2m_sde", "euler": "sample_euler"}


def sampling(
    solver: str, options: Mapping[str, Any], x: Tensor, m: Tensor, steps: int
) -> tuple[Work, fd.Plan]:
    process = fd.processes.VP()
    times = fd.grid("logsnr", process, steps=steps, final="sigma_min")
    plan = fd.plan(solver, process, times, predicts="noise", **options)
    sampler = fd.Sampler(fd.Denoiser(lambda x, t: m, process, predicts="noise"), plan)
    if not x.is_cuda:
        return lambda: sampler(x, seeds=0), plan
    return sampler.capture(x).graph.replay, plan


def diffusers(name: str, options: Mapping[str, Any], x: Tensor, m: Tensor, steps: int) -> Work | None:
    if _peers.schedulers() is None:
        return None
    scheduler = getattr(_peers.schedulers(), name)(**options)

    def once() -> Spent | None:
        scheduler.set_timesteps(steps, device=x.device)
        y, spent = x, 0.0
        for t in scheduler.timesteps:
            scheduler.scale_model_input(y, t)  # its state machine wants it; not timed on the CPU
            start = time.perf_counter()
            y = scheduler.step(m, t, y).prev_sample
            spent += time.perf_counter() - start
        return None if x.is_cuda else Spent(spent)

    return once


def kdiffusion(name: str, x: Tensor, m: Tensor, steps: int) -> Work | None:
    """Its loop with the noise that it makes by default: a Brownian tree where the sampler is stochastic."""
    sampling = _peers.kdiffusion()
    if sampling is None:
        return None
    sigmas = sampling.get_sigmas_karras(steps, 0.03, 15.0, device=x.device)
    return lambda: getattr(sampling, name)(lambda x, sigma: m, x, sigmas, disable=True)


def compiled(plan: fd.Plan, x: Tensor, m: Tensor) -> Work:
    """The plan's own sums, the whole loop unrolled, by torch.compile in its best mode for launches."""
    stages = [(s.inputs, s.outputs, s.coeffs.tolist(), s.call.outs if s.call else ()) for s in plan.stages]

    def loop(x: Tensor, m: Tensor) -> Tensor:
        held = {0: x}
        for inputs, outputs, table, outs in stages:
            held |= dict(zip(outputs, summed([held[r] for r in inputs], table), strict=True))
            held |= dict.fromkeys(outs, m)
        return held[plan.out]

    best = torch.compile(loop, mode="reduce-overhead", dynamic=False)
    return lambda: best(x, m)


def compiled_steps(plan: fd.Plan, x: Tensor, m: Tensor) -> Work:
    """The plan's sums a step at a time, as behind a network that is not compiled with them."""
    step = torch.compile(summed, mode="max-autotune-no-cudagraphs", dynamic=False)
    stages = [
        (s.inputs, s.outputs, torch.tensor(s.coeffs.tolist(), dtype=x.dtype, device=x.device), s.call)
        for s in plan.stages
    ]
    tables = [[row.unbind() for row in rows] for _, _, rows, _ in stages]

    def loop() -> Tensor:
        held = {0: x}
        for (inputs, outputs, _, call), table in zip(stages, tables, strict=True):
            held |= dict(zip(outputs, step([held[r] for r in inputs], table), strict=True))
            held |= dict.fromkeys(call.outs if call else (), m)
        return held[plan.out]

    return loop


def made(name: str, shape: tuple[int, ...], dtype: torch.dtype, scale: Scale, steps: int = STEPS) -> Case:
    (solver, options), theirs, their_options = CASES[name]
    torch.manual_seed(0)
    x, m = (torch.randn(shape, device=scale.device).to(dtype) for _ in range(2))
    ours, plan = sampling(solver, options, x, m, steps)
    peers: dict[str, Callable[[], object] | None]
    peers = {f"diffusers {theirs}": diffusers(theirs, their_options, x, m, steps)}
    if name in THEIRS and dtype == F32 and (shape == SHAPE or scale.gpu):
        peers[f"k-diffusion {THEIRS[name]}"] = kdiffusion(THEIRS[name], x, m, steps)
    if scale.gpu and name in ("dpmpp-2m", "unipc-2") and shape == SHAPE:  # to compile takes long
        peers["torch.compile, a step at a time"] = compiled_steps(plan, x, m)
        peers["torch.compile, all steps as one"] = compiled(plan, x, m)
    return Case(
        name,
        ours,
        peers,
        bytes=plan.traffic(1) * x.numel() * x.element_size(),
        normals=x.numel() * plan.stochastic,
        units=plan.nfe,
        shape=shape,
        dtype=dtype,
        goals=GOALS.get((scale.gpu, name, dtype, shape), ()),
    )


def cases(scale: Scale) -> Iterator[Case]:
    for dtype in (F32, BF16):
        for name in CASES if dtype == F32 or scale.thorough else ("dpmpp-2m", "unipc-2"):
            yield made(name, SHAPE, dtype, scale)
    if not scale.quick:  # 64 M elements: far beyond every cache, where fresh memory dominates the peer's step
        yield made("dpmpp-2m", LARGE, torch.float32, scale, steps=20 if scale.gpu else 3)
