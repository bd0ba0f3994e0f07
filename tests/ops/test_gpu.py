"""CUDA and Triton against the CPU, bit for bit; the rules of streams and graphs. Skipped where no GPU is."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastdiff import ops
from fastdiff.noise import BrownianPath, resolve, uniform
from fastdiff.noise import normal as draw
from fastdiff.ops import brownian, error_norm, linear_step, normal
from fastdiff.ops._tree import ladder

pytestmark = pytest.mark.gpu
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BACKENDS = ("cuda", "triton", "reference")


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    if request.param not in ops.backends("cuda"):
        pytest.skip(f"no {request.param} backend here")
    return request.param


def both(case, backend, same_bits):
    there = case.to("cuda")
    for a, b in zip(
        linear_step(there.T, there.A, **there.options, backend=backend),
        linear_step(case.T, case.A, **case.options),
        strict=True,
    ):
        assert a.is_cuda
        same_bits(a, b)


@pytest.mark.parametrize("layout", ["table", "sample", "group"])
def test_layouts_and_dtypes(layout, backend, make_case, same_bits):
    for state, network, out in itertools.product(DTYPES, DTYPES, (None, torch.float32, torch.bfloat16)):
        both(make_case(layout, (state, network), out), backend, same_bits)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5,), (31, 7), (64, 64), (4099,), (3, 65536)])
def test_sizes(shape, backend, make_case, same_bits):
    for layout, batch, noise in itertools.product(("table", "sample"), (0, 1, 3), (0, 2)):
        both(
            make_case(layout, (torch.float32, torch.bfloat16), batch=batch, shape=shape, noise=noise),
            backend,
            same_bits,
        )


@pytest.mark.parametrize("n_out", [1, 2, 3, 4])
def test_numbers_of_columns(n_out, backend, make_case, same_bits):
    for n_in, noise in itertools.product((1, 4, 11), (0, 1, 4)):
        both(make_case("sample", (torch.float32,) * n_in, n_out=n_out, noise=noise), backend, same_bits)


def test_fills(backend, same_bits):
    for fill, dtype, shape in itertools.product(
        (draw, uniform), DTYPES, [(), (3,), (257,), (4096,), (100_003,)]
    ):
        same_bits(
            fill((3, *shape), 2**62 + 5, draw=2**32 - 1, dtype=dtype, device="cuda", backend=backend),
            fill((3, *shape), 2**62 + 5, draw=2**32 - 1, dtype=dtype),
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
        ("bernoulli", (0.3,)),
        ("bimodal", (0.6,)),
        *[("student_t", p) for p in ((5.0, 0.0), (0.2, 0.0))],
        *[("multivariate_t", p) for p in ((5.0, 0.0), (0.7, 0.0))],
        *[("gamma", p) for p in ((0.1, 1.0), (3.7, 1.0), (0.3, 0.0), (2.0, 0.0))],
    ],
)
def test_laws(family, parameters, backend, same_bits):
    rng = resolve(2**62 + 5, 3)
    maps = [
        ((100_003,), {}),
        ((64, 64), {}),
        ((2, 96, 96), {"symmetric": 96}),
        ((4, 5), {"offset": 70, "strides": [-9, 2]}),
    ]
    for (shape, options), dtype in itertools.product(maps, DTYPES):
        a, b = (
            ops.noise(
                family, (3, *shape), r, 9, 200, parameters=parameters, dtype=dtype, backend=which, **options
            )
            for r, which in ((rng.cuda(), backend), (rng, "cpu"))
        )
        same_bits(a, b)


def test_moments(backend):
    """5 standard errors of the first four moments of 10^7 normals."""
    n = 10**7
    z = draw((1, n), 31, device="cuda", backend=backend).double()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - mean) < 5 * (variance / n) ** 0.5


def test_outputs_may_overwrite_inputs(backend, make_case, same_bits):
    case = make_case(shape=(1000,), wild=False)
    there = case.to("cuda")
    out = [there.T[1], there.T[0]]
    linear_step(there.T, there.A, **there.options | {"dtype": None}, out=out, backend=backend)
    for a, b in zip(out, linear_step(case.T, case.A, **case.options), strict=True):
        same_bits(a, b)


def test_unaligned_views(backend, same_bits):
    """A view that starts inside its memory cannot be read 128 bits at a time."""
    x = torch.randn(4 * 64 + 1, device="cuda")
    A = torch.tensor([[0.5]], device="cuda")
    for offset in (0, 1):
        view = x[offset : offset + 256].view(4, 64)
        same_bits(linear_step([view], A, backend=backend)[0], 0.5 * view)


def test_gradients(backend, make_case, same_bits):
    """grad_T bit for bit. grad_A is a float64 sum in another order, rounded to float32: 1e-6 of its size."""
    for layout in ("table", "sample", "group"):
        case = make_case(layout, (torch.float32, torch.bfloat16), wild=False)
        results = []
        for where in (case, case.to("cuda")):
            tensors = [t.clone().requires_grad_() for t in (where.A, *where.T)]
            y = linear_step(
                tensors[1:], tensors[0], **where.options, backend=None if where is case else backend
            )
            results.append(torch.autograd.grad(y, tensors, [torch.ones_like(v) for v in y]))
        torch.testing.assert_close(results[1][0].cpu(), results[0][0], rtol=1e-6, atol=1e-6)
        for a, b, t in zip(results[1][1:], results[0][1:], case.T, strict=True):
            if t.shape[0] == 1:  # summed over the batch
                torch.testing.assert_close(a.cpu(), b, rtol=1e-6, atol=1e-6)
            else:
                same_bits(a, b)


def test_compile_opcheck_func(same_bits, make_case):
    case = make_case("sample", wild=False).to("cuda")
    o = case.options
    torch.library.opcheck(
        torch.ops.fastdiff.linear_step.default, (case.T, case.A, None, o["rng"], o["draws"], o["streams"])
    )

    def f(x):
        return linear_step([x, *case.T[1:]], case.A, **o)[0]

    same_bits(torch.compile(f, fullgraph=True)(case.T[0]), f(case.T[0]))
    same_bits(torch.vmap(f)(torch.stack([case.T[0]] * 2))[1], f(case.T[0]))
    assert torch.func.grad(lambda x: f(x).sum())(case.T[0]).is_cuda


def test_runs_on_the_current_stream(backend):
    """The step waits for the work before it on its own stream; 20 ms of that show a launch on another one."""
    A, stream = torch.tensor([[2.0]], device="cuda"), torch.cuda.Stream()
    x = torch.zeros(1, 1 << 20, device="cuda")
    linear_step([x], A, backend=backend)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(40_000_000)
        x.fill_(3.0)
        (y,) = linear_step([x], A, backend=backend)
    stream.synchronize()
    assert (y == 6).all()


def test_a_graph_advances_its_noise_without_a_new_capture(backend, same_bits):
    """The draw base lies in rng on the device: two replays differ, and each is the eager step of its draw."""
    if backend == "reference":
        pytest.skip("the reference allocates, which a graph may but need not like")
    x, A = torch.randn(2, 1000, device="cuda"), torch.tensor([[1.0, 0.5]], device="cuda")
    rng, out = resolve(3, 2, "cuda"), [torch.empty(2, 1000, device="cuda")]
    linear_step([x], A, rng=rng, draws=[0], streams=[0], out=out, backend=backend)  # loads the kernel
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        linear_step([x], A, rng=rng, draws=[0], streams=[0], out=out, backend=backend)
    for k in range(3):
        graph.replay()
        same_bits(out[0], linear_step([x.cpu()], A.cpu(), rng=resolve(3, 2), draws=[k], streams=[0])[0])
        rng[:, 2] += 1


def test_no_wait_for_the_device(backend, make_case):
    """Neither a step nor its backward copies from the device or waits for it."""
    if backend == "reference":
        pytest.skip("measured for the kernels")
    case = make_case("group", (torch.float32,) * 6, wild=False).to("cuda")
    tensors = [t.clone().requires_grad_() for t in (case.A, *case.T)]

    def run():
        y = linear_step(tensors[1:], tensors[0], **case.options, backend=backend)
        torch.autograd.grad(y[1:], tensors, [torch.ones_like(v) for v in y[1:]])
        normal((3, 30), case.options["rng"], backend=backend)

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", ["plain", "levy", "clock"])
def test_brownian_increments(kind, backend, same_bits):
    """Rows of increments with boundaries on either device, and each sample's own intervals."""
    levy, at = kind == "levy", torch.tensor([0, 3, 4, 5, 17, 40, 64])
    for n, (shape, dtype) in enumerate(
        itertools.product([(), (3,), (4096,), (3, 1001)], DTYPES if backend != "reference" else DTYPES[:1])
    ):
        rng, g = resolve(2**62 + n, 3), torch.Generator().manual_seed(n)
        rows = len(ladder(tuple(at.tolist()), 6).node) + 1
        coefs = torch.rand(rows, 3, generator=g) if kind == "clock" else None
        scale = torch.rand((2, 6) if levy else (6,), generator=g)
        expected = brownian((3, *shape), rng, at, 6, levy, coefs, scale, dtype=dtype)
        there = [None if t is None else t.cuda() for t in (rng, coefs, scale)]
        for boundaries in (at,) if kind == "clock" else (at, at.cuda()):
            got = brownian(
                (3, *shape), there[0], boundaries, 6, levy, *there[1:], dtype=dtype, backend=backend
            )
            for a, b in zip(got, expected, strict=True):
                assert a.is_cuda
                same_bits(a, b)
        if kind == "clock":
            continue
        own = torch.tensor([[0, 2**30], [5, 5], [2**29 - 7, 2**29 + 9]])
        expected = brownian((3, *shape), rng, own, 30, levy, dtype=dtype)
        got = brownian((3, *shape), rng.cuda(), own.cuda(), 30, levy, dtype=dtype, backend=backend)
        for a, b in zip(got, expected, strict=True):
            same_bits(a, b)


def test_brownian_intervals_outside_give_nan(backend):
    own = torch.tensor([[0, 4], [-1, 3], [3, 2], [0, 17]], device="cuda")
    (W,) = brownian((4, 3), resolve(0, 4, "cuda"), own, 4, backend=backend)
    assert W.isnan().all(-1).tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("levy", [False, True])
@pytest.mark.parametrize("snap", [False, True])
def test_brownian_path(levy, snap, backend, same_bits):
    there, here = (
        BrownianPath((3, 33), 5, 0.0, 2.0, depth=8, levy=levy, snap=snap, device=d, backend=b)
        for d, b in (("cuda", backend), ("cpu", None))
    )
    t = torch.tensor([0.1, 1.7, 2.0])
    for a, b in (
        (there.increment(0.3, 1.9), here.increment(0.3, 1.9)),
        (there.increment(0.3, t.cuda()), here.increment(0.3, t)),
        (there.increments([2.0, 0.5, 0.1]), here.increments([2.0, 0.5, 0.1])),
        (there.increments(t.cuda()), here.increments(t)),
    ):
        for v, w in zip(a if levy else (a,), b if levy else (b,), strict=True):
            same_bits(v, w)


def test_brownian_in_a_graph_with_its_times_on_the_device(backend, same_bits):
    """Nothing waits or allocates on the host: a replay takes the times that lie there then."""
    if backend == "reference":
        pytest.skip("measured for the kernels")
    path = BrownianPath((2, 100), 1, 0.0, 1.0, device="cuda", backend=backend)
    s, t = (torch.tensor(x, device="cuda") for x in ([0.1, 0.6], [0.5, 0.3]))
    path.increment(s, t)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        path.increment(s, t)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x = path.increment(s, t)
    host = BrownianPath((2, 100), 1, 0.0, 1.0)
    for _ in range(2):
        graph.replay()
        same_bits(x, host.increment(s.cpu(), t.cpu()))
        t += 0.125


def test_tensors_on_two_devices_are_refused():
    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"T\[1\] is on c"):
        linear_step([x, x.cuda()], torch.ones(1, 2))
    with pytest.raises(ValueError, match="A is on cpu"):
        linear_step([x.cuda()], torch.ones(1, 1))
    with pytest.raises(
        ValueError, match="backend='cpu' is not available: it takes CPU tensors, these are on cuda"
    ):
        linear_step([x.cuda()], torch.ones(1, 1, device="cuda"), backend="cpu")


@pytest.mark.parametrize("norm", ["rms", "max"])
def test_error_norms(norm, backend, same_bits):
    for dtypes, shape in itertools.product(
        ((torch.float32, torch.bfloat16), (torch.float16, torch.float32), (torch.float64, torch.float32)),
        [(), (3,), (1024,), (31, 77), (300_003,)],
    ):
        a, b, *E = (torch.randn(3, *shape).to(d) for d in (dtypes[0], dtypes[0], *dtypes))
        C = torch.randn(3, 2, dtype=torch.float64 if torch.float64 in dtypes else torch.float32)
        C[1, 0] = 0.0
        there = error_norm(
            [t.cuda() for t in E],
            a.cuda(),
            b.cuda(),
            atol=0.01,
            rtol=0.05,
            C=C.cuda(),
            norm=norm,
            backend=backend,
        )
        assert there.is_cuda
        same_bits(there, error_norm(E, a, b, atol=0.01, rtol=0.05, C=C, norm=norm))
