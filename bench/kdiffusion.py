"""k-diffusion's samplers and ours under the same call: whole calls over their steps, the network's output
ready.

"Brownian" is noise_sampler=None of the SDE samplers: a path on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from fastdiff.integrations import kdiffusion as K

from . import _peers
from ._case import Case, Scale, Work

SHAPE, STEPS = (16, 4, 64, 64), 20
CASES: dict[str, tuple[str, str]] = {  # -> the sampler, and the noise: its own, one tree a sample, or given
    "dpmpp_2m_sde, Brownian": ("sample_dpmpp_2m_sde", ""),
    "dpmpp_2m_sde, one seed for each sample": ("sample_dpmpp_2m_sde", "each"),
    "dpmpp_2m_sde, noise given": ("sample_dpmpp_2m_sde", "given"),
    "dpmpp_3m_sde, Brownian": ("sample_dpmpp_3m_sde", ""),
    "dpmpp_sde, Brownian": ("sample_dpmpp_sde", ""),
    "euler_ancestral, noise given": ("sample_euler_ancestral", "given"),
    "euler": ("sample_euler", ""),
    "lms": ("sample_lms", ""),
    "dpmpp_2m": ("sample_dpmpp_2m", ""),
}
FEW = ("dpmpp_2m_sde, Brownian", "dpmpp_2m_sde, noise given", "euler", "dpmpp_2m")


def made(case: str, scale: Scale) -> Case:
    name, noise = CASES[case]
    x, m, xi = (torch.randn(SHAPE, device=scale.device) for _ in range(3))
    x *= 14.6
    sigmas = K.get_sigmas_karras(STEPS, 0.0291675, 14.614642, device=scale.device)
    given: dict[str, Any] = {"noise_sampler": lambda s, t: xi} if noise == "given" else {}
    theirs = _peers.kdiffusion()

    def run(f: Callable[..., Any], **options: Any) -> object:
        return f(lambda x, s: m, x, sigmas, disable=True, **given, **options)

    def peer() -> object:
        if noise != "each":
            return run(getattr(theirs, name))
        path = theirs.BrownianTreeNoiseSampler(x, sigmas[-2], sigmas[0], seed=list(range(SHAPE[0])))
        return run(getattr(theirs, name), noise_sampler=path)

    peers: dict[str, Work | None] = {f"k-diffusion {name}": peer if theirs is not None else None}
    ours = getattr(K, name)
    return Case(case, lambda: run(ours), peers, units=STEPS, shape=SHAPE, dtype=x.dtype)


def cases(scale: Scale) -> Iterator[Case]:
    for case in CASES if scale.thorough else FEW:
        yield made(case, scale)
