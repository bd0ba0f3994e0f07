"""MMD: a short sampler finetuned end to end, until the features of its samples have the data's law.

    mmd2 = sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (n (n - 1))
           - 2 sum k(x_i, y_j) / (m n)

unbiased: 0 in the mean for equal laws, so below 0 half of the time. No Gram matrix is stored: it is summed
tile by tile, and made again tile by tile for the gradient.

    poly   (x . y / d + 1)^degree          rbf   exp(-gamma |x - y|^2)          linear   x . y

Source: Aiello, Valsesia & Magli 2023, arXiv:2301.07969; Gretton et al. 2012 (the estimator).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.errors import unknown
from ..noise.seeds import resolve
from ..runtime.checks import check_x
from ..runtime.sampler import Sampler
from ..runtime.train import start

Kernel = Callable[[Tensor, Tensor], Tensor]
KERNELS = ("poly", "rbf", "linear")
TILE = 1024  # rows and columns of the Gram matrix that are there at a time


def mmd2(
    x: Tensor,
    y: Tensor,
    kernel: str | Kernel | Sequence[str | Kernel] = "poly",
    *,
    degree: int = 3,
    gamma: float | Sequence[float] = 1.0,
    tile: int = TILE,
) -> Tensor:
    """The unbiased squared distance of two laws, from features x (m, d) and y (n, d); a scalar.

    kernel  "poly" | "rbf" | "linear" | callable(a (p, d), b (q, d)) -> (p, q), symmetric; or several, which
            are summed. gamma may be several numbers too: an rbf each

    Sums are float64. Differentiable in x and y. Raises ValueError and TypeError that name the argument.
    """
    for name, v in (("x", x), ("y", y)):
        check_x(v, f"mmd2: {name}")
        if v.dim() != 2 or v.shape[0] < 2:
            raise ValueError(f"mmd2: {name} has shape {tuple(v.shape)}; need (at least 2, features)")
    if x.shape[1] != y.shape[1] or x.device != y.device:
        came = f"{tuple(x.shape)} on {x.device} and {tuple(y.shape)} on {y.device}"
        raise ValueError(f"mmd2: x and y must have one number of features and one device, got {came}")
    if type(tile) is not int or tile < 1:
        raise ValueError(f"mmd2: tile must be a whole number >= 1, got {tile!r}")
    k = _kernel(kernel, degree, gamma)
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    x, y = x.to(dtype), y.to(dtype)
    m, n = len(x), len(y)
    own = _total(k, x, x, tile, True) / (m * (m - 1)) + _total(k, y, y, tile, True) / (n * (n - 1))
    return (own - 2 * _total(k, x, y, tile, False) / (m * n)).to(dtype)


class MMD:
    """mmd2 between features of a sampler's own samples and of real data.

    sampler   a fd.Sampler; its network is what is trained. Few steps: each is in the graph
    features  callable(x (B, *)) -> (B, d), fixed; None: x itself, flattened
    kernel, degree, gamma, tile     of `mmd2`
    gradient  "checkpoint": network calls are made again in the backward pass; or what else Sampler takes

    `loss(real, x_T=None, cond=None, seeds=None)`: real (n, *) data; as many samples are made, from x_T or
    from the prior by the seeds. A scalar.
    """

    def __init__(
        self,
        sampler: Sampler,
        features: Callable[[Tensor], Tensor] | None = None,
        *,
        kernel: str | Kernel | Sequence[str | Kernel] = "poly",
        degree: int = 3,
        gamma: float | Sequence[float] = 1.0,
        tile: int = TILE,
        gradient: Any = "checkpoint",
    ):
        if not isinstance(sampler, Sampler):
            raise TypeError(f"MMD: sampler must be a fd.Sampler, got {type(sampler).__name__}")
        if features is not None and not callable(features):
            raise TypeError(f"MMD: features must be callable, got {type(features).__name__}")
        self.sampler, self.features, self.gradient = sampler, features, gradient
        self.how: dict[str, Any] = {"kernel": kernel, "degree": degree, "gamma": gamma, "tile": tile}
        _kernel(kernel, degree, gamma)

    def __call__(
        self,
        real: Tensor,
        *,
        x_T: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        seeds: Any = None,
    ) -> Tensor:
        check_x(real, "MMD: real")
        if x_T is None:
            rng = resolve(seeds, real.shape[0], real.device)
            x_T = start(self.sampler, real.shape, rng, real.dtype)
        made = self.sampler(x_T, seeds=seeds, cond=cond, gradient=self.gradient)
        with torch.no_grad():
            wanted = self._features(real)
        return mmd2(self._features(made), wanted, **self.how)

    def _features(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.features is None else self.features(x)


def _kernel(kernel: Any, degree: int, gamma: float | Sequence[float]) -> Kernel:
    """The sum of all that is named."""
    names = [kernel] if isinstance(kernel, str) or callable(kernel) else list(kernel)
    gammas = [float(g) for g in gamma] if isinstance(gamma, Sequence) else [float(gamma)]
    if not names or not gammas:
        raise ValueError("mmd2: kernel and gamma must name at least one each")
    if type(degree) is not int or degree < 1:
        raise ValueError(f"mmd2: degree must be a whole number >= 1, got {degree!r}")
    if not all(0 < g < math.inf for g in gammas):
        raise ValueError(f"mmd2: gamma must be > 0, got {gamma!r}")
    parts: list[Kernel] = []
    for name in names:
        if callable(name):
            parts.append(name)  # type: ignore[arg-type]
        elif name == "poly":
            parts.append(lambda a, b: (a @ b.T / a.shape[1] + 1).pow(degree))
        elif name == "linear":
            parts.append(lambda a, b: a @ b.T)
        elif name == "rbf":
            parts.append(lambda a, b: _rbf(a, b, gammas))
        else:
            raise unknown("kernel", name, KERNELS)
    return lambda a, b: sum((p(a, b) for p in parts[1:]), parts[0](a, b))


def _rbf(a: Tensor, b: Tensor, gammas: Sequence[float]) -> Tensor:
    # differences from a common point lose fewer digits in |a|^2 + |b|^2 - 2 a.b
    middle = a.mean(0, keepdim=True).detach()
    a, b = a - middle, b - middle
    square = ((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T).clamp(min=0)
    return torch.stack([torch.exp(-g * square) for g in gammas]).sum(0)


def _total(k: Kernel, a: Tensor, b: Tensor, tile: int, same: bool) -> Tensor:
    """The sum of k over all pairs, float64; same: a is b, and the pairs of a row with itself stay out."""

    def part(p: Tensor, q: Tensor, diagonal: bool) -> Tensor:
        gram = k(p, q)
        if diagonal:
            gram = gram - torch.diag(gram.diagonal())
        return gram.sum(dtype=torch.float64)

    total = torch.zeros((), dtype=torch.float64, device=a.device)
    one = a.shape[0] <= tile and b.shape[0] <= tile
    for i, p in enumerate(a.split(tile)):
        for j, q in enumerate(b.split(tile)):
            if same and j < i:
                continue  # symmetric: counted twice from the other side
            args = p, q, same and i == j
            made = part(*args) if one else checkpoint(part, *args, use_reentrant=False)
            total = total + (2 if same and j > i else 1) * made  # type: ignore[operator]
    return total
