"""What can be said about the arguments of a run before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.plan import Plan
from ..ops._library import forward_mode
from .denoiser import DTYPES
from .gradients import mode_of


def check_x(x: Any, name: str = "x") -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {x.layout}")
    if x.dim() < 1:
        raise ValueError(f"{name} must have a batch axis, got a tensor of no axes")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64, got {x.dtype}")
    if x.device.type == "meta":
        raise ValueError(f"{name} is a meta tensor: it has no numbers")


def check_run(plan: Any, cond: Any, gradient: Any, callback: Any) -> None:
    """What can be said about these arguments of a run before it."""
    mode_of(gradient)
    if cond is not None and not (isinstance(cond, Mapping) and all(isinstance(k, str) for k in cond)):
        raise TypeError(f"cond must be a dict of the network's keyword arguments, got {type(cond).__name__}")
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback must be callable as callback(step, t, x, data), got {type(callback).__name__}"
        )
    if torch.compiler.is_compiling():
        return
    wants_graph = gradient is not None or any(h.grad == "input" for h in plan.hooks)
    if wants_graph and torch.is_inference_mode_enabled():
        raise ValueError(
            "torch.inference_mode records nothing, but gradient or a hook's ctx.vjp needs a graph; "
            "use torch.no_grad"
        )
    if gradient != "full" and torch.is_grad_enabled() and _under_func_grad():
        why = "would give a derivative of 0"
        if gradient is not None:
            why = "does not work, for it records the run as one node"
        raise ValueError(
            f"inside torch.func.grad or vjp gradient={gradient!r} {why}: pass gradient='full', or sample "
            "under torch.no_grad()"
        )
    if gradient not in (None, "full") and (torch._C._are_functorch_transforms_active() or forward_mode()):
        raise ValueError(
            f"gradient={gradient!r} has no forward mode and no torch.func; pass gradient='full' there"
        )


def check_consts(plan: Plan, consts: Any, x: Tensor, stored: Iterable[int] = ()) -> dict[int, Tensor]:
    """Register -> tensor for what a plan wants besides x, each (B, *) or (1, *); a State has them stored."""
    if consts is not None and not isinstance(consts, Mapping):
        raise TypeError(f"consts must be a dict of tensors by name, got {type(consts).__name__}")
    given = dict(consts or {})
    wanted = {kind[6:]: r for r, kind in enumerate(plan.kinds) if kind.startswith("const:")}
    if unknown := sorted(set(given) - set(wanted)):
        raise ValueError(f"consts has {', '.join(unknown)}; this plan wants {', '.join(wanted) or 'none'}")
    found = {}
    for name, r in wanted.items():
        if name not in given:
            if r in stored:
                continue
            if name == "ones":
                found[r] = x.new_ones((1, *x.shape[1:]))
                continue
            raise ValueError(f"this plan wants consts={{{name!r}: tensor like x}}; got {sorted(given)}")
        c = given[name]
        check_x(c, f"consts[{name!r}]")
        if c.device != x.device or c.shape[1:] != x.shape[1:] or c.shape[0] not in (1, x.shape[0]):
            came, need = (f"{tuple(t.shape)} on {t.device}" for t in (c, x))
            raise ValueError(f"consts[{name!r}] is {came}; need {need}, or one row for all")
        if c.dtype == torch.float64 and x.dtype != torch.float64:
            raise ValueError(f"consts[{name!r}] is float64, x is {x.dtype}; cast one of them")
        found[r] = c.contiguous()
    return found


def _under_func_grad() -> bool:
    if not torch._C._are_functorch_transforms_active():
        return False
    functorch = torch._C._functorch  # type: ignore[attr-defined]
    return any(
        level.key() == functorch.TransformType.Grad for level in functorch.get_interpreter_stack() or ()
    )


UNREADY = "to compile a Sampler whole, run it once before at this shape, dtype and device"


def eagerly(make: Callable[..., Any], *args: Any, why: str = UNREADY) -> Any:
    """make(*args) outside of a torch.compile around us: plans and tables are made by host code, which no
    graph can hold. Where the whole must be one graph, `why` is said."""
    if not torch.compiler.is_compiling():
        return make(*args)
    torch._dynamo.graph_break(msg=f"fastdiff: {why}")
    return torch.compiler.disable(make)(*args)
