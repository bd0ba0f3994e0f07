"""gradient="adjoint": the continuous adjoint equations along the states of a run (see core/adjoint.py).

States come as in "checkpoint", at most `memory` of them held: those of a stochastic run are made again by the
same counters, along the same path. One network call and vector-Jacobian product at each node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..core.adjoint import AdjointStep, Transposed, adjoint_steps, noise_levels
from ..core.plan import Plan
from ..core.predict import input_scale
from ..core.process import Node, Process
from ..ops.linear_step import linear_step
from .gradients import Adjoint
from .replay import Pull, Snapshot, Tape, cuts_of, leaf, recorded, silent
from .run import Run
from .schedule import backwards


class Course:
    """The nodes of a plan at which its network is asked, and the noise of the steps between them."""

    def __init__(self, plan: Plan, process: Process):
        if plan.visits != plan.steps:
            raise ValueError("gradient='adjoint' goes straight back in time: it does not go with a route")
        other = sorted({s.call.kind for s in plan.stages if s.call is not None and s.call.kind != "net"})
        if other:
            names = {
                type(plan.hooks[s.call.hook]).__name__ for s in plan.stages if s.call and s.call.hook >= 0
            }
            what = f"hooks that change the run ({', '.join(sorted(names))})" if names else f"{other[0]!r}"
            raise ValueError(f"gradient='adjoint' does not go with {what}; use gradient='checkpoint'")
        cuts = cuts_of(plan)
        self.nodes: list[Node] = [process.node(float(t)) for t in plan.times]
        at: dict[float, int] = {}
        for k in cuts.calls:
            call = plan.stages[k].call
            assert call is not None
            at[call.t] = k  # of two calls at one time the later one has the better state
        missing = [float(t) for t in plan.times[:-1] if float(t) not in at]
        if missing:
            raise ValueError(
                f"gradient='adjoint' needs a network call at every time, and {plan.solver} makes none at "
                f"t={missing[0]:g}; use gradient='checkpoint'"
            )
        self.stages = [at[float(t)] for t in plan.times[:-1]]
        self.segments = {cuts.calls.index(k) + 1: i for i, k in enumerate(self.stages)}
        self.scales = [float(input_scale(plan.predicts, n)) for n in self.nodes]
        self.tau2 = noise_levels(plan, self.nodes, self.stages, self.scales)


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def course_of(plan: Plan, process: Process) -> Course:
    found = _known.get(plan)
    if found is None:
        found = _known[plan] = Course(plan, process)
    return found


class AtNode:
    """The network at one node, its graph kept for one or two products."""

    def __init__(self, sweep: Sweep, i: int, arg: Tensor, random: Sequence[Tensor]):
        tape, course = sweep.tape, sweep.course
        stage = course.stages[min(i, len(course.stages) - 1)]
        call = tape.e.plan.stages[stage].call
        assert call is not None
        self.sweep, self.node = sweep, course.nodes[i]
        self.leaf = leaf(arg)
        with torch.enable_grad(), tape.precision.again():
            if random:
                tape.random.restore(random)
            run = tape.begin(Snapshot((call.args[0],), [self.leaf]), sweep.pull.stand)
            if i == len(course.stages):  # the end itself, where no step calls
                t = tape.e.denoiser.times_tensor(float(self.node.t), arg)
                run.times = list(run.times)
                run.times[stage] = t.expand(arg.shape[0]).clone()
            run.call(stage)
        self.outs = [run.registers[r] for r in call.outs[: len(call.branches)]]
        self.weights = tape.e.place(stage).weights
        self.scale = course.scales[i]

    def product(self, a: Tensor, theta: float, last: bool) -> Tensor | None:
        """a^T d (network's output) / dx; the parameters get `theta` times theirs."""
        pull, tape = self.sweep.pull, self.sweep.tape
        inputs = [*pull.stand.values(), *tape.captured]
        ends = [
            (o, (w * a).to(o.dtype)) for o, w in zip(self.outs, self.weights, strict=True) if o.requires_grad
        ]
        if not ends:
            return None
        chosen = pull.chosen if theta else []
        tensors, grads = zip(*ends, strict=True)
        with silent(tape.captured):
            back, *rest = torch.autograd.grad(
                tensors,
                [self.leaf, *(inputs[k] for k in chosen)],
                grads,
                allow_unused=True,
                retain_graph=tape.history or not last,
            )
        for k, g in zip(chosen, rest, strict=True):
            if g is not None:
                have = pull.total[k]
                pull.total[k] = theta * g if have is None else have + theta * g
        return None if back is None else self.scale * back.to(a.dtype)


class Sweep:
    """One pass from the data to the noise: a and the network's products R at the nodes that are still
    used."""

    def __init__(self, tape: Tape, pull: Pull, course: Course, order: int):
        self.tape, self.pull, self.course = tape, pull, course
        nodes = course.nodes
        steps = adjoint_steps(nodes, course.tau2, order, tape.e.plan.predicts)
        self.to = {s.end: (s, c) for s, c in steps}
        # the whole weight of each node's product in the gradient of the parameters
        self.theta = dict.fromkeys(range(len(nodes)), 0.0)
        for step, correction in steps:
            final = correction or step
            if isinstance(final, AdjointStep):
                for j, w in final.thetas.items():
                    self.theta[j] += w
        self.a: dict[int, Tensor] = {}
        self.R: dict[int, Tensor | None] = {}

    def combine(self, step: AdjointStep) -> Tensor:
        terms = [(w, self.a[j]) for j, w in step.own.items()]
        terms += [(w, R) for j, w in step.products.items() if (R := self.R[j]) is not None]
        e = self.tape.e
        row = torch.tensor([[w for w, _ in terms]], dtype=e.arithmetic, device=e.device)
        return linear_step([t for _, t in terms], row, backend=e.backend)[0]

    def visit(self, i: int, arg: Tensor, random: Sequence[Tensor] = ()) -> None:
        """Bring a to node i, whose network argument this is, and take its product there."""
        at: AtNode | None = None
        step, correction = self.to.get(i, (None, None))
        wanted = bool(self.theta[i]) or correction is not None
        if isinstance(step, Transposed):
            at, a = AtNode(self, i, arg, random), self.a[i + 1]
            back = at.product(a, step.theta, not wanted)
            self.a[i] = step.own * a if back is None else step.own * a + step.product * back
        elif step is not None:
            self.a[i] = self.combine(step)
        if correction is not None:
            at = AtNode(self, i, arg, random)
            self.R[i] = at.product(self.a[i], 0.0, False)
            self.a[i] = self.combine(correction)
        if wanted:
            at = at or AtNode(self, i, arg, random)
            self.R[i] = at.product(self.a[i], self.theta[i], True)
        for store in (self.a, self.R):
            for j in [j for j in store if j > i + 2]:
                del store[j]


def adjoint_run(mode: Adjoint, tape: Tape, **look: Any) -> Run:
    """The run, its gradient by the continuous adjoint equations."""
    e, cuts = tape.e, tape.cuts
    course = course_of(e.plan, e.denoiser.process)
    if tape.tables is not None:
        raise ValueError("gradient='adjoint' has no gradient of coefficients; use gradient='checkpoint'")
    if any(t.requires_grad for r, t in tape.registers.items() if r):
        raise ValueError("gradient='adjoint' has no gradient of consts; use gradient='checkpoint'")
    count, schedule = cuts.last, mode.schedule

    def way(tape: Tape, pull: Pull, kept: dict[int, Snapshot]) -> None:
        if set(pull.bar) - {e.plan.out}:
            raise ValueError("gradient='adjoint' is that of the result; of a trajectory use 'checkpoint'")
        end = kept.pop(count + 1)
        if e.plan.out not in pull.bar:
            return
        sweep = Sweep(tape, pull, course, mode.order)
        last = len(course.nodes) - 1
        sweep.a[last] = pull.bar.pop(e.plan.out).to(e.arithmetic)
        if not course.nodes[last].clean:
            scaled = end.tensors[0] * course.scales[last]
            sweep.visit(last, scaled.to(end.tensors[0].dtype))
        for j, snapshot in backwards(1, count + 1, schedule.slots(count), kept, tape.advance):
            i = course.segments.get(j)
            if i is not None:
                arg = cuts.args[j][0]
                sweep.visit(i, snapshot.registers.get(arg, tape.registers.get(arg)), snapshot.random)
        for k, t in enumerate(tape.given):
            if t is tape.registers[0] and k in pull.chosen:
                pull.total[k] = sweep.a[0].to(t.dtype)

    return recorded(tape, schedule.kept(count), way, exact=False, **look)
