"""Interpret: a plan run stage by stage on anything that adds and scales.

As Direct is the reference of a formula, this is the reference of a plan: what executors and kernels must
give, in as many digits as the numbers it is handed have.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .plan import Plan, PlanCall


def interpret(
    plan: Plan,
    net: Callable[[Any, PlanCall, int], Any],
    x: Any,
    *,
    noise: Callable[[int, int], Any] | None = None,
    consts: dict[str, Any] | None = None,
    hook: Callable[..., Sequence[Any]] | None = None,
    operators: Mapping[str, Callable[..., Any]] | None = None,
    tables: Sequence[Sequence[Sequence[Any]]] | None = None,
    emitted: dict[tuple[str, int], Any] | None = None,
) -> Any:
    """The plan's result from x.

    net      net(x, call, branch) -> raw prediction at call.t (where the call has one more output: a pair);
             net((x, v, ...), call, branch) -> the tensors that the network of a linear process gives
    noise    noise(step, column) -> a draw like x
    hook     hook(call, *arguments) -> the outputs of a hook's call; None: the arguments as they are
    operators    by name, what `p.call` of the formula asks for
    tables   coefficients in place of the plan's own, e.g. of `plan.coefficients(times)`
    emitted  receives what a plan with a trajectory gives, by (what, step)
    """
    memory: dict[int, Any] = {0: x}
    args: Any
    for r, kind in enumerate(plan.kinds):
        if kind.startswith("const:"):
            memory[r] = (consts or {})[kind[6:]]
    for k, s in enumerate(plan.stages):
        if s.draws and noise is None:
            raise ValueError("this plan draws noise: give noise=")
        values = [memory[r] for r in s.inputs] + [noise(*d) for d in s.draws]  # type: ignore[misc]
        rows: Any = s.coeffs.tolist() if tables is None else tables[k]
        if plan.planes is not None and tables is None:
            rows = np.moveaxis(plan.planes.tables[k], 0, -1)
            rows = getattr(x, "new_tensor", np.array)(rows.reshape(*rows.shape[:2], *plan.planes.shape))
        made = [sum(a * v for a, v in zip(row, values, strict=True)) for row in rows]
        memory.update(zip(s.outputs, made, strict=True))
        if emitted is not None:
            emitted.update({(what, step): memory[r] for what, step, r in s.emits})
        if s.call is not None:
            args = [memory[r] for r in s.call.args]
            outs: Sequence[Any] = args if hook is None else ()
            if s.call.kind == "net":
                outs = [net(args[0] if len(args) == 1 else args, s.call, b) for b in s.call.branches]
                if len(args) > 1:
                    outs = [o for some in outs for o in some]
                elif len(s.call.outs) > len(outs):
                    outs = [*(o[0] for o in outs), outs[0][1]]
            elif s.call.kind.startswith("call:"):
                act = (operators or {})[s.call.kind[5:]]
                outs = [act(*args, t=s.call.t, params=s.call.params)]
            elif hook is not None:
                outs = hook(s.call, *args)
            # nothing else may be read later: that is what `carried` promises
            lasting = {r for r, kind in enumerate(plan.kinds) if kind.startswith(("const", "emit"))}
            memory = {r: v for r, v in memory.items() if r in s.carried or r in lasting}
            memory.update(zip(s.call.outs, outs, strict=False))
    return memory[plan.out]
