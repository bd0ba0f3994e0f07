"""linear_step: every backend on every layout, dtype and shape gives the bits of the reference."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastdiff import _C
from fastdiff.noise import Seeds, resolve
from fastdiff.ops import linear_step, linear_step_

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAYOUTS = ("table", "sample", "group")


def both(case, same_bits):
    expected = linear_step(case.T, case.A, **case.options, backend="reference")
    got = linear_step(case.T, case.A, **case.options, backend="cpu")
    for a, b in zip(got, expected, strict=True):
        same_bits(a, b)
    return got


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", _C.isas())
def test_every_dtype_combination(layout, name, isa, make_case, same_bits):
    isa(name)
    for state, network, out in itertools.product(DTYPES, DTYPES, (None, *DTYPES)):
        both(make_case(layout, (state, network), out), same_bits)


@pytest.mark.parametrize("name", _C.isas())
@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (5,), (7, 1), (31,), (64,), (127,), (4099,)])
def test_odd_and_prime_sizes(name, shape, isa, make_case, same_bits):
    isa(name)
    for layout, batch, dtype in itertools.product(
        ("table", "sample"), (1, 2, 5), (torch.float32, torch.bfloat16)
    ):
        both(make_case(layout, (dtype, dtype), batch=batch, shape=shape, noise=2), same_bits)


@pytest.mark.parametrize("name", _C.isas())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_halves_round_as_torch_rounds(dtype, name, isa, same_bits):
    """All 65,536 values, subnormals and ties among them, times coefficients: one product, one rounding."""
    isa(name)
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).view(4, -1)
    A = torch.tensor([[0.5], [0.75], [1.0], [-3.0e-3]])
    y = linear_step([x], A, backend="cpu")
    for a, got in zip(A, y, strict=True):
        same_bits(got, (x.float() * a).to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_out", [1, 2, 3, 4])
@pytest.mark.parametrize("noise", [0, 1, 4])
def test_numbers_of_columns(layout, n_out, noise, make_case, same_bits):
    for n_in in (1, 2, 5, 11):  # and a constant
        both(make_case(layout, (torch.float32,) * n_in, n_out=n_out, noise=noise), same_bits)


@pytest.mark.parametrize("name", _C.isas())
@pytest.mark.parametrize("n_in", [1, 2, 3, 4])
def test_sums_taken_while_noise_is_drawn(n_in, name, isa, make_case, same_bits):
    """Long samples, one noise column: no zeros, some, and a second row that is the noise as it is."""
    isa(name)
    for shape, n_out, layout in itertools.product([(1024,), (5, 820), (4100,)], (1, 2), ("table", "sample")):
        case = make_case(
            layout, (torch.float32,) * n_in, shape=shape, n_out=n_out, wild=False, constant=False
        )
        both(case, same_bits)
        case.A[..., -1, 0] = 0.0
        both(case, same_bits)
        case.A[..., -1, :] = 0.0
        case.A[..., -1, -1] = 1.0
        both(case, same_bits)


@pytest.mark.parametrize("parts", [1, 2, 5, 30])
def test_groups_of_any_size(parts, make_case, same_bits):
    case = make_case("group", parts=parts)
    both(case, same_bits)
    case.options["index"] = case.options["index"][:1]  # one map for all samples
    both(case, same_bits)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_do_not_matter(layout, threads, make_case, same_bits):
    case = make_case(layout, shape=(3, 40000), noise=1)  # 360,000 elements: several chunks
    threads(1)
    one = linear_step(case.T, case.A, **case.options, backend="cpu")
    threads(2)
    two = linear_step(case.T, case.A, **case.options, backend="cpu")
    for a, b, c in zip(
        one, two, linear_step(case.T, case.A, **case.options, backend="reference"), strict=True
    ):
        same_bits(a, b)
        same_bits(a, c)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("shape", [(0,), (2, 0), (4,)])
def test_empty_tensors(batch, shape, make_case, same_bits):
    for layout in LAYOUTS:
        case = make_case(layout, batch=batch, shape=shape, parts=2, wild=False)
        for y in both(case, same_bits):
            assert y.shape == (batch, *shape)


def test_memory_format_does_not_matter(make_case, same_bits):
    """Elements are counted in logical order: channels-last, strided, expanded inputs are the same tensors."""
    case = make_case(shape=(4, 3, 5), noise=1)
    expected = both(case, same_bits)
    last = [t.contiguous(memory_format=torch.channels_last) for t in case.T]
    assert not last[0].is_contiguous()
    strided = [torch.stack([t, t], -1)[..., 1] for t in case.T]
    expanded = [case.T[0], case.T[1], case.T[2].expand(3, 4, 3, 5)]
    A = case.A.t().contiguous().t()
    for T, backend in itertools.product((last, strided, expanded), ("cpu", "reference")):
        for a, b in zip(linear_step(T, A, **case.options, backend=backend), expected, strict=True):
            assert a.is_contiguous()
            same_bits(a, b)


def test_a_sample_does_not_depend_on_its_batch(make_case, same_bits):
    for layout in ("table", "sample"):
        case = make_case(layout, batch=6, constant=False, noise=2)
        whole = linear_step(case.T, case.A, **case.options)
        order = torch.tensor([4, 0, 5, 2, 1, 3])
        A = case.A[order] if layout == "sample" else case.A
        options = case.options | {"rng": resolve(Seeds(1234567, order), 6)}
        for a, b in zip(whole, linear_step([t[order] for t in case.T], A, **options), strict=True):
            same_bits(a[order], b)
        for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
            A = case.A[part] if layout == "sample" else case.A
            options = case.options | {"rng": case.options["rng"][part]}
            for a, b in zip(whole, linear_step([t[part] for t in case.T], A, **options), strict=True):
                same_bits(a[part], b)


def test_draw_base_and_draws_add_up(make_case, same_bits):
    """Modulo 2^32; the third column of rng lets a graph advance the noise without a new capture."""
    case = make_case(noise=1)
    moved = case.options | {"rng": case.options["rng"] + torch.tensor([0, 0, 2**32 + 2]), "draws": [1]}
    for a, b in zip(
        linear_step(case.T, case.A, **case.options), linear_step(case.T, case.A, **moved), strict=True
    ):
        same_bits(a, b)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_nothing_spreads_from_behind_a_zero_coefficient(backend, same_bits):
    x, bad = torch.randn(2, 9), torch.full((2, 9), torch.nan)
    bad[:, ::2] = torch.inf
    A = torch.tensor([[1.0, 0.0], [0.0, -0.0]])
    y, zero = linear_step([x, bad], A, backend=backend)
    same_bits(y, x + 0.0)
    same_bits(zero, torch.zeros(2, 9))
    per_sample = torch.stack([A, torch.ones(2, 2)])
    y, _ = linear_step([x, bad], per_sample, backend=backend)
    assert torch.equal(y[0], x[0]) and not y[1].isfinite().any()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_signed_zeros(backend, same_bits):
    """-0 survives a copy; beside a left-out column, which adds +0, it does not."""
    x = torch.full((1, 37), -0.0)
    same_bits(linear_step([x], torch.ones(1, 1), backend=backend)[0], x)
    same_bits(linear_step([x, x], torch.ones(1, 2), backend=backend)[0], x)
    for A in ([[1.0, 0.0]], [[0.0, 1.0]], [[-0.0, 1.0]]):
        same_bits(linear_step([x, x], torch.tensor(A), backend=backend)[0], torch.zeros(1, 37))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_may_overwrite_inputs(backend, dtype, make_case, same_bits):
    case = make_case(dtypes=(dtype, dtype), shape=(333,), n_out=2, wild=False)
    expected = linear_step(case.T, case.A, **case.options)
    T = [t.clone() for t in case.T]
    out = [T[1], T[0]]  # crosswise
    got = linear_step(T, case.A, **case.options, out=out, backend=backend)
    for a, b, c in zip(got, expected, out, strict=True):
        assert a is c
        same_bits(a, b)


def test_linear_step_in_place_is_the_same_step(make_case, same_bits):
    case = make_case("sample")
    out = [torch.empty_like(case.T[0]) for _ in range(2)]
    options = {k: v for k, v in case.options.items() if k != "dtype"}
    assert linear_step_(case.T, case.A, out, **options) is None
    for a, b in zip(out, linear_step(case.T, case.A, **options), strict=True):
        same_bits(a, b)


def test_a_graph_that_saved_an_overwritten_tensor_refuses():
    x, w = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    y = (x * w).sum()
    linear_step([torch.ones(2, 3)], torch.ones(1, 1), out=[w])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_inference_mode_and_parameters(make_case, same_bits):
    case = make_case(wild=False)
    expected = linear_step(case.T, case.A, **case.options)
    with torch.inference_mode():
        out = [torch.empty_like(case.T[0]) for _ in range(2)]
        for a, b in zip(linear_step(case.T, case.A, **case.options, out=out), expected, strict=True):
            same_bits(a, b)
    with torch.no_grad():
        got = linear_step(case.T, torch.nn.Parameter(case.A), **case.options)
        same_bits(got[0], expected[0])


def test_a_view_that_is_negated_when_read(same_bits):
    """Its memory holds the other sign, and nothing but a bit of torch's says so."""
    x, A = torch.randn(2, 3), torch.tensor([[2.0]])
    expected = linear_step([-x], A)[0]
    same_bits(linear_step([torch._neg_view(x)], A)[0], expected)
    same_bits(torch.ops.fastdiff.linear_step([torch._neg_view(x)], A)[0], expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_tensors_without_memory_of_their_own(backend, same_bits):
    """A wrapper that torch.func left behind, and a symbolic zero, as tangents may be."""
    x, A, kept = torch.randn(2, 3), torch.tensor([[2.0, 1.0]]), []
    torch.func.grad(lambda v: (kept.append(v), v.sum())[1])(x)
    (expected,) = linear_step([x, x], A)
    same_bits(linear_step([kept[0], x], A, backend=backend)[0], expected)
    same_bits(linear_step([torch._efficientzerotensor(2, 3), x], A, backend=backend)[0], x)


def test_the_network_may_have_another_dtype_than_the_state(same_bits):
    x, m = torch.randn(2, 8), torch.randn(2, 8).bfloat16()
    y = linear_step([x, m], torch.tensor([[0.5, 2.0]]))[0]
    assert y.dtype == torch.float32
    same_bits(y, 0.5 * x + 2.0 * m.float())
    same_bits(linear_step([x, m], torch.tensor([[0.5, 2.0]]), dtype=torch.bfloat16)[0], y.bfloat16())
