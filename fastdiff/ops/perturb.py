"""perturb: the forward marginal of a batch, each sample with its own coefficients.

    x_t = a x0 + k mu + e endpoint + s xi        xi ~ N(0, I): training noise, made again and never stored

One pass of `linear_step` over x0 (and mu, endpoint); with `noise` xi is a second output of the same pass, for
losses on a CPU, where reading it back is cheaper than making it twice. Column c of the training noise is
stream 2 for c = 0 and 192 + c behind it. Derivatives, batching and tracing are those of `linear_step`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _backends, _checks
from ._library import _lib, eager
from .linear_step import linear_step

_C: Any = _backends._C
TRAINING, FIRST_COLUMN, LAST_COLUMN = 2, 192, 63  # noise.streams has the table


def stream_of(call: str, column: Any) -> int:
    """The stream of a column of training noise."""
    if isinstance(column, bool) or not hasattr(column, "__index__"):
        raise TypeError(f"{call}: column must be an int, got {column!r}")
    if not 0 <= column <= LAST_COLUMN:
        _checks.say(call, "column", f"is {column}", f"0 .. {LAST_COLUMN}")
    return FIRST_COLUMN + column if column else TRAINING


def coefficient(call: str, name: str, c: Any, batch: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """c as a tensor (B,) of the arithmetic's dtype."""
    if (
        type(c) is Tensor
        and c.dtype is dtype
        and c.dim() == 1
        and c.shape[0] == batch
        and c.device == like.device
    ):
        return c
    if isinstance(c, (int, float)):
        return torch.full((batch,), float(c), dtype=dtype, device=like.device)
    _checks.tensor(call, name, c)
    if not c.is_floating_point():
        _checks.say(call, name, f"is {c.dtype}", "a float type")
    if c.device != like.device:
        _checks.say(call, name, f"is on {c.device}", f"must be on the tensors' device {like.device}")
    if c.dim() > 1 or (c.dim() == 1 and c.shape[0] not in (1, batch)):
        _checks.say(call, name, f"has shape {tuple(c.shape)}", f"a number or ({batch},), one for each sample")
    return c.to(dtype).expand(batch)


def perturb(
    x0: Tensor,
    a: Tensor | float,
    s: Tensor | float,
    rng: Tensor,
    *,
    mu: Tensor | None = None,
    k: Tensor | float | None = None,
    endpoint: Tensor | None = None,
    e: Tensor | float | None = None,
    draw: int = 0,
    column: int = 0,
    noise: bool = False,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """x_t = a x0 + k mu + e endpoint + s xi; with `noise` (x_t, xi), whose zeros are +0.

    x0, mu, endpoint  (B, *), float32, float16, bfloat16 or float64; (1, *) is the same for all samples
    a, k, e, s        (B,), or numbers; k comes with mu and e with endpoint
    rng               (B, 3) int64: seed, sample id, draw base; fastdiff.noise.resolve makes it
    draw, column      which training noise: draw is added to the draw base
    dtype             of the results; x0's by default

    Differentiable in every tensor but rng, any number of times and in both modes. Raises TypeError or
    ValueError that names the argument.
    """
    call = "perturb"
    if type(x0) is Tensor and x0.is_cpu and dtype is None and backend in (None, "cpu"):
        T, columns = [x0], [a]
        for t, c in ((mu, k), (endpoint, e)):
            if t is not None or c is not None:
                T.append(t)  # type: ignore[arg-type]
                columns.append(c)  # type: ignore[arg-type]
        if eager(rng, s, *T, *columns):
            try:
                return _C.perturb(T, [*columns, s], rng, draw, stream_of(call, column), noise)
            except (TypeError, ValueError):  # what follows mends another form, and names what is wrong
                pass
    _checks.tensor(call, "x0", x0)
    if not isinstance(rng, Tensor) or rng.dim() != 2:
        _checks.rng_tensor(call, rng, None, None)
    if not isinstance(noise, bool):
        raise TypeError(f"{call}: noise must be a bool, got {noise!r}")
    registers, weights = [x0], [("a", a)]
    for name, t, factor, c in (("mu", mu, "k", k), ("endpoint", endpoint, "e", e)):
        if (t is None) != (c is None):
            there, absent = (name, factor) if c is None else (factor, name)
            _checks.say(call, absent, f"is missing but {there} is given", "both or neither")
        if t is not None and c is not None:
            _checks.tensor(call, name, t)
            registers.append(t)
            weights.append((factor, c))
    batch, stream = rng.shape[0], stream_of(call, column)
    wide = torch.float64 in (dtype, *(t.dtype for t in registers))
    arithmetic = torch.float64 if wide else torch.float32
    columns = [coefficient(call, name, c, batch, x0, arithmetic) for name, c in (*weights, ("s", s))]
    if noise:  # a second row that copies the noise
        zero, one = torch.zeros_like(columns[-1]), torch.ones_like(columns[-1])
        A = torch.stack([*columns, *[zero] * len(registers), one], -1).view(batch, 2, len(columns))
    else:
        A = torch.stack(columns, -1)[:, None]
    if all(t.dim() and t.shape[0] == 1 for t in registers) and batch != 1:
        registers[0] = registers[0].expand(batch, *registers[0].shape[1:])
    results = linear_step(registers, A, rng=rng, draws=[draw], streams=[stream], dtype=dtype, backend=backend)
    return (results[0], results[1]) if noise else results[0]


def _composite(
    x0: Tensor,
    a: Tensor,
    s: Tensor,
    rng: Tensor,
    mu: Tensor | None = None,
    k: Tensor | None = None,
    endpoint: Tensor | None = None,
    e: Tensor | None = None,
    draw: int = 0,
    column: int = 0,
    noise: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    y = perturb(
        x0, a, s, rng, mu=mu, k=k, endpoint=endpoint, e=e, draw=draw, column=column, noise=noise, dtype=dtype
    )
    return list(y) if noise else [y]  # type: ignore[list-item]


_lib.define(
    "perturb(Tensor x0, Tensor a, Tensor s, Tensor rng, Tensor? mu=None, Tensor? k=None, "
    "Tensor? endpoint=None, Tensor? e=None, SymInt draw=0, int column=0, bool noise=False, *, "
    "ScalarType? dtype=None) -> Tensor[]"
)
_lib.impl("perturb", _composite, "CompositeImplicitAutograd")  # its derivatives are those of its parts
