"""linear_step under autograd (both modes, twice) and torch.func."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward_ad

from fastdiff.noise import normal, resolve
from fastdiff.ops import linear_step

LAYOUTS = ("table", "sample", "group")
OP = torch.ops.fastdiff.linear_step.default


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def step(options, n_in, backend=None):
    """(A, *T) -> outputs, as a function of tensors alone."""
    return lambda A, *T: linear_step(list(T[:n_in]), A, **options, backend=backend)


def through_ops(options, n_in):
    o = {"index": None, "rng": None, "draws": [], "streams": []} | options
    return lambda A, *T: tuple(
        OP(list(T[:n_in]), A, o["index"], o["rng"], o["draws"], o["streams"], dtype=o["dtype"])
    )


@pytest.fixture(params=LAYOUTS)
def smooth(request, make_case):
    """float64, three inputs of which the last is a constant, one noise column: (options, tensors A, T..)."""
    case = make_case(request.param, (torch.float64,) * 2, batch=2, shape=(3, 2), parts=3, wild=False)
    return case.options, [t.requires_grad_() for t in (case.A, *case.T)]


@pytest.mark.parametrize("call", [step, through_ops])
def test_gradcheck_both_modes_twice(call, smooth):
    """gradcheck's finite differences in float64 (its own tolerances): reverse, forward, both twice."""
    options, tensors = smooth
    f = call(options, 3)
    assert torch.autograd.gradcheck(f, tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, tensors, check_fwd_over_rev=True)


def test_more_inputs_than_one_backward_launch_has_outputs(make_case):
    """Seven gradients come from two launches, in the groups that dtype and broadcasting make."""
    case = make_case("table", (torch.float64,) * 6, batch=2, shape=(2,), wild=False, n_out=3)
    tensors = [t.requires_grad_() for t in (case.A, *case.T)]
    assert torch.autograd.gradcheck(step(case.options, 7), tensors, check_forward_ad=True)
    tensors = [t.requires_grad_(k in (2, 5, 7)) for k, t in enumerate(t.detach() for t in tensors)]
    assert torch.autograd.gradcheck(step(case.options, 7), tensors)


@pytest.mark.parametrize("call", [step, through_ops])
def test_tangents_of_single_arguments(call, smooth):
    """A silently missing tangent is the trap: each argument alone against a finite difference. The step is
    linear in each, so central differences are exact but for rounding, 1e-16 / h = 1e-10; 1e-8 leaves room for
    values of size 10."""
    options, tensors = smooth
    tensors = [t.detach() for t in tensors]
    f, h = call(options, 3), 1e-6
    for k, t in enumerate(tensors):
        d = torch.randn_like(t)
        with forward_ad.dual_level():
            dual = list(tensors)
            dual[k] = forward_ad.make_dual(t, d)
            got = [forward_ad.unpack_dual(y).tangent for y in f(*dual)]
        plus, minus = list(tensors), list(tensors)
        plus[k], minus[k] = t + h * d, t - h * d
        for g, p, m in zip(got, f(*plus), f(*minus), strict=True):
            assert g is not None
            torch.testing.assert_close(g, (p - m) / (2 * h), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_tangents_in_a_compiled_graph(backend, smooth, same_bits):
    """There Python does not know that a dual level is entered; the tensors do."""
    options, tensors = smooth
    A, x, y, c = (t.detach() for t in tensors)

    def f(x, d):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(step(options, 3)(A, forward_ad.make_dual(x, d), y, c)[0]).tangent

    same_bits(torch.compile(f, fullgraph=True, backend=backend)(x, x.cos()), f(x, x.cos()))


@pytest.mark.parametrize("call", [linear_step, OP])
def test_symbolic_zeros_as_tangents_and_gradients(call):
    x = torch.randn(2, 3, requires_grad=True)
    with forward_ad.dual_level():
        y, = call([forward_ad.make_dual(x, torch._efficientzerotensor(2, 3)), x], torch.ones(1, 2))
        assert (forward_ad.unpack_dual(y).tangent == 0).all()
    y, = call([x], torch.ones(1, 1))
    (g,) = torch.autograd.grad(y, x, torch._efficientzerotensor(2, 3))
    assert (g == 0).all()


def test_no_tangent_without_one():
    with forward_ad.dual_level():
        for call in (linear_step, OP):
            (y,) = call([torch.ones(1, 2)], torch.ones(1, 1))
            assert forward_ad.unpack_dual(y).tangent is None


def test_an_unused_output_and_unwanted_inputs(smooth):
    options, (A, x, y, c) = smooth
    f = step(options, 3)
    (g,) = torch.autograd.grad(f(A.detach(), x, y.detach(), c.detach())[1].sum(), x)
    expected = torch.autograd.grad(f(A, x, y, c)[1].sum(), (A, x, y, c))
    torch.testing.assert_close(g, expected[1], rtol=0, atol=0)
    assert (expected[0][..., 0, :] == 0).all()  # A's rows of the output that nobody used


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_in_low_precision(layout, dtype, make_case):
    """Against float64 on the same numbers. grad_T is a float32 step rounded once: one unit of the dtype.
    grad_A is a float64 sum of float32 products: a few float32 roundings of the largest term."""
    case = make_case(layout, (dtype, torch.float32), batch=3, shape=(40,), parts=8, wild=False, noise=2)
    low = [t.clone().requires_grad_() for t in (case.A, *case.T)]
    high = [t.double().requires_grad_() for t in (case.A, *case.T)]
    options = case.options | {"dtype": torch.float32}
    w = [torch.randn(3, 40) for _ in range(2)]
    got = torch.autograd.grad(step(options, 3)(*low), low, w)
    expected = torch.autograd.grad(
        step(options | {"dtype": torch.float64}, 3)(*high), high, [v.double() for v in w]
    )
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-6, atol=1e-5)
    for g, e, t in zip(got[1:], expected[1:], low[1:], strict=True):
        assert g.dtype == t.dtype
        eps = torch.finfo(t.dtype).eps
        torch.testing.assert_close(g.double(), e, rtol=eps, atol=4 * max(eps, 1e-7))


def test_gradients_are_the_same_bits_on_every_backend(make_case, same_bits):
    for layout in LAYOUTS:
        case = make_case(layout, (torch.float32, torch.bfloat16), wild=False)
        results = []
        for backend in ("cpu", "reference"):
            tensors = [t.clone().requires_grad_() for t in (case.A, *case.T)]
            y = step(case.options, 3, backend)(*tensors)
            results.append(
                torch.autograd.grad([v.sin() for v in y], tensors, [torch.ones_like(v) for v in y])
            )
        for a, b in zip(*results, strict=True):
            same_bits(a, b)


def test_a_coefficient_of_zero_has_a_gradient_and_lets_none_through():
    """d y / d A = T also where A is 0, or a coefficient that starts at 0 could not be learned."""
    x = torch.randn(2, 3, requires_grad=True)
    A = torch.zeros(1, 1, requires_grad=True)
    (y,) = linear_step([x], A)
    gx, gA = torch.autograd.grad(y.sum(), (x, A))
    assert (gx == 0).all()
    # six float32 products by 1, exact, and one rounding of their float64 sum
    torch.testing.assert_close(gA, x.detach().double().sum().float().view(1, 1), rtol=1e-7, atol=0)


def test_noise_has_a_gradient_in_its_scale_and_is_not_stored():
    """sum_e d y_e / d s = sum of the very normals; the graph holds A and T, no noise."""
    rng, x = resolve(3, 2), torch.randn(2, 1000, requires_grad=True)
    A = torch.tensor([[1.0, 0.5]], requires_grad=True)
    (y,) = linear_step([x], A, rng=rng, draws=[7], streams=[40])
    saved = [t for t in y.grad_fn.saved_tensors if t is not None]
    assert sum(t.numel() for t in saved if t.is_floating_point()) == x.numel() + A.numel()
    (g,) = torch.autograd.grad(y.sum(), A)
    xi = normal((2, 1000), 3, stream=40, draw=7).double()
    torch.testing.assert_close(g[0, 1].double(), xi.sum(), rtol=1e-7, atol=0)  # one rounding of a float64 sum


def test_only_what_backward_reads_is_kept():
    x, A = torch.randn(2, 1000, requires_grad=True), torch.ones(1, 1)
    (y,) = linear_step([x], A)
    assert sum(t.numel() for t in y.grad_fn.saved_tensors if t is not None) == 1


# ---- torch.func


def loss(options, n_in=3):
    """Not linear, so that second derivatives are not zero."""
    return lambda A, *T: sum(y.sin().sum() for y in linear_step(list(T[:n_in]), A, **options))


def plain(options, n_in=3):
    """The same in torch's own operations; the noise is taken out of a step whose inputs are zero."""

    def f(A, *T):
        T = [t.expand(2, *t.shape[1:]) for t in T[:n_in]]
        (xi,) = linear_step(
            [torch.zeros_like(T[0].detach())],
            A.new_tensor([[0.0, 1.0]]),
            rng=options["rng"],
            draws=options["draws"],
            streams=options["streams"],
        )
        total = 0
        for j in range(2):
            y = 0
            for i, t in enumerate([*T, xi]):
                a = A[..., j, i]
                if "index" in options:
                    a = a[options["index"].long()].repeat_interleave(
                        t[0].numel() // options["index"].shape[1], 1
                    )
                    a = a.view(t.shape)
                elif A.dim() == 3:
                    a = a.view(-1, *[1] * (t.dim() - 1))
                y = y + a * t
            total = total + y.sin().sum()
        return total

    return f


def close(a, b):
    """float64 sums of a dozen terms of size one in another order: some 1e-15, with room for cancellation."""
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


TRANSFORMS = {
    "grad": lambda f, t: torch.func.grad(f, (0, 1, 3))(*t),
    "vjp": lambda f, t: torch.func.vjp(f, *t)[1](torch.ones((), dtype=torch.float64)),
    "jvp": lambda f, t: torch.func.jvp(f, tuple(t), tuple(x.cos() for x in t)),
    "hessian": lambda f, t: torch.func.hessian(f, (0, 1))(*t),
    "jacrev of grad": lambda f, t: torch.func.jacrev(torch.func.grad(f, (0, 1)), (0, 3))(*t),
    "jacfwd of jacfwd": lambda f, t: torch.func.jacfwd(torch.func.jacfwd(f, 1), 0)(*t),
    "grad of jvp": lambda f, t: torch.func.grad(
        lambda x: torch.func.jvp(lambda v: f(v, *t[1:]), (x,), (x.cos(),))[1]
    )(t[0]),
    "vmap of grad": lambda f, t: torch.vmap(torch.func.grad(f, (0, 1)), in_dims=(0, None, 1, None))(
        torch.stack([t[0], t[0] + 1]), t[1], torch.stack([t[2], 2 * t[2]], 1), t[3]
    ),
    "compiled grad": lambda f, t: torch.compile(
        torch.func.grad(f, (0, 1)), fullgraph=True, backend="aot_eager"
    )(*t),
    "compiled jvp": lambda f, t: torch.compile(
        lambda x: torch.func.jvp(lambda v: f(t[0], v, *t[2:]), (x,), (x.cos(),)),
        fullgraph=True,
        backend="aot_eager",
    )(t[1]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_torch_func(name, smooth):
    options, tensors = smooth
    tensors = [t.detach() for t in tensors]
    close(TRANSFORMS[name](loss(options), tensors), TRANSFORMS[name](plain(options), tensors))


def test_autograd_around_torch_func(smooth):
    """A jvp inside a graph that is then differentiated."""
    options, tensors = smooth

    def outer(f):
        x = tensors[1].detach().requires_grad_()
        _, t = torch.func.jvp(
            lambda v: f(tensors[0].detach(), v, *(t.detach() for t in tensors[2:])), (x,), (x.detach().cos(),)
        )
        return torch.autograd.grad(t, x)

    close(outer(loss(options)), outer(plain(options)))


@pytest.mark.parametrize("batched", ["T", "constant", "A", "rng", "index", "all"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vmap_is_a_loop(layout, batched, make_case, same_bits):
    """Bit for bit: what is not batched is shared, the noise included."""
    if batched == "index" and layout != "group":
        pytest.skip("no index in this layout")
    case = make_case(layout, batch=2, shape=(3, 2), parts=3)
    n, names = 3, ("A", "x", "y", "c", "rng", "index")
    values = [case.A, *case.T, case.options["rng"], case.options.get("index")]
    moved = {"T": ("x",), "constant": ("c",), "all": names}.get(batched, (batched,))
    dims, stacked = [], []
    for k, (name, v) in enumerate(zip(names, values, strict=True)):
        take = name in moved and v is not None
        if take and name == "index":
            many = [v, v.flip(0), v.flip(1)]
        elif take:
            many = [v + i if name == "rng" else v * (i + 1) for i in range(n)]
        d = k % 2 if take else None
        stacked.append(torch.stack(many, d) if take else v)
        dims.append(d)

    def f(A, x, y, c, rng, index):
        return linear_step(
            [x, y, c],
            A,
            index=index,
            rng=rng,
            draws=case.options["draws"],
            streams=case.options["streams"],
            dtype=torch.bfloat16,
        )

    got = torch.vmap(f, in_dims=tuple(dims))(*stacked)
    for i in range(n):
        one = f(*(v if d is None else v.select(d, i) for v, d in zip(stacked, dims, strict=True)))
        for a, b in zip(got, one, strict=True):
            same_bits(a[i], b)
