"""GaussianField: noise with a covariance. White normals, coloured by a linear map that is built once.

    periodic grid   y = F^-1 sqrt(e) F z       e: the kernel's spectral density at the torus' frequencies
    grid            the same on a larger torus, cut to the grid: circulant embedding, the exact covariance
    points          y = L z, L L^T = k(|p_i - p_j|); for the exponential kernel on increasing times its exact
                    recursion y_i = c_i y_{i-1} + sqrt(1 - c_i^2) z_i, c_i = e^{-(t_i - t_{i-1}) / length}
    matrix          y = L z, L L^T = the matrix

z is `normal` of the same seeds, stream and draw. Every map is computed for each sample in one fixed order, so
that a sample depends on its own (seed, id) alone: libraries order the sums of a matrix product, and plan a
batch of transforms, by the size of the batch. float16 and bfloat16 are coloured in float32 and rounded once.

Source: Dietrich & Newsam 1997, SIAM J. Sci. Comput. 18(4), 1088 (embedding); Rasmussen & Williams 2006,
chapter 4 (kernels and their densities); Bilos et al. 2023, arXiv:2211.02590 (noise over times); "Guided
Diffusion Sampling on Function Spaces with Applications to PDEs", NeurIPS 2025 (a diffusion's noise).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from . import streams
from .families import normal
from .seeds import SeedsLike

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_GROWN = 2**24  # sites of a torus that was made larger than need be to get nonnegative eigenvalues
LARGEST_JITTER = 1e-6  # of the mean variance: beyond it a matrix is not a covariance
Tables: TypeAlias = "tuple[Tensor, ...]"


def positive(call: str, **values: Any) -> None:
    for name, x in values.items():
        if isinstance(x, bool) or not isinstance(x, numbers.Real) or not 0 < float(x) < math.inf:
            raise ValueError(f"{call}: {name} is {x!r}; a finite number above 0 is allowed")


# ---- kernels: k(distance), and density(|w|, dims), the Fourier transform of k at the angular frequency w


@dataclass(frozen=True)
class Exponential:
    """k(d) = e^{-d / length}: rough; over times the Ornstein-Uhlenbeck process of rate 1 / length."""

    length: float

    def __post_init__(self) -> None:
        positive("Exponential", length=self.length)

    def __call__(self, d: Tensor) -> Tensor:
        return torch.exp(-d / self.length)

    def density(self, w: Tensor, dims: int) -> Tensor:
        return Matern(0.5, self.length).density(w, dims)


@dataclass(frozen=True)
class RBF:
    """k(d) = e^{-d^2 / (2 length^2)}: analytic sample paths."""

    length: float

    def __post_init__(self) -> None:
        positive("RBF", length=self.length)

    def __call__(self, d: Tensor) -> Tensor:
        return torch.exp(-0.5 * (d / self.length) ** 2)

    def density(self, w: Tensor, dims: int) -> Tensor:
        return (2 * math.pi * self.length**2) ** (dims / 2) * torch.exp(-0.5 * (self.length * w) ** 2)


@dataclass(frozen=True)
class Matern:
    """k(d) = 2^{1-nu} / Gamma(nu) x^nu K_nu(x), x = sqrt(2 nu) d / length.

    nu = 1/2 is Exponential(length), nu -> infinity is RBF(length).
    """

    nu: float
    length: float

    def __post_init__(self) -> None:
        positive("Matern", nu=self.nu, length=self.length)

    def __call__(self, d: Tensor) -> Tensor:
        x = math.sqrt(2 * self.nu) * d / self.length
        x, place = x.unique(return_inverse=True)  # few of a grid's distances differ
        log_x = x.clamp_min(torch.finfo(x.dtype).tiny).log()
        log_c = (1 - self.nu) * math.log(2) - math.lgamma(self.nu)
        # K_nu(x) = int_0^inf e^{-x cosh t} cosh(nu t) dt. It is analytic in t and dies like e^{-x e^t / 2}:
        # the trapezoidal rule with step h errs by e^{-pi^2 / h}. Above t = end it is below e^{-745}.
        h, near = 1 / 16, x[x > 0]
        end = math.acosh((750 + 20 * self.nu) / min(float(near.min()), 1.0)) if near.numel() else 0.0
        k = torch.zeros_like(x)
        for i in range(int(end / h) + 1):
            t, rule = i * h, h if i else h / 2
            wave = torch.exp(log_c + self.nu * (log_x + t) - x * math.cosh(t))
            k = k + rule * (1 + math.exp(-2 * self.nu * t)) / 2 * wave
        return torch.where(x == 0, 1.0, k)[place]

    def density(self, w: Tensor, dims: int) -> Tensor:
        nu, half = self.nu, dims / 2
        log_c = dims * math.log(2) + half * math.log(math.pi) + math.lgamma(nu + half) - math.lgamma(nu)
        log_c += nu * (math.log(2 * nu) - 2 * math.log(self.length))
        return torch.exp(log_c - (nu + half) * torch.log(2 * nu / self.length**2 + w**2))


@dataclass(frozen=True)
class PowerLaw:
    """Spectrum |w|^-a: 0 is white, 2 red; w = 0 has no share for a > 0, so every sample has mean 0."""

    a: float

    def __post_init__(self) -> None:
        if not isinstance(self.a, numbers.Real) or not math.isfinite(self.a):
            raise ValueError(f"PowerLaw: a is {self.a!r}; a finite number is allowed")

    def density(self, w: Tensor, dims: int) -> Tensor:
        return torch.where((w == 0) & (self.a != 0), 0.0, torch.where(w == 0, 1.0, w) ** -self.a)


Kernel: TypeAlias = "Exponential | RBF | Matern | PowerLaw | Callable[[Tensor], Tensor]"


# ---- the three linear maps. white: the shape of z; tables(): float64; apply(z, tables): y


@dataclass(frozen=True)
class _Spectral:
    shape: tuple[int, ...]
    white: tuple[int, ...]
    eigenvalues: Tensor  # of the torus' covariance matrix, on rfftn's half of the frequencies

    def tables(self) -> Tables:
        return (self.eigenvalues.sqrt(),)

    def apply(self, z: Tensor, tables: Tables) -> Tensor:
        (root,), dims = tables, tuple(range(-len(self.white), 0))
        cut = (..., *(slice(n) for n in self.shape))
        y = []
        for sample in z:  # one plan for all, and memory of its own: neither batch nor alignment decides a sum
            modes = torch.fft.rfftn(sample.clone(), dim=dims) * root
            y.append(torch.fft.irfftn(modes, s=self.white, dim=dims)[cut])
        return torch.stack(y) if y else z.new_empty((0, *z.shape[1 : z.dim() - len(dims)], *self.shape))

    def covariance(self, a: tuple[int, ...], b: tuple[int, ...]) -> float:
        table = torch.fft.irfftn(self.eigenvalues, s=self.white)
        return float(table[tuple((i - j) % n for i, j, n in zip(a, b, self.white, strict=True))])


@dataclass(frozen=True)
class _Recursion:
    """y_i = c_i y_{i-1} + sqrt(1 - c_i^2) z_i by doubling: windows of 1, 2, 4, .. points, log2 n passes."""

    times: Tensor
    length: float

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.times.numel(),)

    white = shape

    def tables(self) -> Tables:
        t, n = self.times / self.length, self.times.numel()
        innovation = torch.ones_like(t)
        innovation[1:] = torch.sqrt(-torch.expm1(-2 * t.diff()))
        return innovation, *(torch.exp(t[: n - s] - t[s:]) for s in powers_of_two(n))

    def apply(self, z: Tensor, tables: Tables) -> Tensor:
        innovation, *decays = tables
        y = z * innovation
        for s, decay in zip(powers_of_two(y.shape[-1]), decays, strict=True):
            y = torch.cat([y[..., :s], y[..., s:] + y[..., :-s] * decay], -1)
        return y

    def covariance(self, a: tuple[int, ...], b: tuple[int, ...]) -> float:
        return math.exp(-abs(float(self.times[a[0]] - self.times[b[0]])) / self.length)


@dataclass(frozen=True)
class _Factor:
    shape: tuple[int, ...]
    lower: Tensor
    jitter: float

    @property
    def white(self) -> tuple[int, ...]:
        return self.shape

    def tables(self) -> Tables:
        return (self.lower,)

    def apply(self, z: Tensor, tables: Tables) -> Tensor:
        (lower,), n = tables, self.lower.shape[0]
        columns = z.reshape(-1, n).t().contiguous()
        y = torch.zeros_like(columns)
        # column by column, multiply then add: a matrix product sums in an order that the batch size decides
        for j in range(n):
            y[j:] += lower[j:, j, None] * columns[j]
        return y.t().reshape(z.shape)

    def covariance(self, a: tuple[int, ...], b: tuple[int, ...]) -> float:
        i, j = (int(np.ravel_multi_index(s, self.shape)) for s in (a, b))
        return float(self.lower[i] @ self.lower[j])


class GaussianField:
    """Coloured noise: `field((B, *, *field.shape), seeds)`, or `field.color(z)` of white noise in hand.

    GaussianField(Matern(1.5, 8.0), (64, 64))                       on a torus
    GaussianField(Exponential(8.0), (64, 64), periodic=False)       the kernel's exact covariance on a grid
    GaussianField(RBF(0.1), points=t)                               at times (n,) or points (n, d)
    GaussianField(C)                                                a covariance matrix (n, n)

    covariance     Exponential, RBF, Matern, PowerLaw (periodic grids only), a function of a float64 tensor of
                   distances, or a matrix (`shape` may then say how its n sites are arranged)
    spacing        between the sites of a grid: a number, or one for each dimension
    unit_variance  a kernel's density on a torus is scaled so that every site has variance 1; False leaves it
                   as it is: eigenvalue = density(w) / volume of a cell (PowerLaw: |w|^-a itself)
    dtype, device  of the samples, unless a call says otherwise

    shape    of a sample's trailing dimensions; dimensions between it and the batch are independent copies
    white    of the white noise that one copy is made of: `shape`, larger for a grid that is not periodic
    jitter   what had to be added to the diagonal for a Cholesky factor to exist: 0, or the first of
             2^-52 10^k of the mean variance that works; RBF kernels over close points need it
    """

    def __init__(
        self,
        covariance: Kernel | Tensor | np.ndarray,
        shape: Sequence[int] | None = None,
        *,
        points: Any = None,
        spacing: float | Sequence[float] = 1.0,
        periodic: bool = True,
        unit_variance: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        self.dtype, self.device = dtype, device
        if dtype is not None:
            _check_dtype(dtype)
        shape = None if shape is None else _sizes(shape)
        self._said = f"{covariance!r}" if isinstance(covariance, _KERNELS) else type(covariance).__name__
        with torch.device("cpu"):  # whatever the default device is
            self._map = _build(covariance, shape, points, spacing, periodic, unit_variance)
        self._kept: dict[tuple[torch.device, torch.dtype], Tables] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        return self._map.shape

    @property
    def white(self) -> tuple[int, ...]:
        return self._map.white

    @property
    def jitter(self) -> float:
        return getattr(self._map, "jitter", 0.0)

    def __call__(
        self,
        shape: Sequence[int],
        seeds: SeedsLike,
        *,
        stream: int = streams.USER,
        draw: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        backend: str | None = None,
    ) -> Tensor:
        """Samples (B, *, *field.shape); the arguments are those of `normal`."""
        d = len(self.shape)
        if not isinstance(shape, (list, tuple)) or len(shape) <= d or tuple(shape[-d:]) != self.shape:
            raise ValueError(f"GaussianField: shape is {shape!r}; (B, *, {_list(self.shape)}) is allowed")
        dtype = dtype or self.dtype or torch.get_default_dtype()
        _check_dtype(dtype)
        z = normal(
            (*shape[:-d], *self.white), seeds, stream=stream, draw=draw, dtype=_wide(dtype),
            device=self.device if device is None else device, backend=backend,
        )  # fmt: skip
        return self.color(z).to(dtype)

    def color(self, z: Tensor) -> Tensor:
        """The field made of white noise z (B, *, *field.white): linear, and on a torus symmetric too."""
        d = len(self.white)
        if not isinstance(z, Tensor) or z.dtype not in DTYPES:
            raise TypeError(f"GaussianField.color: z is {_kind(z)}; a tensor of real floats is allowed")
        if z.dim() <= d or tuple(z.shape[-d:]) != self.white:
            more = "; a grid that is not periodic needs more white noise than it has sites"
            raise ValueError(
                f"GaussianField.color: z is {tuple(z.shape)}; (B, *, {_list(self.white)}) is allowed"
                + (more if self.white != self.shape else "")
            )
        key = z.device, _wide(z.dtype)
        if key not in self._kept:
            self._kept[key] = tuple(t.to(*key) for t in self._map.tables())
        return self._map.apply(z.to(key[1]), self._kept[key]).to(z.dtype)

    def covariance(self, site: int | Sequence[int], other: int | Sequence[int] | None = None) -> float:
        """The exact covariance of two sites' values, in float64; `other` is the first site if left out.

        Of a grid it depends on their difference alone, so `covariance(lag)` is the autocovariance.
        """
        other = (0,) * len(self.shape) if other is None else other
        return self._map.covariance(_site(site, self.shape), _site(other, self.shape))

    def __repr__(self) -> str:
        more = f", white={self.white}" if self.white != self.shape else ""
        more += f", jitter={self.jitter:.1e}" if self.jitter else ""
        return f"GaussianField({self._said}, shape={self.shape}{more})"


# ---- building the maps, once, in float64 on the host


def _build(
    covariance: Any,
    shape: tuple[int, ...] | None,
    points: Any,
    spacing: Any,
    periodic: bool,
    unit_variance: bool,
) -> _Spectral | _Recursion | _Factor:
    if isinstance(covariance, (Tensor, np.ndarray)):
        if points is not None:
            raise ValueError("GaussianField: a matrix needs no points; a kernel does")
        return _from_matrix(covariance, shape)
    if not isinstance(covariance, _KERNELS) and not callable(covariance):
        raise TypeError(
            f"GaussianField: covariance is {type(covariance).__name__}; Exponential, RBF, Matern, "
            "PowerLaw, a function of distances or a matrix (a tensor or an array) is allowed"
        )
    if shape is not None and points is None:
        step = _steps(spacing, len(shape))
        if periodic and hasattr(covariance, "density"):
            return _on_torus(covariance, shape, step, unit_variance)
        return _embedded(covariance, shape, step, periodic)
    if points is None or shape is not None:
        raise ValueError("GaussianField: a kernel needs either shape (a grid) or points, one of the two")
    return _at_points(covariance, points)


def _on_torus(kernel: Any, shape: tuple[int, ...], step: tuple[float, ...], unit_variance: bool) -> _Spectral:
    *first, last = zip(shape, step, strict=True)
    axes = [2 * math.pi * torch.fft.fftfreq(n, h, dtype=torch.float64) for n, h in first]
    axes.append(2 * math.pi * torch.fft.rfftfreq(last[0], last[1], dtype=torch.float64))
    e = kernel.density(_norm(axes), len(shape))
    if unit_variance:
        variance = torch.fft.irfftn(e, s=shape).flatten()[0]
        if not variance > 0:
            raise ValueError(f"GaussianField: {kernel!r} has no power on a grid {shape}; a larger one has")
        return _Spectral(shape, shape, e / variance)
    return _Spectral(shape, shape, e if isinstance(kernel, PowerLaw) else e / math.prod(step))


def _embedded(kernel: Any, shape: tuple[int, ...], step: tuple[float, ...], periodic: bool) -> _Spectral:
    """Eigenvalues of the kernel on a torus whose half is at least the grid (periodic: that is the grid)."""
    if isinstance(kernel, PowerLaw):
        raise ValueError("GaussianField: PowerLaw is a spectrum, not a covariance; periodic=True is allowed")
    grow = 1
    while True:
        torus = shape if periodic else tuple(_smooth(2 * grow * (n - 1)) for n in shape)
        axes = [torch.arange(m // 2 + 1, dtype=torch.float64) * h for m, h in zip(torus, step, strict=True)]
        c = _values(kernel, _norm(axes))
        for i, m in enumerate(torus):  # distances on the torus: 0, 1, .., m / 2, .., 1
            c = c.index_select(i, torch.minimum(torch.arange(m), m - torch.arange(m)))
        e = torch.fft.rfftn(c).real
        lowest, highest = float(e.min()), float(e.max())
        # what the transform rounds: log2 n additions, each relative to the largest sum
        if lowest >= -4 * torch.finfo(e.dtype).eps * math.log2(2 * c.numel()) * highest:
            return _Spectral(shape, torus, e.clamp_min(0))
        grow *= 2
        if periodic or c.numel() * 2 ** len(shape) > LARGEST_GROWN or grow > 64:
            what = "is no covariance" if periodic else "has no nonnegative circulant embedding"
            raise ValueError(
                f"GaussianField: the kernel {what} on a torus of {torus} sites (eigenvalues {lowest:.3g} .. "
                f"{highest:.3g}); a shorter length, a rougher kernel, "
                + ("periodic=False" if periodic else "periodic=True")
                + ", or points= (a Cholesky factor) where the sites are few"
            )


def _at_points(kernel: Any, points: Any) -> _Recursion | _Factor:
    if isinstance(kernel, PowerLaw):
        raise ValueError(
            "GaussianField: PowerLaw is a spectrum, not a covariance; it needs shape, not points"
        )
    p = torch.as_tensor(points).detach().to("cpu", torch.float64)
    if p.dim() not in (1, 2) or p.shape[0] < 1 or not p.isfinite().all():
        raise ValueError(
            f"GaussianField: points are {tuple(p.shape)}; finite ones, (n,) or (n, d), are allowed"
        )
    if isinstance(kernel, Exponential) and p.dim() == 1 and (p.diff() >= 0).all():
        return _Recursion(p, kernel.length)
    q = p.reshape(p.shape[0], -1)
    return _cholesky(_values(kernel, (q[:, None] - q[None]).norm(dim=-1)), (p.shape[0],))


def _from_matrix(c: Tensor | np.ndarray, shape: tuple[int, ...] | None) -> _Factor:
    c = torch.as_tensor(c).detach().to("cpu", torch.float64)
    n = c.shape[0] if c.dim() == 2 else 0
    if n == 0 or c.shape[1] != n or not c.isfinite().all():
        raise ValueError(f"GaussianField: the matrix is {tuple(c.shape)}; a finite one (n, n) is allowed")
    if (c - c.t()).abs().max() > 1e-6 * c.abs().max():  # float32 products are symmetric to their rounding
        raise ValueError("GaussianField: the covariance is not symmetric; a symmetric matrix is allowed")
    if shape is not None and math.prod(shape) != n:
        raise ValueError(f"GaussianField: shape {shape} has {math.prod(shape)} sites; the covariance has {n}")
    return _cholesky((c + c.t()) / 2, shape or (n,))


def _cholesky(c: Tensor, shape: tuple[int, ...]) -> _Factor:
    scale = float(c.diagonal().mean())
    unit = torch.eye(c.shape[0], dtype=c.dtype)
    jitter = 0.0
    while jitter <= LARGEST_JITTER * scale:
        lower, failed = torch.linalg.cholesky_ex(c + jitter * unit)
        if not failed:
            return _Factor(shape, lower, jitter)
        jitter = 10 * jitter or torch.finfo(c.dtype).eps * scale
    lowest = float(torch.linalg.eigvalsh(c)[0])
    raise ValueError(
        f"GaussianField: the covariance has an eigenvalue {lowest:.3g} (mean variance {scale:.3g}); "
        "nonnegative ones are allowed"
    )


def _values(kernel: Callable[[Tensor], Tensor], d: Tensor) -> Tensor:
    c = kernel(d)
    if not isinstance(c, Tensor) or c.shape != d.shape or not c.isfinite().all() or not c.max() > 0:
        raise ValueError(f"GaussianField: the kernel made {_kind(c)} of distances {tuple(d.shape)}; "
                         "as many finite covariances, k(0) > 0, are allowed")  # fmt: skip
    return c.to(torch.float64)


def _norm(axes: list[Tensor]) -> Tensor:
    return sum(x**2 for x in torch.meshgrid(*axes, indexing="ij")).sqrt()  # type: ignore[union-attr]


def _smooth(least: int) -> int:
    """The first even size that is at least this and has no prime factor above 7; 1 for a single site."""
    if least < 2:
        return 1
    size = least + least % 2
    while True:
        rest = size
        for p in (2, 3, 5, 7):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return size
        size += 2


def powers_of_two(n: int) -> list[int]:
    return [2**i for i in range((n - 1).bit_length())]


# ---- at the door


def _sizes(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, (list, tuple)) or not shape or any(type(n) is not int or n < 1 for n in shape):
        raise ValueError(f"GaussianField: shape is {shape!r}; at least one size, each at least 1, is allowed")
    return tuple(shape)


def _steps(spacing: Any, dims: int) -> tuple[float, ...]:
    steps = tuple(spacing) if isinstance(spacing, (list, tuple)) else (spacing,) * dims
    if len(steps) != dims:
        raise ValueError(f"GaussianField: spacing has {len(steps)} numbers; one, or {dims}, is allowed")
    positive("GaussianField", **{f"spacing[{i}]": h for i, h in enumerate(steps)})
    return tuple(float(h) for h in steps)


def _site(site: int | Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    at = (site,) if isinstance(site, int) else tuple(site)
    if len(at) != len(shape) or any(not -n < i < n for i, n in zip(at, shape, strict=True)):
        raise ValueError(f"GaussianField.covariance: site {site!r} is not on a field of shape {shape}")
    return at


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"GaussianField: dtype is {dtype}; float16, bfloat16, float32 or float64 is allowed")


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _kind(x: Any) -> str:
    return f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__


def _list(shape: tuple[int, ...]) -> str:
    return ", ".join(str(n) for n in shape)


_KERNELS = (Exponential, RBF, Matern, PowerLaw)
