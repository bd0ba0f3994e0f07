"""How an op reaches torch: schema, kernel, fake, autograd, vmap. Written once; every op file is data for it.

Three ways lead to a kernel, and all end in the op's `run`:

    eager, no derivative wanted         the public function calls `run` itself: no dispatcher
    eager, a derivative wanted          one autograd.Function around `run`
    compile, export, torch.func, modes  torch.ops.fastdiff.<op>: the dispatcher, then the same Function at the key "Autograd"

The Function has a `jvp` and runs its forward below autograd with the caller's grad modes, so forward mode, double backward,
every nesting of torch.func and torch.compile of all these are right. torch.library.register_autograd gives none of the
three: its forward-mode tangents are silently None and torch.func refuses it.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import custom_function_call_vmap_helper
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad

_lib = torch.library.Library("fastdiff", "DEF")
_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_dispatch_stack
_functorch = torch._C._are_functorch_transforms_active
_grad = torch.is_grad_enabled
_set_single_level = torch._C._functorch.set_single_level_autograd_function_allowed
_single_level = torch._C._functorch.get_single_level_autograd_function_allowed


EAGER, DERIVATIVE, DISPATCH = range(3)


def route(tensors: Iterable[Tensor | None]) -> int:
    """Which of the three ways a call on these tensors takes. What is no tensor goes to the checks that `run` makes."""
    if _compiling() or _modes() or _functorch():
        return DISPATCH
    way = EAGER if forward_ad._current_level < 0 else DERIVATIVE
    grad = _grad()
    for t in tensors:
        if type(t) is not Tensor and type(t) is not torch.nn.Parameter:
            if t is not None:
                return DISPATCH if isinstance(t, Tensor) else EAGER
        elif (
            t.is_neg()
        ):  # a view that is negated when read: the dispatcher resolves it, an address does not show it
            return DISPATCH
        elif grad and t.requires_grad:
            way = DERIVATIVE
    return way


@dataclass(frozen=True)
class Derivative:
    """The derivative of an op. Its arguments come as a namedtuple `a` by the names of its schema.

    keep(a, wanted)                  what backward reads: `a` with the other tensors set to None, and notes of any kind;
                                     wanted is like a, True where a gradient is asked
    backward(a, notes, wanted, grads)   gradients by argument name, a list for a list; grads: None for an unused output
    jvp(a, tangents)                 the outputs' tangents; tangents is like a, None where there is none
    """

    keep: Callable[[Any, Any], tuple[Any, Any]]
    backward: Callable[[Any, Any, Any, Sequence[Tensor | None]], dict[str, Any]]
    jvp: Callable[[Any, Any], Sequence[Tensor]]


class Op:
    """A registered op.

    run, fake   take the arguments of the schema
    refuse      called instead of differentiating: raises
    vmap        (size, dims, a) -> outputs, their batch dimensions; dims is like a, None where there is none
    """

    def __init__(
        self,
        schema: str,
        *,
        run: Callable[..., Any],
        fake: Callable[..., Any],
        derivative: Derivative | None = None,
        refuse: Callable[[Any], None] | None = None,
        vmap: Callable[..., Any] | None = None,
    ):
        self.name = schema.split("(")[0]
        self.derivative, self.refuse, self.vmap = derivative, refuse, vmap
        _lib.define(schema)
        qualified = f"fastdiff::{self.name}"
        self.overload = getattr(torch.ops.fastdiff, self.name).default
        arguments = self.overload._schema.arguments
        self.Args = namedtuple(self.name, [a.name for a in arguments])  # type: ignore[misc]
        self._defaults = tuple(a.default_value for a in arguments)
        self._positional = sum(not a.kwarg_only for a in arguments)
        self._keywords = self.Args._fields[self._positional :]
        # (position, is a list) of the arguments that hold tensors
        self._tensors = [
            (k, "List" in str(a.type)) for k, a in enumerate(arguments) if "Tensor" in str(a.type)
        ]
        # any device and layout reaches `run`, which says what it does not take
        _lib.impl(self.name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, fake, lib=_lib)
        if derivative is not None or refuse is not None:
            _lib.impl(self.name, self._autograd, "Autograd")
        if vmap is not None:
            _lib.impl(self.name, self._batched, "FuncTorchBatched")

    def dispatch(self, *args: Any) -> Any:
        """Through torch.ops; arguments in the order of the schema."""
        n = self._positional
        return self.overload(*args[:n], **dict(zip(self._keywords, args[n:], strict=True)))

    def below_autograd(self, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return self.dispatch(*args)

    def differentiable(self, run: Callable[..., Sequence[Tensor]], *args: Any) -> tuple[Tensor, ...]:
        """`run(*args)` as a node of the autograd graph."""
        a = self.Args(*args)
        leaves, counts = self.flatten(a)
        call = _Call(self, run, a, counts)
        # past Function.apply, which walks torch.func's stack itself: that needs setup_context, is not traceable inside the
        # dispatcher, and looks through all arguments each time
        apply = super(torch.autograd.Function, _Function).apply
        if not _functorch():
            return apply(call, *leaves)
        # as a C++ autograd kernel does: serve the top level of the stack and let the dispatcher go down
        call.modes = _grad(), torch._C._is_fwd_grad_enabled()
        before = _single_level()
        _set_single_level(True)
        try:
            return apply(call, *leaves)
        finally:
            _set_single_level(before)

    def _autograd(self, *args: Any, **keywords: Any) -> Any:
        """The kernel at the key "Autograd"."""
        a = self._bind(args, keywords)
        tensors = self.flatten(a)[0]
        if forward_ad._current_level < 0 and not (
            _grad() and any(t is not None and t.requires_grad for t in tensors)
        ):
            return self.below_autograd(*a)
        if self.refuse is not None:
            return self.refuse(a)
        return list(self.differentiable(self.below_autograd, *a))

    def _batched(self, *args: Any, **keywords: Any) -> Any:
        """The kernel at the key "FuncTorchBatched": torch.library.register_vmap, which refuses keyword-only tensors."""

        def rule(info: Any, dims: Any, *args: Any) -> Any:
            return self.vmap(info.batch_size, self.Args(*dims), self.Args(*args))  # type: ignore[misc]

        interpreter = retrieve_current_functorch_interpreter()
        return custom_function_call_vmap_helper(interpreter, rule, self.dispatch, *self._bind(args, keywords))

    def _bind(self, args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """torch leaves out the arguments that have their default value."""
        return self.Args(*args, *self._defaults[len(args) :])._replace(**keywords)

    # ---- arguments with lists of tensors <-> the flat row of tensors that autograd.Function takes

    def flatten(self, a: Any) -> tuple[list[Any], list[int]]:
        leaves: list[Any] = []
        counts = []
        for k, many in self._tensors:
            some = a[k] if many else (a[k],)
            leaves += some
            counts.append(len(some))
        return leaves, counts

    def unflatten(self, a: Any, leaves: Sequence[Any], counts: Sequence[int]) -> Any:
        args, at = list(a), 0
        for (k, many), n in zip(self._tensors, counts, strict=True):
            args[k] = list(leaves[at : at + n]) if many else leaves[at]
            at += n
        return self.Args(*args)


class _Call:
    """A call: with its tensors in `args` until the forward pass has taken them, then without."""

    __slots__ = ("op", "run", "args", "counts", "modes", "notes")

    def __init__(self, op: Op, run: Callable[..., Any], args: Any, counts: list[int]):
        self.op, self.run, self.args, self.counts = op, run, args, counts
        self.modes: tuple[bool, bool] | None = None
        self.notes: Any = None

    def fill(self, leaves: Sequence[Any]) -> Any:
        return self.op.unflatten(self.args, leaves, self.counts)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *leaves: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.call = call
        a = call.args
        wanted = call.fill(ctx.needs_input_grad[1:])
        kept, call.notes = call.op.derivative.keep(a, wanted)  # type: ignore[union-attr]
        call.args = wanted  # the graph holds no tensor but the saved ones
        ctx.save_for_backward(*call.op.flatten(kept)[0])
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*leaves)
        if call.modes is None:
            return tuple(call.run(*a))
        # the outer levels of torch.func record too: give them the modes that this Function has just switched off
        with torch.set_grad_enabled(call.modes[0]), forward_ad._set_fwd_grad_enabled(call.modes[1]):
            return tuple(call.run(*a))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        call = ctx.call
        found = call.op.derivative.backward(
            call.fill(ctx.saved_tensors), call.notes, call.fill(ctx.needs_input_grad[1:]), grads
        )
        every = call.op.Args(*[None] * len(call.args))._replace(**found)
        leaves: list[Any] = []
        for (k, many), n in zip(call.op._tensors, call.counts, strict=True):
            leaves += (every[k] or [None] * n) if many else [every[k]]
        return None, *leaves

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        call = ctx.call
        return tuple(call.op.derivative.jvp(call.fill(ctx.saved_tensors), call.fill(tangents)))
