"""Random numbers against torch's: every law on one thread, the normal on two as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import fastdiff as fd

from ._case import Case, Goal, Scale, Work, threads

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


def made(law: str, n: int, scale: Scale) -> Case:
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
        goals=(Goal(least=3.0, peer="torch"), Goal("ns_each", most=1.0))
        if law == "normal" and not scale.gpu
        else (),
    )


def doubled(n: int) -> Case:
    """Two threads against one."""

    def draw(on: int) -> Work:
        def run() -> None:
            with threads(on):
                fd.noise.normal((1, n), seeds=0)

        return run

    what, goals = "normal, two threads", (Goal(least=1.6, peer="one"),)
    return Case(what, draw(2), {"one thread": draw(1)}, shape=(1, n), threads=2, goals=goals)


def cases(scale: Scale) -> Iterator[Case]:
    n = 1 << (26 if scale.gpu else 20)
    for law in LAWS:
        yield made(law, n >> (law in ("gamma", "student_t")) * 2, scale)
    if not scale.gpu:
        yield doubled(n)
