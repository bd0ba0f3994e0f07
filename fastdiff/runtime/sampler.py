"""Sampler: a plan with a network, ready to run again and again.

The loop knows two kinds of stages, linear and call; there is no branch per method. On the CPU, where nothing
has to be looked at between the stages, the same loop runs in C++ (`_C.Program`): about half a microsecond a
step besides the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import unknown
from ..core.linear import LinearProcess
from ..core.plan import Coefficients, Plan
from ..noise.seeds import resolve
from ..ops import _backends
from ..ops._library import EAGER, route
from .capture import CapturedSampler
from .checks import check_consts, check_run, check_x, eagerly
from .conditions import detached
from .denoiser import Denoiser
from .executor import Executor
from .gradients import Checkpoint, Mode, Reversible, mode_of
from .noise import check_noise
from .run import Callback, Run, run_fast
from .state import State, Trajectory
from .trained import trained

WHOLE = Checkpoint()  # the one way that a compiled graph can hold
OUTSIDE = (
    "gradients other than 'full' and a plain 'checkpoint' are run by the host, outside of compiled graphs"
)
KEPT = 16  # shapes for which a sampler keeps tables and buffers


class Sampler:
    """denoiser and plan -> samples: `sampler(x_T, seeds=0)`, see `__call__`. Threads may share one."""

    def __init__(self, denoiser: Denoiser, plan: Plan, *, backend: str | None = None):
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"Sampler: denoiser must be a fd.Denoiser, got {type(denoiser).__name__}")
        if not isinstance(plan, Plan):
            raise TypeError(f"Sampler: plan must be a fd.Plan (see fd.plan), got {type(plan).__name__}")
        if plan.predicts != denoiser.predicts:
            raise ValueError(
                f"Sampler: the plan is for a {plan.predicts!r} network, "
                f"the denoiser predicts {denoiser.predicts!r}"
            )
        process = denoiser.process
        if plan.process != repr(process) if plan.recipe is None else plan.recipe.process != process:
            raise ValueError(
                f"Sampler: the plan is for {plan.process}, the denoiser for {denoiser.process!r}"
            )
        if backend is not None and backend not in _backends.NAMES:
            raise unknown("backend", backend, _backends.NAMES)
        if any(h.trains for h in plan.hooks):
            plan = plan.generic()
        self.denoiser, self.plan, self.backend = denoiser, plan, backend
        self._executors: dict[tuple[Any, ...], Executor] = {}
        self._trajectory: tuple[Plan, np.ndarray] | None = None
        self._twin: Sampler | None = None

    def __call__(
        self,
        x: Tensor | State,
        *,
        seeds: Any = None,
        cond: Mapping[str, Any] | None = None,
        cond_grad: bool = False,
        gradient: Any = None,
        every: int | None = None,
        memory: int | None = None,
        trajectory: bool = False,
        callback: Callback | None = None,
        progress: bool = False,
        check_finite: bool = False,
        stop: int | None = None,
        noise: Any = None,
        consts: Mapping[str, Tensor] | None = None,
        coefficients: Coefficients | Sequence[Tensor] | None = None,
    ) -> Any:
        """Run the plan on x (B, *) from times[0], or go on from a State.

        seeds         int s (sample i uses (s, i)), sequence (sample i uses (seeds[i], 0)), fd.Seeds,
                      torch.Generator, or None
        cond          keyword arguments of the network
        gradient      None (no graph), "full" (everything is stored), "checkpoint" (one network call at a time
                      is run again in the backward pass), "reversible" or "adjoint": see fd.gradients, whose
                      objects it also takes
        every, memory    of gradient="checkpoint": keep every so many-th state, or at most so many
        cond_grad     let gradients reach the tensors in cond
        callback      called after each step with (step, t, x, data)
        check_finite  raise NonFinite with the step at which the network's output is not finite
        consts        tensors like x that the process or the solver wants, by name
        coefficients  of plan.coefficients(times), or one table for each stage, laid out as plan.coeffs:
        instead of
                      the plan's own. Gradients reach them, and the times that they were made of
        stop          stop after that many steps and return a State
        noise         None: independent draws; "path": the increments of one Brownian path per sample, so that
                      20 and 40 steps with one seed lead to the same sample; or noise(like, draw) -> tensor,
                      see fastdiff.runtime.noise.Draw

        Returns x at times[-1], a Trajectory, or a State. Raises ValueError or TypeError before anything runs.
        """
        return self._call(
            x,
            None,
            seeds,
            cond,
            cond_grad,
            mode_of(gradient, every, memory),
            trajectory,
            callback,
            progress,
            check_finite,
            noise,
            consts,
            stop,
            coefficients=coefficients,
        )

    def _call(
        self,
        x: Tensor | State,
        rng: Tensor | None,
        seeds: Any,
        cond: Mapping[str, Any] | None,
        cond_grad: bool,
        gradient: Any,
        trajectory: bool,
        callback: Callback | None,
        progress: bool,
        check_finite: bool,
        noise: Any = None,
        consts: Mapping[str, Tensor] | None = None,
        stop: int | None = None,
        part: tuple[int, int, int] | None = None,
        coefficients: Any = None,
    ) -> Any:
        """__call__; rng: the random keys, where already made; part: (first, last, batch) of a chunk."""
        plan, start, times = self.plan, 0, self.plan.times
        check_run(plan, cond, gradient, callback)
        check_noise(noise)
        if isinstance(gradient, Mode) and gradient != WHOLE and torch.compiler.is_compiling():
            given = (x, rng, seeds, cond, cond_grad, gradient, trajectory, callback, progress, check_finite)
            rest = (noise, consts, stop, part, coefficients)
            return eagerly(self._call, *given, *rest, why=OUTSIDE)
        looked_at = trajectory or callback is not None
        if coefficients is None and any(h.trains for h in plan.hooks):
            coefficients = plan.coefficients(plan.times.tolist())
        if isinstance(x, State):
            if looked_at or seeds is not None or gradient is not None:
                raise ValueError(
                    "a State has its own seeds and no earlier steps: "
                    "seeds, trajectory, callback and gradient must be left out"
                )
            x.check(plan)
            noise = _of_state(x, noise)
            start, rng, registers, like = x.stage, x.rng, dict(x.registers), x.like
        else:
            check_x(x)
            if isinstance(x, torch.nn.Parameter) and gradient is None:
                x = x.detach()  # a plain tensor
            like, registers = x, {0: x.contiguous()}
            if isinstance(gradient, Reversible) and x.dtype == torch.float32 and torch.is_grad_enabled():
                given = (cond, cond_grad, gradient, trajectory, callback, progress, check_finite, noise)
                return self._in_double(x, rng, seeds, *given, consts, stop, part, coefficients)
        if stop is not None:
            first = x.step if isinstance(x, State) else 0
            if isinstance(stop, bool) or not isinstance(stop, int) or not first < stop < plan.visits:
                between = f"between {first + 1} and {plan.visits - 1}"
                raise ValueError(f"stop must be a whole number of steps {between}, got {stop!r}")
            if looked_at or gradient is not None:
                raise ValueError("stop does not go with trajectory, callback or gradient")
        if looked_at:
            plan, times = self._looked_at()
        # a State has those that are still read
        had = range(len(plan.kinds)) if isinstance(x, State) else ()
        registers |= check_consts(plan, consts, like, had)
        executor = self._executor(plan, like)
        if rng is None and (executor.random or seeds is not None):
            rng = resolve(seeds, like.shape[0], like.device)
        cond = dict(cond or {})
        if gradient is not None and not cond_grad:
            cond = detached(cond)
        tables, clock = trained(executor, coefficients, like)
        mode = mode_of(gradient) if torch.is_grad_enabled() else None
        if isinstance(mode, Mode) and not torch.compiler.is_compiling():
            from .recorded import Tape, run_recorded  # not at import: only gradients need them

            look = {"callback": callback, "check_finite": check_finite, "progress": progress}
            tape = Tape(executor, registers, rng, cond, cond_grad, part, noise, tables, clock)
            run = run_recorded(mode, tape, **look)
            return self._result(run, registers, trajectory, times)
        plain = not (looked_at or progress or check_finite or gradient or stop or start or tables)
        plain = plain and (noise is None or not plan.stochastic)
        with nullcontext() if gradient is not None else torch.no_grad():
            if plain and route((like,)) == EAGER and (program := executor.program) is not None:
                return run_fast(executor, program, registers[0], rng, cond)
            run = Run(
                executor,
                registers,
                rng,
                cond,
                "checkpoint" if isinstance(gradient, Mode) else gradient,
                cond_grad,
                callback,
                check_finite,
                progress,
                part,
                noise,
                tables=tables,
                times=clock,
            )
            if stop is not None:
                return run.stop(start, stop)
            run.go(start, len(plan.stages))
        return self._result(run, registers, trajectory, times)

    def _in_double(self, x: Tensor, *given: Any) -> Any:
        """A reversible run of float32, its states float64 between float32 calls: what rounding takes from a
        state cannot be made again."""
        if self._twin is None:
            denoiser = copy(self.denoiser)
            denoiser.x_dtype = denoiser.x_dtype or torch.float32
            self._twin = Sampler(denoiser, self.plan, backend=self.backend)
        rng, seeds, cond, cond_grad, gradient, trajectory, callback, *rest, consts, stop, part, tables = given
        check_consts(self.plan, consts, x, ())
        if consts is not None:
            consts = {k: v.double() for k, v in consts.items()}
        seen = callback and (lambda step, t, *found: callback(step, t, *(v.float() for v in found)))
        given = (rng, seeds, cond, cond_grad, gradient, trajectory, seen, *rest, consts, stop, part, tables)
        run = self._twin._call(x.double(), *given)
        if not isinstance(run, Trajectory):
            return run.float()
        registers = {k: v.float() for k, v in run.registers.items()}
        return Trajectory(run.x.float(), run.times, run.states.float(), run.data.float(), registers)

    @staticmethod
    def _result(run: Run, first: Mapping[int, Tensor], trajectory: bool, times: np.ndarray) -> Any:
        plan = run.plan
        out = run.registers[plan.out]
        if trajectory:
            return _looked_at(run, first, out, times)
        return out

    def capture(
        self, x: Tensor, *, cond: Mapping[str, Any] | None = None, noise: Any = None
    ) -> CapturedSampler:
        """The whole run as one CUDA graph for x's shape: `graph(x, seeds=...)` replays it. CUDA only."""
        check_x(x)
        check_noise(noise)
        if consts := [kind[6:] for kind in self.plan.kinds if kind.startswith("const:")]:
            raise ValueError(f"capture: this plan wants {', '.join(consts)} besides x; a graph takes x alone")
        if not x.is_cuda:
            raise ValueError(f"capture needs a CUDA tensor, got one on {x.device}")
        # an executor of its own: a replay writes into the buffers that it was captured with
        return CapturedSampler(
            Executor(self.denoiser, self.plan, x, self.backend), x, dict(cond or {}), noise
        )

    def _executor(self, plan: Plan, x: Tensor) -> Executor:
        key = (plan is self.plan, tuple(x.shape), x.dtype, x.device)
        executor = self._executors.get(key)
        if executor is None:
            return eagerly(self._new_executor, key, plan, x)
        if not torch.compiler.is_compiling():
            executor.right_clock()  # of a run that did not come to its end
        return executor

    def _new_executor(self, key: tuple[Any, ...], plan: Plan, x: Tensor) -> Executor:
        with torch.inference_mode(False):
            executor = Executor(self.denoiser, plan, x, self.backend)
        if route(()) == EAGER:  # under a mode or torch.func its tensors are not plain ones
            if len(self._executors) >= KEPT:
                self._executors.clear()
            self._executors[key] = executor
        return executor

    def _looked_at(self) -> tuple[Plan, np.ndarray]:
        """The plan that gives every state and data prediction out, and the times it visits."""
        made = self._trajectory
        if made is None:
            made = self._trajectory = eagerly(self._make_trajectory)
        return made

    def _make_trajectory(self) -> tuple[Plan, np.ndarray]:
        plan = self.plan.with_trajectory()
        return plan, np.array([plan.times[0], *(plan.end_of(i) for i in range(plan.visits))])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_executors": {}}  # a copy makes its own

    def __repr__(self) -> str:
        return f"Sampler({self.denoiser!r}, {self.plan!r})"


def _looked_at(run: Run, first: Mapping[int, Tensor], x: Tensor, times: np.ndarray) -> Trajectory:
    """The trajectory of a run, from what it was given first."""
    process, plan = run.e.denoiser.process, run.plan
    given = {kind.removeprefix("const:"): first[r] for r, kind in enumerate(plan.kinds) if r in first}

    def states(name: str, start: Tensor) -> Tensor:
        return torch.stack([start.expand(x.shape), *(run.looked[name][i] for i in range(plan.visits))])

    others = process.registers[1:] if isinstance(process, LinearProcess) else ()
    data = torch.stack([run.looked["data"][i] for i in range(plan.visits)])
    return Trajectory(x, times, states("x", first[0]), data, {n: states(n, given[n]) for n in others})


def _of_state(state: State, noise: Any) -> Any:
    """The noise a State goes on by."""
    came = "" if noise is None else noise if isinstance(noise, str) else "callable"
    if came != state.noise and (came or state.noise == "callable"):
        raise ValueError(
            f"this State went by noise {state.noise or None!r}, got noise={noise!r}; go on by the same"
        )
    return state.noise or None if noise is None else noise
