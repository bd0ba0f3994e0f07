"""brownian: the published vectors, rows of increments against single ones, and the same bits everywhere."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastdiff import _C
from fastdiff.noise import Seeds, resolve
from fastdiff.ops import _reference, brownian, normal
from fastdiff.ops._tree import ladder

# depth 12, cells 3 .. 10, seed 99, sample 3, elements 0 .. 7: spec/losses-and-dynamics.md 1.6
VECTORS = {
    True: (
        "bc53f2e4 bcc67ada bdca76b9 bd2ed06a bd29646d 3c4e9fcf bdc0b20a bd0bea99",
        "b638930f b7c91fb8 b802c6cc 36eeb168 3847222d 36baecde 36ab6f1a b7be256e",
    ),
    False: ("bc19af3e bd362bf6 3c41627a 3d15b5dd bcc74024 bcd0fd78 bcdece32 bd313620",),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def bits(x: torch.Tensor) -> str:
    return " ".join(f"{v & 0xFFFFFFFF:08x}" for v in x.view(torch.int32).tolist())


def boundaries(depth: int, K: int, seed: int = 0) -> torch.Tensor:
    """K + 1 cells, some runs of neighbours among them; every third set has both ends of the path."""
    g = torch.Generator().manual_seed(seed)
    N = 2**depth
    wide = torch.randint(N + 1, (2 * K,), generator=g)
    at = torch.cat([wide, (wide[:K] + 1).clamp(max=N), torch.tensor([0, N] if seed % 3 == 0 else [])]).long()
    at = at.unique()
    return at[torch.randperm(len(at), generator=g)[: K + 1].sort().values]


@pytest.fixture(params=["reference", *_C.isas()])
def backend(request, isa) -> str:
    """The reference, and the CPU kernels at each instruction set."""
    if request.param == "reference":
        return "reference"
    isa(request.param)
    return "cpu"


@pytest.mark.parametrize("levy", [False, True])
def test_published_vectors(levy, backend, threads):
    rng = resolve(Seeds(99, [3]), 1)
    rng[0, 2] = 17  # the draw base does not count
    for n in (1, 2):
        threads(n)
        for at in ([3, 10], [0, 3, 10, 11, 4096]):
            got = brownian((1, 8), rng, torch.tensor(at), 12, levy, backend=backend)
            assert tuple(bits(v[at.index(3), 0]) for v in got) == VECTORS[levy]
        got = brownian((1, 8), rng, torch.tensor([[3, 10]]), 12, levy, backend=backend)
        assert tuple(bits(v[0, 0]) for v in got) == VECTORS[levy]


@pytest.mark.parametrize("kind", ["plain", "levy", "clock"])
def test_reference_and_cpu_agree(kind, isa, same_bits):
    cases = [(1, 2, ()), (3, 8, (3,)), (5, 7, (2, 6)), (7, 4, (9,)), (16, 2, (5,)), (30, 1, (4,))]
    for n, (depth, K, shape) in enumerate(cases):
        at, rng, g = boundaries(depth, K, n), resolve(Seeds(2**62 + 1, [0, 2**40 + 3]), 2), torch.Generator()
        K, levy = len(at) - 1, kind == "levy"
        rows = len(ladder(tuple(at.tolist()), depth).node) + 1
        coefs = torch.rand(rows, 3, generator=g) if kind == "clock" else None
        scale = torch.rand((2, K) if levy else (K,), generator=g) if n % 2 else None
        options = {"dtype": DTYPES[n % 4], "coefs": coefs, "scale": scale}
        expected = brownian((2, *shape), rng, at, depth, levy, backend="reference", **options)
        for name in _C.isas():
            isa(name)
            for a, b in zip(
                brownian((2, *shape), rng, at, depth, levy, backend="cpu", **options), expected, strict=True
            ):
                same_bits(a, b)


@pytest.mark.parametrize("levy", [False, True])
def test_sizes_and_dtypes(levy, isa, same_bits):
    """Tiles, tails and samples of any length; float16, bfloat16 and float64 are the float32 value rounded."""
    at, rng = torch.tensor([0, 5, 6, 13]), resolve(4, 3)
    whole = brownian((3, 8192), rng, at, 4, levy, backend="reference")
    for name, shape in itertools.product(_C.isas(), [(0,), (1,), (5, 7), (2051,), (8192,)]):
        isa(name)
        single = brownian((3, *shape), rng, at, 4, levy, backend="cpu")
        for a, b in zip(single, whole, strict=True):
            same_bits(a.flatten(2), b[..., : a[0, 0].numel()])
        for dtype in DTYPES:
            for a, b in zip(brownian((3, *shape), rng, at, 4, levy, dtype=dtype), single, strict=True):
                same_bits(a, b.to(dtype))


@pytest.mark.parametrize("levy", [False, True])
def test_threads_do_not_matter(levy, threads, same_bits):
    rng, at = resolve(1, 3), boundaries(16, 9)
    own = torch.tensor([[0, 65536], [1, 65535], [300, 301]])
    for intervals in (at, own):
        threads(1)
        one = brownian((3, 30_001), rng, intervals, 16, levy)
        threads(2)
        for a, b in zip(one, brownian((3, 30_001), rng, intervals, 16, levy), strict=True):
            same_bits(a, b)


@pytest.mark.parametrize("levy", [False, True])
@pytest.mark.parametrize(("depth", "K"), [(1, 2), (4, 16), (6, 20), (16, 20), (30, 12)])
def test_a_row_of_increments_is_the_single_ones(depth, K, levy, same_bits):
    rng = resolve(6, 2)
    for seed in range(6):
        at = boundaries(depth, K, seed)
        row = brownian((2, 5), rng, at, depth, levy)
        for k in range(len(at) - 1):
            for a, b in zip(row, brownian((2, 5), rng, at[k : k + 2], depth, levy), strict=True):
                same_bits(a[k], b[0])


@pytest.mark.parametrize("levy", [False, True])
def test_own_intervals_are_the_shared_ones(levy, backend, same_bits):
    rng = resolve(7, 5)
    at = torch.tensor([[0, 1024], [3, 10], [7, 7], [1024, 1024], [511, 1000]])
    scale = torch.rand((2, 5) if levy else (5,))
    got = brownian((5, 6), rng, at, 10, levy, None, scale, backend=backend)
    for b in range(5):
        for v, own in enumerate(got):
            if at[b, 0] == at[b, 1]:
                assert (own[0, b] == 0).all()
                continue
            s = scale[..., b : b + 1]
            same_bits(own[0, b], brownian((1, 6), rng[b : b + 1], at[b], 10, levy, None, s)[v][0, 0])


def test_a_sample_depends_on_its_seed_and_id_alone(same_bits):
    at = boundaries(10, 5)
    x = brownian((4, 6, 5), resolve(3, 4), at, 10)[0]
    order = [3, 1, 0, 2]
    same_bits(x[:, order], brownian((4, 6, 5), resolve(Seeds(3, order), 4), at, 10)[0])
    same_bits(x[:, 2:3], brownian((1, 30), resolve(Seeds(3, [2]), 1), at, 10)[0].view(-1, 1, 6, 5))
    deeper = brownian((4, 6, 5), resolve(3, 4), at * 2**7, 17)[0]
    same_bits(x, deeper)  # finer cells are below what the coarse ones ask for


def test_the_root_is_the_normal_of_node_0(backend, same_bits):
    rng, at = resolve(8, 3), torch.tensor([0, 2**16])
    same_bits(brownian((3, 7), rng, at, backend=backend)[0][0], normal((3, 7), rng, 0, 16))
    W, H = brownian((3, 7), rng, at, levy=True, backend=backend)
    same_bits(W[0], normal((3, 7), rng, 0, 16))
    same_bits(H[0], normal((3, 7), rng, 0, 17) * 12**-0.5)


def test_every_divided_node_is_halved_once():
    """All boundaries of a tree divide all its 2^d - 1 nodes; one boundary those above it."""
    for depth in range(1, 9):
        steps = ladder(tuple(range(2**depth + 1)), depth)
        assert sorted(steps.node.tolist()) == list(range(1, 2**depth))
        assert ladder((0, 1), depth).node.tolist() == [2**k for k in range(depth)]
    steps = ladder((0, 5, 2**16), 16)
    assert (steps.lo < 5).all() and (steps.hi > 5).all() and len(steps.node) == 16
    assert [own.tolist() for own in steps.own] == [list(range(17))] * 2


def test_chen(backend):
    """W and H-bar of an interval from those of two parts; float32 sums of numbers of size 1: 1e-6."""
    rng, (a, b, c), N = resolve(9, 2), (37, 300, 901), 1024
    W, H = brownian((2, 50), rng, torch.tensor([a, b, c]), 10, True, backend=backend)
    V, G = brownian((2, 50), rng, torch.tensor([a, c]), 10, True, backend=backend)
    d1, d2 = (b - a) / N, (c - b) / N
    torch.testing.assert_close(W[0] + W[1], V[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(H[0] + H[1] + (d2 * W[0] - d1 * W[1]) / 2, G[0], rtol=0, atol=1e-6)


def test_intervals_nobody_may_look_at_give_nan():
    at = torch.tensor([[0, 4], [-1, 3], [3, 2], [0, 17]])
    out = [torch.empty(1, 4, 3)]
    _reference.brownian_(out, resolve(0, 4), at, 4, None, None)
    assert out[0].isnan().all(-1).tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("levy", [False, True])
def test_opcheck_vmap_compile(levy, same_bits):
    rng, at = resolve(4, 3), torch.tensor([0, 3, 9])
    op, scale = torch.ops.fastdiff.brownian.default, torch.rand((2, 2) if levy else (2,))
    torch.library.opcheck(op, ([3, 5], rng, at, 4, levy, None, scale), {"dtype": torch.bfloat16})
    own = torch.tensor([[0, 3], [2, 2], [1, 16]])
    torch.library.opcheck(op, ([3, 5], rng, own, 4, levy, None, None), {"dtype": torch.float32})

    def f(r, a):
        return brownian((3, 5), r, a, 4, levy)

    seeds = torch.stack([rng, rng + torch.tensor([0, 5, 1])])
    intervals = torch.stack([own, own.clamp(max=2)])
    for dims, args in (((0, None), (seeds, at)), ((0, 0), (seeds, intervals)), ((None, 0), (rng, intervals))):
        got = torch.vmap(f, dims)(*args)
        for n in range(2):
            one = f(*(a[n] if d == 0 else a for a, d in zip(args, dims, strict=True)))
            for a, b in zip(got, one, strict=True):
                same_bits(a[n], b)
    with pytest.raises(ValueError, match="vmap over at; it is shared"):
        torch.vmap(f, (None, 0))(rng, torch.stack([at, at]))
    for a, b in zip(torch.compile(f, fullgraph=True, backend="aot_eager")(rng, at), f(rng, at), strict=True):
        same_bits(a, b)
    assert f(rng.to("meta"), at.to("meta"))[0].device.type == "meta"


def test_no_derivative():
    rng, at = resolve(4, 2), torch.tensor([0, 3, 16])
    scale = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="not differentiable"):
        brownian((2, 3), rng, at, 4, scale=scale)
    with pytest.raises(ValueError, match="not differentiable"):
        torch.func.grad(lambda s: brownian((2, 3), rng, at, 4, scale=s)[0].sum())(scale.detach())
    with torch.no_grad():
        brownian((2, 3), rng, at, 4, scale=scale)


AT = torch.tensor([0, 3, 16])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": ()}, r"shape is \(\); \(B, \*\)"),
        ({"shape": (2, -1)}, r"shape is \(2, -1\); sizes"),
        ({"rng": torch.zeros(2, 2, dtype=torch.int64)}, r"rng has shape \(2, 2\)"),
        ({"at": AT.int()}, "at is torch.int32; int64"),
        ({"at": AT[:1]}, r"at has shape \(1,\); \(K \+ 1,\)"),
        ({"at": torch.zeros(3, 2, dtype=torch.int64)}, r"at has shape \(3, 2\)"),
        ({"at": torch.tensor([0, 5, 5])}, r"at holds the interval 5 \.\. 5; 0 <= from < to <= 2\^4"),
        ({"at": torch.tensor([0, 17])}, r"at holds the interval 0 \.\. 17"),
        ({"at": torch.tensor([-1, 3])}, r"at holds the interval -1 \.\. 3"),
        ({"at": torch.tensor([[0, 3], [4, 3]])}, r"interval 4 \.\. 3; 0 <= from <= to"),
        ({"depth": 0}, r"depth is 0; 1 \.\. 30"),
        ({"depth": 31}, r"depth is 31; 1 \.\. 30"),
        ({"dtype": torch.int32}, "dtype is torch.int32"),
        ({"coefs": torch.ones(5, 2)}, r"coefs is torch.float32 \(5, 2\); float32 \(n, 3\)"),
        ({"coefs": torch.ones(2, 3)}, r"coefs has 2 rows; these boundaries need 5"),
        ({"coefs": torch.ones(5, 3), "levy": True}, "coefs are given with levy"),
        ({"coefs": torch.ones(5, 3), "at": torch.tensor([[0, 3]] * 2)}, r"coefs are given with \(B, 2\)"),
        ({"scale": torch.ones(3)}, r"scale is torch.float32 \(3,\); float32 \(2,\)"),
        ({"scale": torch.ones(2).double()}, r"scale is torch.float64 \(2,\)"),
        ({"scale": torch.ones(2), "levy": True}, r"float32 \(2, 2\)"),
        ({"backend": "numpy"}, "backend='numpy' is unknown"),
    ],
)
def test_errors_at_the_door(change, words):
    arguments = {"shape": (2, 3), "rng": resolve(0, 2), "at": AT, "depth": 4} | change
    for backend in ("cpu", "reference"):
        with pytest.raises(ValueError, match=f"brownian: .*{words}|{words}"):
            brownian(**{"backend": backend} | arguments)


def test_wrong_types_at_the_door():
    rng = resolve(0, 2)
    for arguments in (("a", rng, AT), ((2,), rng, [0, 1]), ((2,), rng, AT, 4.0), ((2,), rng, AT, 4, 1)):
        with pytest.raises(TypeError, match="brownian: "):
            brownian(*arguments)
    with pytest.raises(ValueError, match=r"out\[1\] shares memory"):
        y = torch.empty(2, 2, 3)
        _C.brownian_([y, y], rng, AT, 4, None, None)
