"""Solver: a method as one formula. A file in fastdiff/solvers holds one; what all methods share stands here.

Shared rules, all exact limits:
- the last step to sigma = 0 is  x = alpha m  (order 1 and no noise, whatever the order asked for), but where
a method's own weights are finite there (Adams methods in sigma / c keep their order); of a linear process the
probability flow with the noise prediction held;
- a first step from alpha = 0 is  x = (sigma_t / sigma_s) x + alpha_t m, and leaves no history (its lambda is
-inf); from the far end of a bridge (alpha = sigma = 0) it is  x = alpha_t m + sigma_t xi;
- the order is lowered by showing `step` a shorter history, never by a branch in a formula.
"""
from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from .math import Number, expm1, plain, sqrt
from .process import Node, Process
from .registry import Registry

solvers: Registry[Solver] = Registry(
    "solver", "fastdiff.solvers",
    aliases={
        "dpm-1": "ddim", "mrs-ode-1": "ddim", "iadb": "euler", "ml-sde": "ddpm", "mrs-sde-1": "ddpm",
        "res-2s": ("dpmpp-2s", {"weight": "taylor"}),
        "res-2m": ("dpmpp-2m", {"weight": "heun"}), "mrs-ode-2": ("dpmpp-2m", {"weight": "heun"}),
        "mrs-sde-2": ("dpmpp-2m-sde", {"weight": "heun"}), "roba": ("oba", {"reduced": True}),
    },
)

Past = list[Any]


class Solver:
    """Base of every solver. A subclass is a frozen dataclass whose fields are its options.

    `step(p, s, t, past)` takes p.x from node s to node t and returns the history that the next step may see,
    newest last.
    """

    key: ClassVar[str]
    predicts: ClassVar[str] = "data"  # what p.model gives unless the formula asks otherwise
    source: ClassVar[str] = ""  # the paper
    corrects: ClassVar[int] = 0  # orders that a corrector gains over the predictor's
    stochastic: bool = False
    equal_steps: ClassVar[bool] = False  # has its order where steps are equal in tau, 2 on other grids
    linear: bool = True  # False where a step asks an operator (`p.call`)
    order: Any = 1  # of the ODE method with exact history; weak order of an SDE method
    adaptive: bool = False  # it chooses its steps while it runs, see fastdiff.core.adaptive
    kinds: ClassVar[tuple[str, ...]] = ("gaussian",)  # of processes that it steps
    operators: Mapping[str, Callable[..., Any]] = {}  # name -> fn(*tensors, t=, params=), for `p.call`
    memory: ClassVar[int] = 0  # entries of `past` that a step of order q wants beyond q - 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        solvers.add(cls)
        if not hasattr(cls, "key"):
            cls.key = cls.__name__  # a user's own solver needs no key to be run

    def __post_init__(self) -> None:
        """Options of type Literal or bool take what their type says."""
        for name, allowed in choices(type(self)).items():
            check_choice(self, name, allowed)

    def step(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        raise TypeError(f"{type(self).__name__} does not define step(p, s, t, past)")

    def first(self, p: Any, s: Node, t: Node) -> Past:
        """From alpha = 0."""
        m = p.model(p.x, s, "data")
        p.x = t.sigma / s.sigma * p.x + t.alpha * m
        return []

    def last(self, p: Any, s: Node, t: Node, past: Past) -> Past:
        """To sigma = 0."""
        p.x = s.arrive(p, t)
        return []

    def start(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        """A step while the history is still short of order q."""
        return self.step(p, s, t, past)

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        """The order allowed at a step; clean: the last one goes to sigma = 0."""
        return self.order if isinstance(self.order, int) else 1

    def record(self, p: Any, nodes: Sequence[Node], route: Sequence[int] | None = None) -> None:
        """The whole run over `nodes`; `route` visits them in another order, going back up by fresh noise."""
        visits = list(range(len(nodes))) if route is None else list(route)
        steps, past, clean = len(visits) - 1, [], nodes[visits[-1]].clean
        p.steps = steps
        p.x = p.inside(p.x, nodes[visits[0]])
        for i, (a, b) in enumerate(zip(visits, visits[1:], strict=False)):
            s, t = nodes[a], nodes[b]
            p.begin(i, s)
            if b < a:
                renoise(p, s, t)
                past = []
            else:
                past = self.move(p, s, t, past, self.limit(i, steps, clean))
            past = p.finish(past, t)
        p.x = p.outside(p.x, nodes[visits[-1]])

    def move(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        """One step of order q at most, the ends' own rules included."""
        want = q - 1 + self.memory
        past = past[max(0, len(past) - want):]
        if t.clean:
            return self.last(p, s, t, past)
        if s.pure:
            return depart(p, s, t) if s.clean else self.first(p, s, t)
        return self.start(p, s, t, past, q) if len(past) < want else self.step(p, s, t, past)

    def describe(self) -> str:
        """key(option=value, ...) with the options that differ from their defaults."""
        options = {n: getattr(self, n) for n in getattr(self, "__dataclass_fields__", {})}
        changed = [f"{n}={v!r}" for n, v in options.items() if v != getattr(type(self), n, None)]
        return f"{self.key}({', '.join(changed)})" if changed else self.key


@dataclass(frozen=True)
class Multistep(Solver):
    """A solver with a history: how it starts, and where it lowers its order.

    startup "ramp": orders 1, 2, ... as history comes in. One step of order 1 costs h^2, so the whole is of
    order 2 at most. startup "single": the missing history is made by singlestep steps of the full order, at
    their price in network calls. lower_order_final "always": order_i <= N - i. "auto": the same when N < 15,
    and where the last step goes to sigma = 0, which makes it one of order 1 that a long one leads up to.
    """

    order: int = 2
    startup: Literal["ramp", "single"] = "ramp"
    lower_order_final: Literal["auto", "always", "never"] = "auto"

    orders: ClassVar[tuple[int, ...]] = (1, 2, 3)
    startups: ClassVar[tuple[str, ...]] = ("ramp", "single")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "order", self.orders)
        check_choice(self, "startup", self.startups)

    def limit(self, step: int, steps: int, clean: bool = False) -> int:
        short = steps < 15 or (clean and not getattr(self, "legacy", False))  # public code: where N < 15
        lower = self.lower_order_final == "always" or (self.lower_order_final == "auto" and short)
        return min(self.order, steps - step) if lower else self.order

    def start(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        if self.startup == "single" and q > 1:
            return self.single(p, s, t, past, q)
        return self.step(p, s, t, past)

    def single(self, p: Any, s: Node, t: Node, past: Past, q: int) -> Past:
        """One singlestep step of order q that leaves this solver's kind of history."""
        raise TypeError(f"{type(self).__name__} does not define single(p, s, t, past, q)")


def check_kind(solver: Solver, process: Process) -> None:
    """A solver's formula holds on the kinds of processes that it names."""
    if process.kind not in solver.kinds:
        serve = ", ".join(solvers.names(kind=process.kind)) or "none"
        raise ValueError(f"solver {solver.key!r} is for {' and '.join(solver.kinds)} processes, but "
                         f"{process!r} is {process.kind}; solvers that serve it: {serve}")


def depart(p: Any, s: Node, t: Node) -> Past:
    """From the far end of a bridge, where alpha = sigma = 0: the noise of the next level is yet to come."""
    if p.predicts != "data":
        raise ValueError(f"at t={plain(s.t):g}, the far end of {s.process!r}, only a data prediction says "
                         f"anything, got a {p.predicts} prediction; start a little below it")
    p.x = t.alpha * p.model(p.x, s, "data") + t.sigma * p.noise(s, t)
    return []


def renoise(p: Any, s: Node, t: Node, s_noise: Number = 1) -> None:
    """Back up from s to a noisier t by the forward process: x_t = a x_s + sqrt(sigma_t^2 - a^2 sigma_s^2) xi,
    a = alpha_t / alpha_s."""
    p.x = t.alpha / s.alpha * p.x + s_noise * t.sigma * sqrt(-expm1(2 * (t.lam - s.lam))) * p.noise()


@cache
def choices(cls: type[Solver]) -> dict[str, tuple[Any, ...]]:
    """Options that are a choice -> what may be chosen."""
    found: dict[str, tuple[Any, ...]] = {}
    for f in fields(cls) if is_dataclass(cls) else ():
        kind = f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))
        kind = kind.removeprefix("typing.")
        if kind.startswith("Literal["):
            found[f.name] = ast.literal_eval(f"({kind[8:-1]},)")
        elif kind == "bool":
            found[f.name] = (True, False)
    return found


def check_choice(self: Any, name: str, allowed: Sequence[Any]) -> None:
    v = getattr(self, name)
    if not any(type(v) is type(a) and v == a for a in allowed):  # so that True is not 1
        raise ValueError(f"solver {self.key!r}: {name}={v!r} is not one of {', '.join(map(repr, allowed))}")


def check_range(self: Any, name: str, low: float, high: float = float("inf")) -> None:
    v = getattr(self, name)
    if isinstance(v, bool) or not isinstance(v, (int, float)) or not low <= v <= high:
        raise ValueError(f"solver {self.key!r}: {name} must be a number in [{low:g}, {high:g}], got {v!r}")
