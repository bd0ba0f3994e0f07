"""Random numbers against torch's: every law on one thread, the normal on two as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import fastdiff as fd

from ._case import Case, Scale

LAWS: dict[str, Callable[[torch.Tensor], object] | None] = {  # ours -> torch's in place, where it has one
    "normal": lambda x: x.normal_(),
    "uniform": lambda x: x.uniform_(),
    "exponential": lambda x: x.exponential_(),
    "rademacher": None,
    "gumbel": None,
    "bernoulli": lambda x: x.bernoulli_(0.3),
    "laplace": None,
    "student_t": lambda x: x.copy_(torch.distributions.StudentT(5.0).sample(x.shape)),
    "gamma": lambda x: x.copy_(torch._standard_gamma(torch.full_like(x, 2.5))),
    "bimodal": None,
}
ARGUMENTS = {
    "bernoulli": {"p": 0.3},
    "student_t": {"nu": 5.0},
    "gamma": {"k": 2.5, "centred": False},
    "bimodal": {"m": 0.5},
}


def made(law: str, n: int, threads: int, scale: Scale) -> Case:
    x, theirs = torch.empty(n, device=scale.device), LAWS[law]
    draw = getattr(fd.noise, law)
    options = {"device": scale.device, **ARGUMENTS.get(law, {})}
    return Case(
        law,
        lambda: draw((1, n), seeds=0, **options),
        {} if theirs is None else {"torch": lambda: theirs(x)},
        bytes=4.0 * n,
        shape=(1, n),
        dtype=torch.float32,
        threads=threads,
    )


def cases(scale: Scale) -> Iterator[Case]:
    n = 1 << (26 if scale.gpu else 20)
    for law in LAWS:
        yield made(law, n >> (law in ("gamma", "student_t")) * 2, 1, scale)
    if not scale.gpu:
        yield made("normal", n, 2, scale)
