"""The Triton twins in Triton's interpreter, on CPU tensors.

`test_triton.py` runs this file in a process of its own: TRITON_INTERPRET is read when triton is imported.
"""

from __future__ import annotations

import pytest
import torch

from fastdiff.noise import Seeds, resolve
from fastdiff.ops import (
    backends,
    brownian,
    dots,
    dots_,
    error_norm,
    gaussian_kl,
    linear_step,
    noise,
    normal,
    perturb,
    regression_loss,
    uniform,
)
from fastdiff.ops._tree import ladder

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64

# overflow to infinity is what some of the inputs are there for
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def both(case, same_bits):
    expected = linear_step(case.T, case.A, **case.options, backend="reference")
    for a, b in zip(linear_step(case.T, case.A, **case.options, backend="triton"), expected, strict=True):
        same_bits(a, b)


def test_the_interpreter_serves_cpu_tensors_by_name():
    assert backends("cpu") == ["cpu", "triton", "reference"]


@pytest.mark.parametrize("layout", ["table", "sample", "group"])
@pytest.mark.parametrize(
    "dtypes",
    [
        (F32, F32, F32),
        (F16, BF16, F32),
        (BF16, F32, F16),
        (F32, F16, BF16),
        (F64, F32, F64),
        (F64, F64, F16),
        (F32, F64, BF16),
        (BF16, BF16, BF16),
    ],
)
def test_layouts_and_dtypes(layout, dtypes, make_case, same_bits):
    both(make_case(layout, dtypes[:2], dtypes[2]), same_bits)


@pytest.mark.parametrize("shape", [(), (3,), (31, 7)])
def test_odd_sizes(shape, make_case, same_bits):
    both(make_case("sample", shape=shape, batch=2, noise=2), same_bits)


def test_many_columns_and_none_of_noise(make_case, same_bits):
    both(make_case("table", (F32,) * 11, n_out=4, noise=4, batch=1), same_bits)
    both(make_case("table", (F32,) * 2, n_out=3, noise=0, batch=1, constant=False), same_bits)  # one long row
    both(make_case("table", (F32,) * 2, n_out=3, noise=0, batch=0, constant=False), same_bits)


def test_outputs_may_overwrite_inputs(make_case, same_bits):
    case = make_case(dtypes=(BF16, BF16), wild=False)
    T = [t.clone() for t in case.T]
    for a, b in zip(
        linear_step(T, case.A, **case.options | {"dtype": None}, out=[T[1], T[0]], backend="triton"),
        linear_step(case.T, case.A, **case.options),
        strict=True,
    ):
        same_bits(a, b)


def test_a_group_that_does_not_exist_gives_nan(make_case):
    """On a GPU nobody looks at the index; a wrong one must neither read stray memory nor pass unseen."""
    from fastdiff.ops.triton import linear_step_

    x, out = torch.ones(1, 4), torch.empty(1, 4)
    linear_step_(
        [x], torch.ones(2, 1, 1), torch.tensor([[0, 2, 1, -1]], dtype=torch.int32), None, [], [], [out]
    )
    assert out.isnan().tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("fill", [normal, uniform])
@pytest.mark.parametrize("dtype", [F32, F16, BF16, F64])
def test_fills(fill, dtype, same_bits):
    rng = resolve(Seeds(2**62 + 12345, [2**40 + 3, 7]), 2)
    for shape in ((257,), ()):
        same_bits(
            fill((2, *shape), rng, 2**32 - 1, 200, dtype=dtype, backend="triton"),
            fill((2, *shape), rng, 2**32 - 1, 200, dtype=dtype, backend="reference"),
        )


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("normal", ()),
        ("uniform", ()),
        ("exponential", ()),
        ("gumbel", ()),
        ("laplace", ()),
        ("rademacher", ()),
        *[("bernoulli", (p,)) for p in (0.0, 0.3, 1.0)],
        ("bimodal", (0.6,)),
        *[("student_t", p) for p in ((5.0, 0.0), (0.2, 0.0), (3.0, 1.0))],
        *[("multivariate_t", p) for p in ((5.0, 0.0), (0.7, 0.0))],
        *[("gamma", p) for p in ((0.1, 1.0), (3.7, 1.0), (1e5, 1.0), (0.3, 0.0), (2.0, 0.0))],
    ],
)
def test_laws(family, parameters, same_bits):
    rng = resolve(Seeds(2**62 + 12345, [2**40 + 3, 7]), 2)
    maps = [((257,), {}), ((3, 6, 6), {"symmetric": 6}), ((4, 5), {"offset": 70, "strides": [-9, 2]})]
    for (shape, options), dtype in zip(maps, (F32, F16, BF16), strict=True):
        a, b = (
            noise(
                family,
                (2, *shape),
                rng,
                9,
                200,
                parameters=parameters,
                dtype=dtype,
                backend=backend,
                **options,
            )
            for backend in ("triton", "reference")
        )
        same_bits(a, b)


def test_published_vectors():
    z = normal((1, 4004), resolve(Seeds(0x0123456789ABCDEF, [5]), 1), 17, 0, backend="triton")[0, 4000:]
    assert [v & 0xFFFFFFFF for v in z.view(torch.int32).tolist()] == [
        0xBFC530F1,
        0x3D57BD45,
        0xBFA23C3D,
        0x3E915255,
    ]


@pytest.mark.parametrize("kind", ["plain", "levy", "clock"])
def test_brownian_increments(kind, same_bits):
    rng, at, levy = resolve(Seeds(2**62 + 5, [2**40 + 3, 7]), 2), torch.tensor([1, 6, 7]), kind == "levy"
    rows = len(ladder((1, 6, 7), 3).node) + 1
    coefs = torch.linspace(0.1, 0.9, 3 * rows).view(rows, 3) if kind == "clock" else None
    scale = torch.tensor([[0.5, 3.0], [0.7, 1.1]])[: 1 + levy].squeeze(0)
    for dtype, shape in ((F32, (5,)), (BF16, ())):
        options = {"coefs": coefs, "scale": scale, "dtype": dtype}
        for a, b in zip(
            brownian((2, *shape), rng, at, 3, levy, **options, backend="triton"),
            brownian((2, *shape), rng, at, 3, levy, **options, backend="reference"),
            strict=True,
        ):
            same_bits(a, b)


@pytest.mark.parametrize("levy", [False, True])
def test_own_brownian_intervals(levy, same_bits):
    """Empty, whole, and one that does not exist: NaN, for nobody looks at it on a GPU."""
    from fastdiff.ops.triton import brownian_

    at = torch.tensor([[0, 8], [5, 5], [3, 7], [4, 9]])
    out = [torch.empty(1, 4, 6, dtype=F16) for _ in range(1 + levy)]
    brownian_(out, resolve(3, 4), at, 3, None, None)
    expected = brownian((3, 6), resolve(3, 3), at[:3], 3, levy, dtype=F16, backend="reference")
    for a, b in zip(out, expected, strict=True):
        same_bits(a[:, :3], b)
        assert a[0, 3].isnan().all()


def test_the_published_increment():
    (W,) = brownian((1, 8), resolve(Seeds(99, [3]), 1), torch.tensor([3, 10]), 12, backend="triton")
    assert " ".join(f"{v & 0xFFFFFFFF:x}" for v in W[0, 0].view(torch.int32).tolist()) == (
        "bc19af3e bd362bf6 3c41627a 3d15b5dd bcc74024 bcd0fd78 bcdece32 bd313620"
    )


def test_moments_of_65536_normals():
    """5 standard errors of the first four moments."""
    n = 65536
    z = normal((1, n), resolve(21, 1), backend="triton").double()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - mean) < 5 * (variance / n) ** 0.5


def test_gradients(make_case, same_bits):
    case = make_case("sample", (F32, BF16), wild=False)
    results = []
    for backend in ("triton", "cpu"):
        tensors = [t.clone().requires_grad_() for t in (case.A, *case.T)]
        y = linear_step(tensors[1:], tensors[0], **case.options, backend=backend)
        results.append(torch.autograd.grad(y, tensors, [torch.ones_like(v) for v in y]))
    for a, b in zip(*results, strict=True):
        same_bits(a, b)


@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, F32), (F64, F16)])
@pytest.mark.parametrize("norm", ["rms", "max"])
def test_error_norms(dtypes, norm, same_bits):
    for shape in ((), (2,), (31, 7), (1024,), (2500,), (0,)):
        g = torch.Generator().manual_seed(sum(shape))
        a, b, *E = (torch.randn(3, *shape, generator=g).to(d) for d in (dtypes[0], dtypes[0], *dtypes))
        if E[0].numel() > 10:
            E[0][1].view(-1)[3] = float("nan")
        C = torch.randn(3, 2, generator=g, dtype=torch.float64 if F64 in dtypes else F32)
        C[2, 0] = 0.0
        args = {"atol": 0.01, "rtol": 0.05, "C": C, "norm": norm}
        same_bits(error_norm(E, a, b, **args, backend="triton"), error_norm(E, a, b, **args))


SUMS = ((), (31, 7), (1500,), (0,))


def same_on_triton(f, same_bits):
    """f(backend) -> tensors."""
    for a, b in zip(f("triton"), f("cpu"), strict=True):
        same_bits(a.detach(), b.detach())


def test_perturb(same_bits):
    x0, rng = torch.randn(3, 31), resolve(4, 3)
    same_on_triton(
        lambda k: perturb(x0, 0.5, torch.rand(1)[0] * 0 + 2, rng, noise=True, backend=k), same_bits
    )


@pytest.mark.parametrize("rho", ["l2", "l1", "huber", "pseudo_huber"])
@pytest.mark.parametrize("dtype", [F32, BF16, F64])
def test_regression_losses(rho, dtype, same_bits):
    for shape in SUMS:
        g = torch.Generator().manual_seed(sum(shape))
        pred, x0, xt = (torch.randn(3, *shape, generator=g).to(dtype) for _ in range(3))
        mask = torch.rand(1, *shape, generator=g) > 0.3
        rng, w = resolve(4, 3), torch.tensor([0.0, 1.5, 0.3])
        q = torch.tensor([1.0, 0.0, 2.0])

        def f(backend):
            y = pred.clone().requires_grad_()  # noqa: B023
            loss = regression_loss(
                y, x0, xt[:1], p=0.3, r=q, q=q, rng=rng, w=w, rho=rho, c=0.7 if "huber" in rho else None,  # noqa: B023
                mask=mask if rho != "l1" else None, backend=backend,  # noqa: B023
            )  # fmt: skip
            return loss, *torch.autograd.grad(loss.sum(), y)

        same_on_triton(f, same_bits)


@pytest.mark.parametrize("dtypes", [(F32, F32), (F16, BF16), (F64, F32)])
def test_dots(dtypes, same_bits):
    pairs, options = [(0, 0), (0, 1), (2, 3), (4, 1)], {"kinds": ["dot", "l1", "dot", "dot"]}
    for shape in SUMS:
        g = torch.Generator().manual_seed(sum(shape))
        T = [torch.randn(b, *shape, generator=g).to(d) for b, d in zip((3, 1), dtypes, strict=True)]
        R = torch.randn(3, 5, 5, generator=g, dtype=F64 if F64 in dtypes else F32)
        R[..., 2] = 0.0
        options |= {"rng": resolve(4, 3), "draws": [0, 1], "streams": [0, 9]}
        for rows in (None, R, R[0]):
            same_on_triton(lambda k: [dots(T, pairs, rows=rows, **options, backend=k)], same_bits)  # noqa: B023

        def total(backend):
            x = torch.ones(3, dtype=F64)
            dots_(x, torch.tensor([0.1, 2.0, 3.0, -1.0], dtype=F64), T, pairs, **options, backend=backend)  # noqa: B023
            return [x]

        same_on_triton(total, same_bits)


@pytest.mark.parametrize("dtype", [F32, BF16, F64])
def test_gaussian_kls(dtype, same_bits):
    for shape in SUMS:
        g = torch.Generator().manual_seed(sum(shape))
        x0 = torch.randint(0, 256, (3, *shape), generator=g) / 127.5 - 1
        pred, xt, var = (torch.randn(3, *shape, generator=g).to(dtype) for _ in range(3))
        for scale, learned in ((1.0, True), (1e-3, True), (30.0, False)):

            def f(backend):
                y, v = pred.clone().requires_grad_(), var.clone().requires_grad_()  # noqa: B023
                bins = torch.tensor([False, True, True])
                more = {"var": v, "high": -2.0, "bin": bins} if learned else {}  # noqa: B023
                by_pred = torch.tensor([-0.3, -1.0, 0.0]) * scale  # noqa: B023
                nats = gaussian_kl(
                    y, x0, xt, by_xt=0.3, by_x0=1.0, by_pred=by_pred, low=-6.0,  # noqa: B023
                    log_var=-3.0, w=torch.tensor([1.0, 2.0, 0.0]), **more, backend=backend,
                )  # fmt: skip
                return nats, *torch.autograd.grad(nats.sum(), (y, v) if learned else (y,))  # noqa: B023

            same_on_triton(f, same_bits)
