"""The checks at the door, for what the C++ checks do not see: fake, meta and sparse tensors, Python backends.

Each says the call, the argument, what came and what is allowed. The fake kernels run them too, so a traced
call is refused with the words of an eager one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ._library import alive

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MAX_IN, MAX_OUT, MAX_NOISE = 12, 4, 4
MAX_DEPTH = 30  # of a Brownian tree: node numbers are 32 bits of the counter
MAX_ELEMENTS = 2**34  # of one sample: the counter has 32 bits for a quarter of them


class Layout(NamedTuple):
    """What a checked linear step is about."""

    batch: int
    shape: tuple[int, ...]  # of one sample
    n_out: int
    dtype: torch.dtype  # of the outputs
    double: bool  # the arithmetic is float64


def say(call: str, argument: str, came: str, allowed: str) -> NoReturn:
    raise ValueError(f"{call}: {argument} {came}; {allowed}")


def product(shape: Sequence[int]) -> int:
    n = 1
    for s in shape:
        n = n * s
    return n


def tensor(call: str, name: str, t: Any) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{call}: {name} must be a torch.Tensor, got {type(t).__name__}")
    if t.layout is not torch.strided:
        say(call, name, f"has layout {t.layout}", "dense (strided) tensors only: call .to_dense()")
    if t.is_nested:
        say(call, name, "is a nested tensor", "samples of one shape only")


def in_memory(T: Sequence[Any]) -> list[Tensor] | None:
    """T contiguous, symbolic zeros (tangents may be such) filled in, dead wrappers of torch.func taken off;
    None where that changes nothing."""
    if not all(isinstance(t, Tensor) and t.layout is torch.strided and not t.is_nested for t in T):
        return None
    real = [alive(t) for t in T]
    real = [torch.zeros(t.shape, dtype=t.dtype, device=t.device) if t._is_zerotensor() else t for t in real]
    real = [t.contiguous() for t in real]
    return None if all(a is b for a, b in zip(real, T, strict=True)) else real


def values(t: Tensor) -> bool:
    """The numbers in t can be looked at without a wait: a real CPU tensor, nothing traced."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    return t.device.type == "cpu" and type(t) is Tensor


def rng_tensor(call: str, rng: Any, batch: int | None, device: torch.device | None) -> None:
    tensor(call, "rng", rng)
    if rng.dtype != torch.int64:
        say(call, "rng", f"is {rng.dtype}", "int64, made by fastdiff.noise.resolve(seeds, batch, device)")
    if rng.dim() != 2 or rng.shape[1] != 3 or (batch is not None and rng.shape[0] != batch):
        say(
            call,
            "rng",
            f"has shape {tuple(rng.shape)}",
            f"(B, 3) = (seed, sample id, draw base) with B = {'any' if batch is None else batch}",
        )
    if device is not None and rng.device != device:
        say(call, "rng", f"is on {rng.device}", f"must be on the tensors' device {device}")


def draw_stream(call: str, draw: Any, stream: Any, k: str = "") -> None:
    for number in (draw, stream):
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise TypeError(f"{call}: draw{k} and stream{k} must be ints, got {draw!r} and {stream!r}")
    if not -(2**63) <= draw < 2**63:  # what counts is its sum with the draw base, modulo 2^32
        say(call, f"draw{k}", f"is {draw}", "an int of 64 bits")
    if not 0 <= stream <= 255:
        say(call, f"stream{k}", f"is {stream}", "0 .. 255 (fastdiff.noise.streams)")


def few_elements(call: str, name: str, shape: Sequence[int]) -> None:
    if product(shape) > MAX_ELEMENTS:
        say(call, name, f"has {product(shape)} elements in a sample", "noise has at most 2^34")


def output_dtype(call: str, dtype: Any) -> None:
    if dtype not in DTYPES:
        say(call, "dtype", f"is {dtype}", "float32, float16, bfloat16 or float64")


def linear_step(
    call: str, T: Any, A: Any, index: Any, rng: Any, draws: Any, streams: Any, dtype: Any, out: Any = None
) -> Layout:
    """All that a linear step requires of its arguments."""
    if not isinstance(T, (list, tuple)):
        raise TypeError(f"{call}: T must be a list of tensors, got {type(T).__name__}")
    if not 1 <= len(T) <= MAX_IN:
        say(call, "T", f"has {len(T)} tensors", f"1 .. {MAX_IN}")
    for i, t in enumerate(T):
        tensor(call, f"T[{i}]", t)
        if t.dtype not in DTYPES:
            say(call, f"T[{i}]", f"is {t.dtype}", "float32, float16, bfloat16 or float64")
        if t.dim() < 1:
            say(call, f"T[{i}]", "has no dimension", "the first one counts the samples")
        if t.shape[1:] != T[0].shape[1:]:
            say(
                call,
                f"T[{i}]",
                f"has shape {tuple(t.shape)}",
                f"samples must be alike: those of T[0] have shape {tuple(T[0].shape[1:])}",
            )
        if t.device != T[0].device:
            say(call, f"T[{i}]", f"is on {t.device}", f"T[0] is on {T[0].device}: one device for all")
    device, shape = T[0].device, tuple(T[0].shape[1:])
    batch = next((t.shape[0] for t in T if t.shape[0] != 1), 1)
    for i, t in enumerate(T):
        if t.shape[0] != 1 and t.shape[0] != batch:
            say(
                call,
                f"T[{i}]",
                f"has {t.shape[0]} samples",
                f"{batch} like the others, or 1 (a constant for all samples)",
            )

    draws, streams = _ints(call, "draws", draws), _ints(call, "streams", streams)
    if len(draws) != len(streams) or len(draws) > MAX_NOISE:
        say(
            call,
            "draws and streams",
            f"have lengths {len(draws)} and {len(streams)}",
            f"one of each for each noise column, at most {MAX_NOISE}",
        )
    for k, (d, s) in enumerate(zip(draws, streams, strict=True)):
        draw_stream(call, d, s, f"s[{k}]")
    if len(draws) > 0:
        if rng is None:
            say(
                call,
                "rng",
                "is None",
                f"{len(draws)} noise columns need it: fastdiff.noise.resolve(seeds, batch, device)",
            )
        rng_tensor(call, rng, batch, device)
        few_elements(call, "T[0]", shape)

    if dtype is None:
        dtype = out[0].dtype if out else T[0].dtype
    output_dtype(call, dtype)
    double = dtype == torch.float64 or any(t.dtype == torch.float64 for t in T)
    n_out = _coefficients(call, A, index, batch, product(shape), len(T) + len(draws), device, double)
    if out is not None:
        _outputs(call, out, n_out, (batch, *shape), dtype, device)
    return Layout(batch, shape, n_out, dtype, double)


def _ints(call: str, name: str, numbers: Any) -> Sequence[int]:
    if not isinstance(numbers, (list, tuple)):
        raise TypeError(f"{call}: {name} must be a list of ints, got {type(numbers).__name__}")
    return numbers


def _coefficients(
    call: str, A: Any, index: Any, batch: int, elements: int, columns: int, device: torch.device, double: bool
) -> int:
    tensor(call, "A", A)
    if A.dtype != torch.float32 and not (A.dtype == torch.float64 and double):
        say(
            call,
            "A",
            f"is {A.dtype}",
            "float32 or float64"
            if double
            else "float32 (float64 only where a tensor or the output is float64)",
        )
    if A.device != device:
        say(call, "A", f"is on {A.device}", f"T is on {device}: one device for all")
    layouts = f"(n_out, {columns}), ({batch}, n_out, {columns}), or (G, n_out, {columns}) with an index"
    if A.dim() not in (2, 3) or A.shape[-1] != columns:
        say(call, "A", f"has shape {tuple(A.shape)}", f"allowed: {layouts}")
    n_out = A.shape[-2]
    if not 1 <= n_out <= MAX_OUT:
        say(call, "A", f"has {n_out} rows", f"1 .. {MAX_OUT} outputs")
    if index is None:
        if A.dim() == 3 and A.shape[0] != batch:
            say(call, "A", f"has shape {tuple(A.shape)}", f"allowed: {layouts}")
        return n_out
    tensor(call, "index", index)
    if A.dim() != 3 or A.shape[0] < 1:
        say(call, "A", f"has shape {tuple(A.shape)}", f"with an index it is (G, n_out, {columns}), G >= 1")
    if index.dtype != torch.int32:
        say(call, "index", f"is {index.dtype}", "int32")
    if index.device != device:
        say(call, "index", f"is on {index.device}", f"T is on {device}: one device for all")
    if index.dim() != 2 or index.shape[0] not in (1, batch) or index.shape[1] < 1:
        say(
            call,
            "index",
            f"has shape {tuple(index.shape)}",
            f"(1 or {batch}, K) with K dividing {elements}, the elements of a sample",
        )
    if elements % index.shape[1] != 0:
        say(call, "index", f"has K = {index.shape[1]}", f"K must divide {elements}, the elements of a sample")
    if values(index) and index.numel() and not 0 <= int(index.min()) <= int(index.max()) < A.shape[0]:
        say(
            call,
            "index",
            f"names groups {int(index.min())} .. {int(index.max())}",
            f"A has groups 0 .. {A.shape[0] - 1}",
        )
    return n_out


def _outputs(
    call: str, out: Any, n_out: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    if not isinstance(out, (list, tuple)):
        raise TypeError(f"{call}: out must be a list of tensors, got {type(out).__name__}")
    if len(out) != n_out:
        say(call, "out", f"has {len(out)} tensors", f"A has {n_out} rows")
    for j, o in enumerate(out):
        tensor(call, f"out[{j}]", o)
        if tuple(o.shape) != shape or o.dtype != dtype or o.device != device:
            say(
                call,
                f"out[{j}]",
                f"is {tuple(o.shape)} {o.dtype} on {o.device}",
                f"{shape} {dtype} on {device}",
            )
        if not o.is_contiguous():
            say(call, f"out[{j}]", f"has strides {o.stride()}", "contiguous")
        if any(o is p for p in out[:j]):
            say(call, f"out[{j}]", "is given twice", "one tensor for each output")


def fill(call: str, shape: Sequence[int], rng: Any, draw: Any, stream: Any, dtype: Any) -> None:
    """All that a noise fill requires."""
    if len(shape) < 1:
        say(call, "shape", "is ()", "(B, *): the first dimension counts the samples")
    if any(n < 0 for n in shape):
        say(call, "shape", f"is {tuple(shape)}", "sizes of at least 0")
    rng_tensor(call, rng, shape[0], None)
    few_elements(call, "shape", shape[1:])
    draw_stream(call, draw, stream)
    output_dtype(call, dtype)


def brownian(
    call: str,
    shape: Sequence[int],
    rng: Any,
    at: Any,
    depth: Any,
    levy: Any,
    coefs: Any,
    scale: Any,
    dtype: Any,
) -> int:
    """All that increments of a Brownian path require; their number K."""
    if len(shape) < 1:
        say(call, "shape", "is ()", "(B, *): the first dimension counts the samples")
    if any(n < 0 for n in shape):
        say(call, "shape", f"is {tuple(shape)}", "sizes of at least 0")
    rng_tensor(call, rng, shape[0], None)
    few_elements(call, "shape", shape[1:])
    output_dtype(call, dtype)
    if isinstance(depth, bool) or not hasattr(depth, "__index__"):
        raise TypeError(f"{call}: depth must be an int, got {depth!r}")
    if not 1 <= depth <= MAX_DEPTH:
        say(call, "depth", f"is {depth}", f"1 .. {MAX_DEPTH}")
    if not isinstance(levy, bool):
        raise TypeError(f"{call}: levy must be a bool, got {levy!r}")

    tensor(call, "at", at)
    own = at.dim() == 2
    if at.dtype != torch.int64:
        say(call, "at", f"is {at.dtype}", f"int64, cells of a grid of 2^{depth}")
    if (tuple(at.shape) != (shape[0], 2)) if own else (at.dim() != 1 or at.shape[0] < 2):
        say(
            call,
            "at",
            f"has shape {tuple(at.shape)}",
            f"(K + 1,) boundaries, K >= 1, or ({shape[0]}, 2): an interval for each sample",
        )
    if at.device != rng.device and (own or at.device.type != "cpu"):
        say(call, "at", f"is on {at.device}", f"rng is on {rng.device}; boundaries may be on the CPU too")
    if values(at) and at.numel():
        first, last = (at[:, 0], at[:, 1]) if own else (at[:-1], at[1:])
        wrong = (first < 0) | (last > 2**depth) | ((first > last) if own else (first >= last))
        if wrong.any():
            k = int(wrong.nonzero()[0])
            say(
                call,
                "at",
                f"holds the interval {int(first[k])} .. {int(last[k])}",
                f"0 <= from {'<=' if own else '<'} to <= 2^{depth}",
            )
    K = 1 if own else at.shape[0] - 1

    if coefs is not None:
        tensor(call, "coefs", coefs)
        if levy:
            say(call, "coefs", "are given with levy", "areas need the uniform clock")
        if own:
            say(call, "coefs", "are given with (B, 2) intervals", "another clock needs shared boundaries")
        if coefs.dtype != torch.float32 or coefs.dim() != 2 or coefs.shape[1] != 3:
            say(
                call,
                "coefs",
                f"is {coefs.dtype} {tuple(coefs.shape)}",
                "float32 (n, 3): left share, right share, deviation, from noise._clock.coefficients",
            )
        if coefs.device != rng.device:
            say(call, "coefs", f"is on {coefs.device}", f"must be on rng's device {rng.device}")
        if K > 1 and at.device.type != "cpu":
            say(call, "at", f"is on {at.device}", "many increments of another clock need it on the CPU")
    if scale is not None:
        tensor(call, "scale", scale)
        lead = (2,) if levy else ()
        if scale.dtype != torch.float32 or tuple(scale.shape) != (*lead, shape[0] if own else K):
            say(
                call,
                "scale",
                f"is {scale.dtype} {tuple(scale.shape)}",
                f"float32 {(*lead, shape[0] if own else K)}",
            )
        if scale.device != rng.device:
            say(call, "scale", f"is on {scale.device}", f"must be on rng's device {rng.device}")
    return K


def error_norm(E: Any, a: Any, b: Any, atol: Any, rtol: Any, C: Any, norm: Any) -> bool:
    """All that an error norm requires; whether its arithmetic is float64."""
    call = "error_norm"
    if not isinstance(E, (list, tuple)):
        raise TypeError(f"{call}: E must be a list of tensors, got {type(E).__name__}")
    if not 1 <= len(E) <= MAX_IN:
        say(call, "E", f"has {len(E)} tensors", f"1 .. {MAX_IN}")
    named = [("a", a), *(() if b is None else (("b", b),)), *((f"E[{i}]", t) for i, t in enumerate(E))]
    for name, t in named:
        tensor(call, name, t)
        if t.dtype not in DTYPES:
            say(call, name, f"is {t.dtype}", "float32, float16, bfloat16 or float64")
        if t.dim() < 1:
            say(call, name, "has no dimension", "the first one counts the samples")
        if t.shape != a.shape:
            say(call, name, f"has shape {tuple(t.shape)}", f"{tuple(a.shape)} like a")
        if t.device != a.device:
            say(call, name, f"is on {t.device}", f"a is on {a.device}: one device for all")
    double = any(t.dtype == torch.float64 for _, t in named)
    for name, v in (("atol", atol), ("rtol", rtol)):
        if isinstance(v, bool) or not isinstance(v, (int, float)):
            raise TypeError(f"{call}: {name} must be a number, got {type(v).__name__}")
        if not 0 <= v < float("inf"):
            say(call, name, f"is {v}", "finite and at least 0")
    if C is not None:
        tensor(call, "C", C)
        if C.dtype != torch.float32 and not (C.dtype == torch.float64 and double):
            say(call, "C", f"is {C.dtype}", f"float32{' or float64' if double else ''}")
        if tuple(C.shape) not in ((len(E),), (a.shape[0], len(E))):
            say(call, "C", f"has shape {tuple(C.shape)}", f"({len(E)},) or ({a.shape[0]}, {len(E)})")
        if C.device != a.device:
            say(call, "C", f"is on {C.device}", f"a is on {a.device}: one device for all")
    if norm not in ("rms", "max"):
        say(call, "norm", f"is {norm!r}", "'rms' or 'max'")
    return double
