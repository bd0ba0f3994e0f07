"""GaussianField: the kernels, the exact law of every linear map, and samples that do not know their batch.

The law of a field is settled without statistics: its map is linear, so `color` of the identity is a matrix M,
and the covariance is M^T M. It is compared in float64 with the kernel's closed form; 1e-12 is some thousand
roundings of numbers of size 1. Sampled covariances of N samples have standard error
sqrt((c_ii c_jj + c_ij^2) / N), and 5 of them are allowed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special

import fastdiff as fd
from fastdiff.core.hook import Hook
from fastdiff.noise import Seeds, normal
from fastdiff.noise.gaussian_field import RBF, Exponential, GaussianField, Matern, PowerLaw

F64 = torch.float64
KERNELS = [Exponential(2.0), RBF(1.5), Matern(0.8, 1.5), Matern(1.5, 1.5), Matern(2.5, 1.5)]
TIMES = [0.0, 0.1, 0.15, 0.9, 2.0, 2.0, 5.5]


def fields() -> dict[str, GaussianField]:
    points = torch.linspace(0, 1, 9, dtype=F64)
    return {
        "torus": GaussianField(Matern(1.5, 2.0), (6, 5)),
        "power": GaussianField(PowerLaw(1.7), (16,)),
        "embedded": GaussianField(Exponential(2.0), (5, 4), periodic=False, spacing=(1.0, 0.5)),
        "recursion": GaussianField(Exponential(1.3), points=TIMES),
        "rbf": GaussianField(RBF(0.4), points=points),
        "matrix": GaussianField(torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.0, -0.5], [0.1, -0.5, 1.5]])),
    }


EVERY = pytest.mark.parametrize("name", list(fields()))


def law(field: GaussianField) -> torch.Tensor:
    """(sites, sites): M^T M, M = color(identity)."""
    n = math.prod(field.white)
    m = field.color(torch.eye(n, dtype=F64).view(n, *field.white)).reshape(n, -1)
    return m.t() @ m


def sites(field: GaussianField) -> list[tuple[int, ...]]:
    return list(np.ndindex(*field.shape))


# ---- kernels


@pytest.mark.parametrize("nu", [0.1, 0.5, 1.0, 1.5, 3.7, 12.0])
def test_matern_is_the_bessel_form(nu: float) -> None:
    d = torch.tensor([0.0, 1e-9, 1e-3, 0.1, 0.7, 1.0, 3.0, 20.0], dtype=F64)
    x = math.sqrt(2 * nu) * d.numpy()[1:] / 1.7
    want = 2 ** (1 - nu) / special.gamma(nu) * x**nu * special.kv(nu, x)
    got = Matern(nu, 1.7)(d).numpy()
    assert got[0] == 1 and np.abs(got[1:] - want).max() < 1e-13


def test_matern_one_half_is_exponential_and_many_derivatives_make_it_rbf() -> None:
    d = torch.linspace(0, 8, 50, dtype=F64)
    assert (Matern(0.5, 2.0)(d) - Exponential(2.0)(d)).abs().max() < 1e-14
    # 1/nu expansion: the next term is of order d^4 / (8 nu length^4) times the kernel, at most 1 / (4 nu)
    assert (Matern(200.0, 2.0)(d) - RBF(2.0)(d)).abs().max() < 1 / 800


@pytest.mark.parametrize("kernel", [Exponential(1.3), RBF(0.7), Matern(1.2, 0.9), Matern(2.5, 2.0)], ids=repr)
@pytest.mark.parametrize("w", [0.0, 0.4, 2.5])
def test_density_is_the_fourier_transform(kernel, w: float) -> None:
    def density(dims: int) -> float:
        return float(kernel.density(torch.tensor([w], dtype=F64), dims))

    # Gauss-Legendre, 20 points a panel; panels shrink towards r = 0, where |r|^{2 nu} has no Taylor series,
    # and from 60 on all of these kernels are below 1e-19
    x, weight = np.polynomial.legendre.leggauss(20)
    edges = np.concatenate([[0], np.geomspace(1e-6, 60, 60)])
    half = np.diff(edges)[:, None] / 2
    r, dr = (edges[:-1, None] + half * (1 + x)).ravel(), (half * weight).ravel()
    k = kernel(torch.from_numpy(r)).numpy() * dr
    line = 2 * float((k * np.cos(w * r)).sum())
    plane = 2 * math.pi * float((k * r * special.j0(w * r)).sum())
    space = 4 * math.pi * float((k * r**2 * np.sinc(w * r / math.pi)).sum())
    for dims, want in ((1, line), (2, plane), (3, space)):
        assert density(dims) == pytest.approx(want, rel=1e-10, abs=1e-12)


# ---- exact laws


@EVERY
def test_covariance_says_what_the_map_does(name: str) -> None:
    field = fields()[name]
    want = torch.tensor([[field.covariance(a, b) for b in sites(field)] for a in sites(field)], dtype=F64)
    assert (law(field) - want).abs().max() < 1e-12


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize(("shape", "spacing"), [((17,), 0.7), ((6, 5), (1.0, 2.0)), ((4, 1, 3), 1.5)])
def test_embedding_has_the_kernels_own_covariance(kernel, shape, spacing) -> None:
    field = GaussianField(kernel, shape, spacing=spacing, periodic=False)
    step = np.broadcast_to(spacing, len(shape))
    at = torch.from_numpy(np.array(sites(field)) * step)
    want = kernel((at[:, None] - at[None]).norm(dim=-1))
    assert (law(field) - want).abs().max() < 1e-12


@pytest.mark.parametrize("kernel", [RBF(3.0), Matern(12.0, 5.0)], ids=repr)
@pytest.mark.parametrize("dims", [1, 2])
def test_a_torus_has_the_kernel_wrapped_round_it(kernel, dims: int) -> None:
    """Both densities are below 1e-10 of their peak at the highest frequency, so nothing is aliased."""
    n, field = 14, GaussianField(kernel, (14,) * dims, unit_variance=False)
    images = torch.cartesian_prod(*[torch.arange(-8, 9, dtype=F64) * n] * dims).view(-1, dims)
    for lag in [(0,) * dims, (3,) * dims, (7, *(1,) * (dims - 1))]:
        want = float(kernel((images + torch.tensor(lag, dtype=F64)).norm(dim=-1)).sum())
        assert field.covariance(lag) == pytest.approx(want, abs=1e-8)


@pytest.mark.parametrize("kernel", [*KERNELS, PowerLaw(2.0), PowerLaw(-1.0)], ids=repr)
@pytest.mark.parametrize("shape", [(9,), (8, 6), (1, 4), (3, 4, 5)])
def test_every_site_of_a_torus_has_variance_one(kernel, shape) -> None:
    variances = law(GaussianField(kernel, shape)).diagonal()
    assert (variances - 1).abs().max() < 1e-12


def test_the_map_of_a_torus_is_symmetric_and_power_0_is_the_identity() -> None:
    n = 30
    m = GaussianField(Matern(1.5, 2.0), (6, 5)).color(torch.eye(n, dtype=F64).view(n, 6, 5)).reshape(n, n)
    assert (m - m.t()).abs().max() < 1e-14
    z = normal((2, 8, 7), 3, dtype=F64)
    assert (GaussianField(PowerLaw(0.0), (8, 7)).color(z) - z).abs().max() < 1e-14


def test_a_power_law_has_mean_0() -> None:
    assert GaussianField(PowerLaw(2.0), (8, 8))((5, 8, 8), 0, dtype=F64).mean((1, 2)).abs().max() < 1e-14


def test_ou_is_its_recursion() -> None:
    t, length = torch.tensor(TIMES, dtype=F64), 1.3
    z = normal((4, len(TIMES)), 5, dtype=F64)
    want = [z[:, 0]]
    for i in range(1, len(TIMES)):
        c = math.exp(-float(t[i] - t[i - 1]) / length)
        want.append(c * want[-1] + math.sqrt(1 - c * c) * z[:, i])
    got = GaussianField(Exponential(length), points=t).color(z)
    assert (got - torch.stack(want, 1)).abs().max() < 1e-14
    assert (got[:, 4] - got[:, 5]).abs().max() < 1e-14  # one time twice is one value


def test_ou_covariance_at_irregular_times_and_by_cholesky() -> None:
    t = torch.tensor(TIMES[:5] + TIMES[6:], dtype=F64)
    want = torch.exp(-(t[:, None] - t).abs() / 1.3)
    assert (law(GaussianField(Exponential(1.3), points=t)) - want).abs().max() < 1e-13
    backwards = GaussianField(Exponential(1.3), points=t.flip(0))  # not increasing: a Cholesky factor
    assert (law(backwards) - want.flip(0, 1)).abs().max() < 1e-13


def test_rbf_points_take_the_smallest_jitter() -> None:
    far = GaussianField(RBF(0.1), points=[0.0, 1.0, 2.0])
    assert far.jitter == 0
    t = torch.linspace(0, 1, 60, dtype=F64)
    c = RBF(0.2)(((t[:, None] - t) ** 2).sqrt())
    field = GaussianField(RBF(0.2), points=t)
    assert 0 < field.jitter < 1e-12 and f"jitter={field.jitter:.1e}" in repr(field)
    less = field.jitter / 10 if field.jitter > 3e-16 else 0.0
    assert torch.linalg.cholesky_ex(c + less * torch.eye(60, dtype=F64)).info != 0
    assert (law(field) - c - field.jitter * torch.eye(60, dtype=F64)).abs().max() < 1e-14


def test_points_in_the_plane_and_matrices_on_a_grid() -> None:
    p = torch.tensor([[0.0, 0.0], [1.0, 0.5], [0.3, 2.0], [-1.0, 1.0]], dtype=F64)
    c = Matern(1.5, 1.2)(torch.cdist(p, p))
    assert (law(GaussianField(Matern(1.5, 1.2), points=p)) - c).abs().max() < 1e-12
    field = GaussianField(c.numpy(), (2, 2))
    assert field.shape == (2, 2) and (law(field) - c).abs().max() < 1e-14
    assert field.covariance((1, 0), (0, 1)) == pytest.approx(float(c[2, 1]), abs=1e-14)


def test_a_users_function_of_distance() -> None:
    def spherical(d: torch.Tensor) -> torch.Tensor:  # positive definite up to three dimensions
        u = (d / 6).clamp(max=1)
        return 2 * (1 - 1.5 * u + 0.5 * u**3)

    for periodic in (False, True):  # 6 is below half of 13: no two images of a site meet
        field = GaussianField(spherical, (13, 13), periodic=periodic)
        assert field.covariance((0, 0)) == pytest.approx(2, abs=1e-12)
        assert field.covariance((3, 2)) == pytest.approx(float(spherical(torch.tensor(13**0.5))), abs=1e-6)


# ---- samples


@EVERY
def test_sampled_autocovariance(name: str) -> None:
    field, n = fields()[name], 4000
    x = field((n, *field.shape), 11).flatten(1).double()
    got, c = x.t() @ x / n, law(field)
    error = torch.sqrt((c.diagonal()[:, None] * c.diagonal() + c**2) / n)
    assert ((got - c).abs() < 5 * error).all()


@pytest.mark.parametrize("a", [1.0, 2.0, 3.0])
def test_spectrum_slope(a: float) -> None:
    """log of a mean of N periodograms, each exponential, has variance 1/N; least squares of its slope."""
    n, sites = 500, 256
    x = GaussianField(PowerLaw(a), (sites,))((n, sites), 2, dtype=F64)
    power = torch.fft.rfft(x)[:, 1:-1].abs().square().mean(0).log()
    log_k = torch.arange(1, sites // 2, dtype=F64).log()
    log_k = log_k - log_k.mean()
    error = 1 / math.sqrt(n * float(log_k.square().sum()))
    assert float((power * log_k).sum() / log_k.square().sum()) == pytest.approx(-a, abs=5 * error)


@EVERY
def test_is_the_coloured_normals_of_the_same_key(name: str) -> None:
    field = fields()[name]
    z = normal((3, 2, *field.white), 7, stream=40, draw=9)
    assert torch.equal(field((3, 2, *field.shape), 7, stream=40, draw=9), field.color(z))
    first = field((3, 2, *field.shape), 7)
    assert not torch.equal(first, field((3, 2, *field.shape), 7, draw=1))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_a_sample_does_not_know_its_batch(name: str, dtype: torch.dtype) -> None:
    field = fields()[name]
    x = field((64, 3, *field.shape), 7, dtype=dtype)
    for i in (0, 17, 63):
        assert torch.equal(field((1, 3, *field.shape), Seeds(7, [i]), dtype=dtype), x[i : i + 1])
    assert torch.equal(field((2, 3, *field.shape), Seeds(7, [5, 0]), dtype=dtype), x[[5, 0]])
    z = normal((64, 3, *field.white), 7, dtype=dtype)
    whole = field.color(z)
    assert torch.equal(torch.cat([field.color(z[i : i + 1]) for i in range(64)]), whole)


@EVERY
def test_precision(name: str) -> None:
    """Halves are the float32 field rounded once; float32 is within n roundings of float64."""
    field = fields()[name]
    shape, n = (8, *field.shape), math.prod(field.white)
    wide, single = field(shape, 1, dtype=F64), field(shape, 1, dtype=torch.float32)
    assert (wide - single).abs().max() < n * 2**-24 * wide.abs().max()
    for half in (torch.float16, torch.bfloat16):
        assert torch.equal(field(shape, 1, dtype=half), single.to(half))


def test_defaults_and_empty_batches() -> None:
    field = GaussianField(RBF(2.0), (8, 8), dtype=torch.bfloat16, device="cpu")
    assert field((2, 8, 8), 0).dtype == torch.bfloat16 and field((2, 8, 8), 0, dtype=F64).dtype == F64
    with torch.device("meta"):  # the default device has no say in how a map is built
        made = GaussianField(Matern(1.5, 2.0), (6, 5)), GaussianField(Exponential(1.3), points=TIMES)
    for ours, theirs in zip(made, (fields()["torus"], fields()["recursion"]), strict=True):
        z = normal((2, *ours.white), 1)
        assert torch.equal(ours.color(z), theirs.color(z))
    for field in fields().values():
        assert field((0, 3, *field.shape), 0).shape == (0, 3, *field.shape)
        assert field.color(torch.zeros(2, *field.white, dtype=torch.float16)).dtype == torch.float16


@EVERY
def test_color_is_linear_to_autograd(name: str) -> None:
    field = fields()[name]
    z = torch.zeros(2, *field.white, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(field.color, z)


def test_as_a_hook_at_noise() -> None:
    """Data and noise of one covariance C: the exact denoiser is a number times x, so colouring commutes with
    sampling. 50 steps in float64, each of some roundings: 1e-12."""
    field = GaussianField(Matern(1.5, 2.0), (8, 8))
    process = fd.processes.VP()

    class Colour(Hook):
        def noise(self, ctx, xi):
            return field.color(xi)

    def net(x, t):
        a, s = process.alpha(float(t[0])), process.sigma(float(t[0]))
        return x * (a / (a**2 + s**2))

    denoiser = fd.Denoiser(net, process, predicts="data")
    start = normal((3, 8, 8), 4, dtype=F64)
    white = fd.sample(denoiser, start, solver="ddpm", steps=50, seeds=9)
    coloured = fd.sample(denoiser, field.color(start), solver="ddpm", steps=50, seeds=9, hooks=[Colour()])
    assert (coloured - field.color(white)).abs().max() < 1e-12


# ---- at the door


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((RBF(2.0),), {}, ValueError, "either shape .* or points"),
        ((RBF(2.0), (4,)), {"points": [0.0]}, ValueError, "either shape .* or points"),
        ((RBF(2.0), ()), {}, ValueError, r"shape is \(\)"),
        ((RBF(2.0), (4, 0)), {}, ValueError, r"shape is \(4, 0\)"),
        ((RBF(2.0), (4, 4)), {"spacing": (1.0,)}, ValueError, "spacing has 1 numbers; one, or 2"),
        ((RBF(2.0), (4,)), {"spacing": -1.0}, ValueError, r"spacing\[0\] is -1.0"),
        ((RBF(2.0), (4,)), {"dtype": torch.int32}, ValueError, "dtype is torch.int32"),
        ((PowerLaw(2.0), (4,)), {"periodic": False}, ValueError, "PowerLaw is a spectrum"),
        ((PowerLaw(2.0),), {"points": [0.0, 1.0]}, ValueError, "PowerLaw is a spectrum"),
        ((PowerLaw(2.0), (1, 1)), {}, ValueError, "no power"),
        ((RBF(2.0),), {"points": []}, ValueError, r"points are \(0,\)"),
        ((RBF(2.0),), {"points": [0.0, math.nan]}, ValueError, "finite"),
        (("rbf", (4,)), {}, TypeError, "covariance is str"),
        ((torch.eye(3),), {"points": [0.0]}, ValueError, "a matrix needs no points"),
        ((torch.ones(3, 2),), {}, ValueError, r"the matrix is \(3, 2\)"),
        ((torch.eye(3), (2, 2)), {}, ValueError, "has 4 sites; the covariance has 3"),
        ((torch.tensor([[1.0, 0.2], [0.3, 1.0]]),), {}, ValueError, "not symmetric"),
        ((torch.tensor([[1.0, 2.0], [2.0, 1.0]]),), {}, ValueError, "an eigenvalue -1"),
        ((RBF(1e5), (16,)), {"periodic": False}, ValueError, "no nonnegative circulant.*periodic=True"),
        ((lambda d: torch.cos(d), (16,)), {}, ValueError, "is no covariance on a torus"),
        ((lambda d: d[:2], (16,)), {}, ValueError, r"the kernel made \(2,\)"),
    ],
)
def test_bad_fields(arguments, options, error, words: str) -> None:
    with pytest.raises(error, match=words):
        GaussianField(*arguments, **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RBF(0.0), "RBF: length is 0.0"),
        (lambda: Exponential(math.inf), "Exponential: length is inf"),
        (lambda: Matern(-1.0, 2.0), "Matern: nu is -1.0"),
        (lambda: PowerLaw(math.nan), "PowerLaw: a is nan"),
    ],
)
def test_bad_kernels(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_bad_calls() -> None:
    field = GaussianField(Exponential(2.0), (5, 4), periodic=False)
    with pytest.raises(ValueError, match=r"shape is \(2, 4, 5\); \(B, \*, 5, 4\) is allowed"):
        field((2, 4, 5), 0)
    with pytest.raises(ValueError, match="shape is"):
        field((5, 4), 0)
    with pytest.raises(ValueError, match="dtype is torch.int64"):
        field((2, 5, 4), 0, dtype=torch.int64)
    with pytest.raises(ValueError, match="more white noise than it has sites"):
        field.color(torch.zeros(2, 5, 4))
    with pytest.raises(TypeError, match="z is .* of torch.int64"):
        field.color(torch.zeros(2, *field.white, dtype=torch.int64))
    with pytest.raises(ValueError, match="is not on a field of shape"):
        field.covariance((5, 0))
    with pytest.raises(ValueError, match="draw is -1"):
        field((2, 5, 4), 0, draw=-1)
