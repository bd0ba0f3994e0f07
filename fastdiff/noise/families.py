"""Random tensors by seeds: each sample depends on its own (seed, id) alone.

    normal, student_t(nu), multivariate_t(nu), laplace, bimodal(m), gamma(k), rademacher     mean 0
    uniform, exponential, gumbel, bernoulli(p)

Unit variance: normal, laplace, bimodal, gamma, rademacher; the two t and `uniform` when asked. Every function
takes `Options`. `fastdiff.ops.noise` says which word of the counter becomes which number.

The default stream is the user's. Stream 0 is the solvers' own: a draw from it would repeat the noise of a
sampler with the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from .. import ops
from . import streams
from .seeds import SeedsLike, resolve

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Options(TypedDict, total=False):
    """What every draw may be told.

    stream         0 .. 255, the user's 32 .. 95; default 32
    draw           0 .. 2^32 - 1; gamma and multivariate_t below 2^24
    dtype, device  torch's defaults
    memory_format  how the result lies in memory; its numbers stay where they are
    offset, strides
                   a shard's place in its sample: position (i0, i1, ..) has the number of the whole's element
                   offset + sum_d i_d strides[d], d over at most 4 dimensions after the first
    symmetric      n: of n x n, the whole's last two dimensions, (i, j) and (j, i) have one number, (i, i) 0
    backend        None | "cpu" | "cuda" | "triton" | "reference": the same bits
    """

    stream: int
    draw: int
    dtype: torch.dtype | None
    device: torch.device | str | None
    memory_format: torch.memory_format
    offset: int
    strides: Sequence[int] | None
    symmetric: int
    backend: str | None


def normal(shape: Sequence[int], seeds: SeedsLike, **options: Unpack[Options]) -> Tensor:
    """Standard normals of `shape` = (B, *). seeds: see Seeds."""
    return _draw("normal", shape, seeds, **options)


def uniform(
    shape: Sequence[int], seeds: SeedsLike, *, unit_variance: bool = False, **options: Unpack[Options]
) -> Tensor:
    """Uniforms in (0, 1), odd multiples of 2^-24; with unit_variance sqrt(3) (2 u - 1)."""
    if not unit_variance:
        return _draw("uniform", shape, seeds, **options)
    dtype = options.get("dtype") or torch.get_default_dtype()
    u = _draw("uniform", shape, seeds, **{**options, "dtype": torch.float32})
    return ((u + u - 1) * sqrt(3)).to(dtype)


def rademacher(shape: Sequence[int], seeds: SeedsLike, **options: Unpack[Options]) -> Tensor:
    """-1 or 1 with probability 1/2."""
    return _draw("rademacher", shape, seeds, **options)


def exponential(shape: Sequence[int], seeds: SeedsLike, **options: Unpack[Options]) -> Tensor:
    """-ln u: mean 1. In float32 between 5.96e-8 and 22.9."""
    return _draw("exponential", shape, seeds, **options)


def gumbel(shape: Sequence[int], seeds: SeedsLike, **options: Unpack[Options]) -> Tensor:
    """-ln(-ln u): the argmax of logits + gumbel is a draw from softmax(logits)."""
    return _draw("gumbel", shape, seeds, **options)


def bernoulli(shape: Sequence[int], seeds: SeedsLike, p: float, **options: Unpack[Options]) -> Tensor:
    """1 with probability p (of resolution 2^-32; 0 and 1 are certain), else 0."""
    return _draw("bernoulli", shape, seeds, p, **options)


def student_t(
    shape: Sequence[int],
    seeds: SeedsLike,
    nu: float,
    *,
    unit_variance: bool = False,
    **options: Unpack[Options],
) -> Tensor:
    """Student's t with nu > 0 degrees of freedom, its elements independent. Variance nu / (nu - 2), or 1."""
    return _draw("student_t", shape, seeds, nu, float(unit_variance), **options)


def multivariate_t(
    shape: Sequence[int],
    seeds: SeedsLike,
    nu: float,
    *,
    unit_variance: bool = False,
    **options: Unpack[Options],
) -> Tensor:
    """z / sqrt(chi2_nu / nu), z normal and one chi-square for a sample: its elements are uncorrelated, not
    independent. Variance nu / (nu - 2), or 1."""
    return _draw("multivariate_t", shape, seeds, nu, float(unit_variance), **options)


def laplace(shape: Sequence[int], seeds: SeedsLike, **options: Unpack[Options]) -> Tensor:
    """Density exp(-sqrt(2) |x|) / sqrt(2): variance 1."""
    return _draw("laplace", shape, seeds, **options)


def bimodal(shape: Sequence[int], seeds: SeedsLike, m: float, **options: Unpack[Options]) -> Tensor:
    """+-m + sqrt(1 - m^2) z: two normals of one width, |m| <= 1; variance 1."""
    return _draw("bimodal", shape, seeds, m, **options)


def gamma(
    shape: Sequence[int], seeds: SeedsLike, k: float, *, centred: bool = True, **options: Unpack[Options]
) -> Tensor:
    """(gamma(k) - k) / sqrt(k), any k > 0: mean 0, variance 1. Not centred: gamma(k) itself, of rate 1;
    for small k most of it is too small to be seen beside k."""
    return _draw("gamma", shape, seeds, k, float(centred), **options)


def symmetric(
    shape: Sequence[int], seeds: SeedsLike, *, mask: Tensor | None = None, **options: Unpack[Options]
) -> Tensor:
    """Standard normals for adjacency matrices, `shape` = (B, *, n, n): mirrored, with a zero diagonal.

    mask (B, n) or (n,): 0 at nodes that are not there. Other laws have the option `symmetric`.
    """
    call = "noise.symmetric"
    if not isinstance(shape, (list, tuple)) or len(shape) < 3 or shape[-1] < 1:
        raise ValueError(f"{call}: shape is {shape!r}; (B, *, n, n) is allowed")
    if not options.get("symmetric"):
        if shape[-2] != shape[-1]:
            raise ValueError(
                f"{call}: shape is {tuple(shape)}; (B, *, n, n) is allowed, or a part of it with symmetric=n"
            )
        options["symmetric"] = shape[-1]
    x = normal(shape, seeds, **options)
    if mask is None:
        return x
    if tuple(mask.shape) not in ((shape[-1],), (shape[0], shape[-1])) or shape[-2] != shape[-1]:
        came = f"mask has shape {tuple(mask.shape)} for noise of {tuple(shape)}"
        raise ValueError(f"{call}: {came}; (B, n) or (n,) is allowed")
    some = (mask != 0).to(x.device).expand(shape[0], shape[-1])
    some = some.reshape(shape[0], *[1] * (len(shape) - 3), shape[-1])
    return torch.where(some[..., :, None] & some[..., None, :], x, 0.0)


RANKS = {torch.channels_last: 4, torch.channels_last_3d: 5}


def _draw(
    family: str,
    shape: Sequence[int],
    seeds: SeedsLike,
    *parameters: float,
    stream: int = streams.USER,
    draw: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    offset: int = 0,
    strides: Sequence[int] | None = None,
    symmetric: int = 0,
    backend: str | None = None,
) -> Tensor:
    if not isinstance(shape, (list, tuple)) or len(shape) < 1:
        raise ValueError(
            f"noise.{family}: shape is {shape!r}; (B, *) is allowed, the first dimension counts the samples"
        )
    if not 0 <= draw < 2**32:
        raise ValueError(f"noise.{family}: draw is {draw}; 0 .. 2^32 - 1 is allowed")
    if memory_format != torch.contiguous_format and RANKS.get(memory_format) != len(shape):
        raise ValueError(
            f"noise.{family}: memory_format is {memory_format} for {len(shape)} dimensions; "
            "contiguous_format, channels_last (4) or channels_last_3d (5) is allowed"
        )
    if device is None:
        device = torch.empty(0).device  # the default device, in a form that torch.compile reads
    rng = resolve(seeds, shape[0], device)
    if dtype is None:
        dtype = torch.get_default_dtype()
    rest: dict[str, Any] = {"dtype": dtype, "backend": backend}
    if family in ("normal", "uniform") and not offset and strides is None and not symmetric:
        x = (ops.normal if family == "normal" else ops.uniform)(shape, rng, draw, stream, **rest)
    else:
        x = ops.noise(
            family,
            shape,
            rng,
            draw,
            stream,
            parameters=parameters,
            offset=offset,
            strides=strides,
            symmetric=symmetric,
            **rest,
        )
    return x if memory_format == torch.contiguous_format else x.contiguous(memory_format=memory_format)
