"""How an op reaches torch: schema, kernel, fake, autograd, vmap. Written once; every op file is data for it.

Three ways lead to a kernel, and all end in the op's `run` (`route` chooses):

    EAGER       no derivative wanted: the public function calls `run` itself
    DERIVATIVE  one autograd.Function around `run`
    DISPATCH    compile, export, torch.func, modes, subclasses: torch.ops.fastdiff.<op>, with the same
                Function as its kernel at the dispatch key "Autograd"

The Function has a `jvp`, and at that key it runs its forward below autograd with the caller's grad modes. So
forward mode, double backward, every nesting of torch.func, and torch.compile of these are right. With
torch.library.register_autograd forward-mode tangents are silently None and torch.func raises.
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
_Parameter = torch.nn.Parameter
_set_single_level = torch._C._functorch.set_single_level_autograd_function_allowed  # type: ignore[attr-defined]
_single_level = torch._C._functorch.get_single_level_autograd_function_allowed  # type: ignore[attr-defined]

EAGER, DERIVATIVE, DISPATCH = range(3)


def forward_mode() -> bool:
    return forward_ad._current_level >= 0


def route(tensors: Iterable[Any]) -> int:
    """Which of the three ways a call on these tensors takes. What is no tensor goes on to `run`'s checks."""
    if _compiling() or _modes() or _functorch():
        return DISPATCH
    way = EAGER if forward_ad._current_level < 0 else DERIVATIVE
    grad = _grad()
    for t in tensors:
        if t is None:
            continue
        if type(t) is not Tensor and type(t) is not _Parameter:
            return DISPATCH if isinstance(t, Tensor) else EAGER
        if t.is_neg():  # negated when read, which an address does not show; the dispatcher resolves it
            return DISPATCH
        if grad and t.requires_grad:
            way = DERIVATIVE
    return way


def eager(*given: Any) -> bool:
    """All are plain tensors or numbers, and nothing is traced, batched or differentiated."""
    if _compiling() or _modes() or _functorch() or forward_ad._current_level >= 0:
        return False
    grad = _grad()
    for t in given:
        kind = type(t)
        if kind is Tensor or kind is _Parameter:
            if grad and t.requires_grad or t.is_neg():
                return False
        elif kind is not float and kind is not int:
            return False
    return True


def _plain(t: Tensor) -> bool:
    return type(t) in (Tensor, _Parameter) and not t.is_neg()


def alive(t: Any) -> Any:
    """t out of the wrappers of torch.func's levels that have ended: they hold no memory of their own."""
    while t is not None and (inner := torch._C._functorch.unwrap_if_dead(t)) is not t:  # type: ignore[attr-defined]
        t = inner
    return t


@dataclass(frozen=True)
class Derivative:
    """The derivative of an op. Its arguments come as a namedtuple `a` by the names of its schema.

    keep(a, wanted)         what backward reads: `a` with the other tensors set to None, and any notes;
                            wanted is like a, True where a gradient is asked
    backward(a, notes, wanted, grads)
                            gradients by argument name, a list for a list; grads: None for an unused output
    jvp(a, tangents)        the outputs' tangents; tangents is like a, None where there is none
    outputs                 how many outputs are differentiable, where not all are. Those behind are worked
    out
                            for backward, whose grads then are the gradients of these and behind them all
                            outputs
    """

    keep: Callable[[Any, Any], tuple[Any, Any]]
    backward: Callable[[Any, Any, Any, Sequence[Tensor | None]], dict[str, Any]]
    jvp: Callable[[Any, Any], Sequence[Tensor]]
    outputs: int | None = None


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
        self.run, self.derivative, self.refuse, self.vmap = run, derivative, refuse, vmap
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

    def differentiable(self, run: Callable[..., Any], *args: Any, moves: bool) -> tuple[Tensor, ...]:
        """`run(*args)` as a node of the autograd graph; `moves`: an argument may have a tangent."""
        a = self.Args(*args)
        leaves, counts = self.flatten(a)
        call = _Call(self, run, a, counts, moves)
        # past Function.apply: it walks torch.func's stack itself, which needs setup_context and cannot be
        # done inside the dispatcher, and it looks through all arguments each time
        apply = super(torch.autograd.Function, _Function).apply  # type: ignore[misc]
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
        moves = any(_moves(t) for t in tensors)
        if not moves and not (_grad() and any(t is not None and t.requires_grad for t in tensors)):
            if _modes() or _functorch() or not all(t is None or _plain(t) for t in tensors):
                return self.below_autograd(*a)
            return self.run(*args, **keywords)  # compiled graphs come here; a second dispatch costs 10 us
        if self.refuse is not None:
            return self.refuse(a)
        return list(self.differentiable(self.below_autograd, *a, moves=moves))

    def _batched(self, *args: Any, **keywords: Any) -> Any:
        """The kernel at the key "FuncTorchBatched"; library.register_vmap refuses keyword-only tensors."""

        def rule(info: Any, dims: Any, *args: Any) -> Any:
            return self.vmap(info.batch_size, self.Args(*dims), self.Args(*args))  # type: ignore[misc]

        interpreter: Any = retrieve_current_functorch_interpreter()
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

    __slots__ = ("op", "run", "args", "counts", "moves", "modes", "notes")

    def __init__(self, op: Op, run: Callable[..., Any], args: Any, counts: list[int], moves: bool):
        self.op, self.run, self.args, self.counts, self.moves = op, run, args, counts, moves
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
        if call.moves:
            ctx.save_for_forward(*leaves)
        if call.modes is None:
            y = tuple(call.run(*a))
        else:
            # outer levels of torch.func record too: give them the modes that this Function has just switched
            # off
            with torch.set_grad_enabled(call.modes[0]), forward_ad._set_fwd_grad_enabled(call.modes[1]):
                y = tuple(call.run(*a))
        first = call.op.derivative.outputs  # type: ignore[union-attr]
        if first is None:
            ctx.save_for_backward(*call.op.flatten(kept)[0])
        else:
            ctx.mark_non_differentiable(*y[first:])
            ctx.save_for_backward(*call.op.flatten(kept)[0], *y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        call = ctx.call
        saved = ctx.saved_tensors if call.modes is None else [alive(t) for t in ctx.saved_tensors]
        if call.op.derivative.outputs is not None:
            grads = (*grads[: call.op.derivative.outputs], *saved[len(ctx.needs_input_grad) - 1 :])
        found = call.op.derivative.backward(
            call.fill(saved), call.notes, call.fill(ctx.needs_input_grad[1:]), grads
        )
        every = call.op.Args(*[None] * len(call.args))._replace(**found)
        leaves: list[Any] = []
        for (k, many), n in zip(call.op._tensors, call.counts, strict=True):
            leaves += (every[k] or [None] * n) if many else [every[k]]
        return None, *leaves

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        call = ctx.call
        if call.modes is None:
            return tuple(call.op.derivative.jvp(call.fill(ctx.saved_tensors), call.fill(tangents)))
        # torch switches forward mode off around a jvp, for the outer levels of torch.func too, whose part of
        # the tangent would silently be missing. With it on, this level's own tangents must be taken off.
        with forward_ad._set_fwd_grad_enabled(call.modes[1]):
            a = call.fill([_primal(t) for t in ctx.saved_tensors])
            return tuple(call.op.derivative.jvp(a, call.fill(tangents)))


def _dual(t: Tensor) -> tuple[Tensor, Tensor | None]:
    """Primal and tangent. forward_ad.unpack_dual asks Python for the level: compiled graphs do not say it."""
    return torch._VF._unpack_dual(t, level=0)


def _primal(t: Tensor | None) -> Tensor | None:
    return _dual(t)[0] if t is not None and t.is_floating_point() else t


def _moves(t: Tensor | None) -> bool:
    return t is not None and t.is_floating_point() and _dual(t)[1] is not None
