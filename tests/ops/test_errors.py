"""What is wrong is said at the call (argument, what came, what is allowed), on every way to a kernel."""

from __future__ import annotations

import pytest
import torch

from fastdiff.noise import resolve
from fastdiff.ops import linear_step, linear_step_, normal, uniform

X = torch.ones(4, 6)
A2 = torch.ones(2, 2)
RNG = resolve(0, 4)
NOISE = {"rng": RNG, "draws": [0], "streams": [0]}
GROUPS = torch.ones(3, 2, 2)


def index(*shape: int, value: int = 0, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.full(shape, value, dtype=dtype)


# (T, A, options), the error and its words
V, TE = ValueError, TypeError
BAD = {
    "T a tensor": ((X, A2, {}), TE, "T must be a list of tensors, got Tensor"),
    "T empty": (([], A2, {}), V, r"T has 0 tensors; 1 \.\. 12"),
    "T too many": (([X] * 13, torch.ones(1, 13), {}), V, r"T has 13 tensors; 1 \.\. 12"),
    "T None": (([X, None], A2, {}), TE, r"T\[1\] must be a torch.Tensor, got NoneType"),
    "T number": (([X, 1.0], A2, {}), TE, r"T\[1\] must be a torch.Tensor, got float"),
    "T int": (([X, X.int()], A2, {}), V, r"T\[1\] is torch.int32; float32, float16, bfloat16 or float64"),
    "T complex": (([X, X.to(torch.complex64)], A2, {}), V, r"T\[1\] is torch.complex64"),
    "T scalar": (
        ([X[0, 0], X[0, 0]], A2, {}),
        V,
        r"T\[0\] has no dimension; the first one counts the samples",
    ),
    "T shape": (([X, torch.ones(4, 5)], A2, {}), V, r"T\[1\] has shape \(4, 5\); samples must be alike"),
    "T batch": (([X, torch.ones(3, 6)], A2, {}), V, r"T\[1\] has 3 samples; 4 like the others, or 1"),
    "T sparse": (([X, X.to_sparse()], A2, {}), V, r"T\[1\] has layout torch.sparse_coo; dense"),
    "T nested": (([torch.nested.nested_tensor([X, X[:2]])], A2[:, :1], {}), V, r"T\[0\] is a nested tensor"),
    "T device": (([X, X.to("meta")], A2, {}), V, r"T\[1\] is on meta; T\[0\] is on cpu"),
    "A list": (([X, X], [[1.0, 2.0]], {}), TE, "A must be a torch.Tensor, got list"),
    "A int": (([X, X], A2.int(), {}), V, r"A is torch.int32; float32 \(float64 only where"),
    "A double": (([X, X], A2.double(), {}), V, r"A is torch.float64; float32 \(float64 only where"),
    "A half": (([X.double(), X], A2.half(), {}), V, "A is torch.float16; float32 or float64"),
    "A columns": (([X, X], torch.ones(2, 3), {}), V, r"A has shape \(2, 3\); allowed: \(n_out, 2\)"),
    "A no noise column": (([X, X], A2, NOISE), V, r"A has shape \(2, 2\); allowed: \(n_out, 3\)"),
    "A rows": (([X, X], torch.ones(5, 2), {}), V, r"A has 5 rows; 1 \.\. 4 outputs"),
    "A no rows": (([X, X], torch.ones(0, 2), {}), V, r"A has 0 rows; 1 \.\. 4 outputs"),
    "A vector": (([X, X], torch.ones(2), {}), V, r"A has shape \(2,\); allowed"),
    "A samples": (
        ([X, X], torch.ones(3, 2, 2), {}),
        V,
        r"A has shape \(3, 2, 2\); allowed: .*\(4, n_out, 2\)",
    ),
    "A device": (([X, X], A2.to("meta"), {}), V, "A is on meta; T is on cpu"),
    "index dtype": (
        ([X, X], GROUPS, {"index": index(4, 2, dtype=torch.int64)}),
        V,
        "index is torch.int64; int32",
    ),
    "index shape": (([X, X], GROUPS, {"index": index(3, 2)}), V, r"index has shape \(3, 2\); \(1 or 4, K\)"),
    "index vector": (([X, X], GROUPS, {"index": index(4)}), V, r"index has shape \(4,\); \(1 or 4, K\)"),
    "index parts": (([X, X], GROUPS, {"index": index(4, 4)}), V, "index has K = 4; K must divide 6"),
    "index too large": (
        ([X, X], GROUPS, {"index": index(4, 2, value=3)}),
        V,
        r"names groups 3 \.\. 3; A has groups 0 \.\. 2",
    ),
    "index negative": (
        ([X, X], GROUPS, {"index": index(4, 2, value=-1)}),
        V,
        r"names groups -1 \.\. -1; A has groups",
    ),
    "index without groups": (([X, X], A2, {"index": index(4, 2)}), V, r"with an index it is \(G, n_out, 2\)"),
    "index list": (([X, X], GROUPS, {"index": [[0, 1]]}), TE, "index must be a torch.Tensor, got list"),
    "rng missing": (([X], A2, NOISE | {"rng": None}), V, "rng is None; 1 noise columns need it"),
    "rng dtype": (([X], A2, NOISE | {"rng": RNG.float()}), V, "rng is torch.float32; int64"),
    "rng batch": (([X], A2, NOISE | {"rng": RNG[:2]}), V, r"rng has shape \(2, 3\); \(B, 3\) .* with B = 4"),
    "rng width": (([X], A2, NOISE | {"rng": RNG[:, :2]}), V, r"rng has shape \(4, 2\); \(B, 3\)"),
    "rng device": (
        ([X], A2, NOISE | {"rng": RNG.to("meta")}),
        V,
        "rng is on meta; must be on the tensors' device cpu",
    ),
    "draws alone": (([X], A2, {"rng": RNG, "draws": [0]}), V, "draws and streams have lengths 1 and 0"),
    "draws too many": (
        ([X], torch.ones(1, 6), NOISE | {"draws": [0] * 5, "streams": [0] * 5}),
        V,
        "at most 4",
    ),
    "draw large": (
        ([X], A2, NOISE | {"draws": [2**63]}),
        V,
        r"draws\[0\] is 9223372036854775808; an int of 64 bits",
    ),
    "draw float": (
        ([X], A2, NOISE | {"draws": [1.5]}),
        TE,
        r"draws\[0\] and streams\[0\] must be ints, got 1.5",
    ),
    "draws an int": (([X], A2, NOISE | {"draws": 3}), TE, "draws must be a list of ints, got int"),
    "stream large": (([X], A2, NOISE | {"streams": [256]}), V, r"streams\[0\] is 256; 0 \.\. 255"),
    "stream negative": (([X], A2, NOISE | {"streams": [-1]}), V, r"streams\[0\] is -1; 0 \.\. 255"),
    "dtype": (
        ([X, X], A2, {"dtype": torch.int32}),
        V,
        "dtype is torch.int32; float32, float16, bfloat16 or float64",
    ),
    "scale": (
        ([X, X], A2, {"scale": X}),
        V,
        r"`scale` \(a tensor on the noise\) is reserved and not built yet",
    ),
    "mask": (([X, X], A2, {"mask": X}), V, "`mask` .* is reserved and not built yet"),
    "keep": (([X, X], A2, {"keep": X}), V, "`keep` .* is reserved and not built yet"),
    "family": (([X, X], A2, {"family": "uniform"}), V, "`family` .* is reserved and not built yet"),
    "epilogue": (([X, X], A2, {"epilogue": "clamp"}), V, "`epilogue` .* is reserved and not built yet"),
    "backend": (
        ([X, X], A2, {"backend": "numpy"}),
        V,
        "backend='numpy' is unknown; it is one of cpu, cuda, triton, reference",
    ),
}


@pytest.mark.parametrize("way", ["cpu", "reference", "grad"])
@pytest.mark.parametrize("name", BAD)
def test_bad_steps(name, way):
    (T, A, options), error, words = BAD[name]
    if way == "grad" and isinstance(T, list) and T and isinstance(T[0], torch.Tensor) and not T[0].is_nested:
        T = [T[0].clone().requires_grad_(), *T[1:]]
    if way == "reference":
        options = {"backend": "reference"} | options
    with pytest.raises(error, match=words) as caught:
        linear_step(T, A, **options)
    assert str(caught.value).startswith("linear_step: ")


# not: types and 64-bit ranges, which the schema sees first; values in an index, which a fake tensor has not
TRACED = [
    n
    for n, (_, error, _) in BAD.items()
    if error is V
    and n not in ("T nested", "T sparse", "draw large", "backend", "index too large", "index negative")
]


@pytest.mark.parametrize("name", TRACED)
def test_bad_steps_on_fake_tensors(name):
    """The fake kernel is a gate too: no kernel runs, and the words are the same."""
    (T, A, options), _, words = BAD[name]
    mode = torch._subclasses.FakeTensorMode()

    def fake(v):
        return mode.from_tensor(v) if isinstance(v, torch.Tensor) else v

    with (
        pytest.raises((ValueError, RuntimeError), match=words if "device" not in name else "meta|device"),
        mode,
    ):
        linear_step([fake(t) for t in T], fake(A), **{k: fake(v) for k, v in options.items()})


BAD_OUT = {
    "count": ([torch.ones(4, 6)], "out has 1 tensors; A has 2 rows"),
    "shape": ([torch.ones(4, 6), torch.ones(4, 5)], r"out\[1\] is \(4, 5\) torch.float32 on cpu; \(4, 6\)"),
    "dtype": ([torch.ones(4, 6), torch.ones(4, 6).half()], r"out\[1\] is \(4, 6\) torch.float16"),
    "int": ([torch.ones(4, 6).int(), torch.ones(4, 6).int()], "dtype is torch.int32"),
    "strides": ([torch.ones(4, 6), torch.ones(6, 4).t()], r"out\[1\] has strides \(1, 4\); contiguous"),
    "twice": ([X, X], r"out\[1\] (is given twice|shares memory)"),
    "device": ([torch.ones(4, 6), torch.ones(4, 6, device="meta")], r"out\[1\] is .* on meta"),
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", BAD_OUT)
def test_bad_outputs(name, backend):
    out, words = BAD_OUT[name]
    before = [o.clone() for o in out]
    with pytest.raises(ValueError, match=words):
        linear_step_([X, X], A2, out, backend=backend)
    assert all(a.device.type == "meta" or torch.equal(a, b) for a, b in zip(out, before, strict=True))


def test_out_and_dtype_disagree():
    with pytest.raises(
        ValueError, match=r"out\[0\] is \(4, 6\) torch.float32 on cpu; \(4, 6\) torch.float16"
    ):
        linear_step([X, X], A2, out=[torch.ones(4, 6), torch.ones(4, 6)], dtype=torch.float16)


def test_out_is_no_list():
    with pytest.raises(TypeError, match="T and out must be lists of tensors"):
        linear_step_([X, X], A2, X)


def shifted(x, offset):
    return x.view(-1)[offset : offset + 24].view(4, 6)


def test_out_overlaps_an_input_in_part():
    """Each element is read before it is written only where input and output are the same elements."""
    both = torch.ones(48)
    with pytest.raises(ValueError, match="shares memory"):
        linear_step_([shifted(both, 0)], torch.ones(1, 1), [shifted(both, 1)])


def refused(call):
    with pytest.raises(ValueError, match="`out` cannot carry a derivative"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda T, A, out: linear_step_(T, A, out),
        lambda T, A, out: linear_step(T, A, out=out),
        lambda T, A, out: torch.ops.fastdiff.linear_step_(T, A, out=out),
    ],
)
def test_no_derivative_through_out(call):
    """In reverse mode, in forward mode and in torch.func; without a derivative wanted it runs."""

    def out():
        return [torch.empty(4, 6), torch.empty(4, 6)]

    refused(lambda: call([X.clone().requires_grad_(), X], A2, out()))
    refused(lambda: call([X, X], A2.clone().requires_grad_(), out()))
    refused(lambda: call([X, X], A2, [o.requires_grad_() for o in out()]))
    refused(lambda: torch.func.grad(lambda x: call([x, X], A2, out()))(X))
    refused(lambda: torch.func.jvp(lambda x: call([x, X], A2, out()), (X,), (X,)))
    with torch.autograd.forward_ad.dual_level():
        refused(lambda: call([torch.autograd.forward_ad.make_dual(X, X), X], A2, out()))
    with pytest.raises(ValueError, match="torch.vmap cannot write into `out`"):
        torch.vmap(lambda x: call([x, x], A2, out()))(torch.ones(2, 4, 6))
    with torch.no_grad():
        call([X.clone().requires_grad_(), X], A2, out())


@pytest.mark.parametrize(
    "op",
    [torch.ops.fastdiff.linear_step, lambda *a, **k: torch.ops.fastdiff.linear_step_(*a, **k, out=[X, X])],
)
def test_reserved_arguments_of_the_raw_ops(op):
    for T in ([X, X], [X.clone().requires_grad_(), X], [X.to("meta")] * 2):
        for name, value in {
            "scale": X,
            "mask": X,
            "keep": X,
            "family": "student-t",
            "epilogue": "fold",
        }.items():
            with pytest.raises(ValueError, match=f"`{name}` .* is reserved|`out` cannot carry"):
                op(T, A2.to(T[0].device), **{name: value})


def test_unavailable_backends_say_why():
    for call in (
        lambda b: linear_step([X, X], A2, backend=b),
        lambda b: linear_step_([X, X], A2, [X.clone(), X.clone()], backend=b),
        lambda b: normal((4, 3), RNG, backend=b),
    ):
        with pytest.raises(
            ValueError,
            match="backend='cuda' is not available: (fastdiff was built without|it takes CUDA tensors)",
        ):
            call("cuda")
        with pytest.raises(
            ValueError,
            match="backend='triton' is not available: (triton is not installed|it takes CUDA tensors)",
        ):
            call("triton")
    for wrapped in (
        torch.vmap(lambda x: linear_step([x, x], A2, backend="reference")[0]),
        torch.func.grad(lambda x: linear_step([x, x], A2, backend="reference")[0].sum()),
    ):
        with pytest.raises(
            ValueError, match="backend='reference' cannot be chosen under .*'cpu' serves these"
        ):
            wrapped(X[None])


@pytest.mark.parametrize("fill", [normal, uniform])
@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((3, RNG), {}, TypeError, "shape must be a list of ints, got int"),
        (((), RNG), {}, ValueError, r"shape is \(\); \(B, \*\)"),
        (((3, 2), RNG), {}, ValueError, r"rng has shape \(4, 3\); \(B, 3\) .* with B = 3"),
        (((4, -1), RNG), {}, ValueError, r"shape is \(4, -1\); sizes of at least 0"),
        (((4, 2**34 + 1), RNG), {}, ValueError, "has 17179869185 elements in a sample; noise has at most"),
        (((4, 2), RNG.int()), {}, ValueError, "rng is torch.int32; int64"),
        (((4, 2), [0]), {}, TypeError, "rng must be a torch.Tensor, got list"),
        (((4, 2), RNG, 2**64), {}, ValueError, "draw is 18446744073709551616; an int of 64 bits"),
        (((4, 2), RNG, 1.0), {}, TypeError, "draw and stream must be ints, got 1.0 and 0"),
        (((4, 2), RNG, True), {}, TypeError, "draw and stream must be ints, got True and 0"),
        (((4, 2), RNG, 0, 256), {}, ValueError, r"stream is 256; 0 \.\. 255"),
        (
            ((4, 2), RNG),
            {"dtype": torch.int64},
            ValueError,
            "dtype is torch.int64; float32, float16, bfloat16 or float64",
        ),
        (((4, 2), RNG), {"backend": "gpu"}, ValueError, "backend='gpu' is unknown"),
    ],
)
def test_bad_fills(fill, args, options, error, words):
    with pytest.raises(error, match=words) as caught:
        fill(*args, **options)
    assert str(caught.value).startswith(f"{fill.__name__}: ")
