"""fd.noise.normal and fd.noise.uniform: what users type."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import fastdiff as fd
from fastdiff import ops
from fastdiff.noise import resolve, streams

BOTH = pytest.mark.parametrize("name", ["normal", "uniform"])


@BOTH
def test_is_the_op_on_the_users_stream(name):
    draw, op = getattr(fd.noise, name), getattr(ops, name)
    x = draw((3, 5), 7)
    assert torch.equal(x, op((3, 5), resolve(7, 3), 0, 32))
    assert torch.equal(
        draw((3, 5), 7, stream=40, draw=9, dtype=torch.float16),
        op((3, 5), resolve(7, 3), 9, 40, dtype=torch.float16),
    )
    assert not torch.equal(x, op((3, 5), resolve(7, 3), 0, streams.SOLVER))
    assert torch.equal(draw(torch.Size([3, 5]), 7, backend="reference"), x)


@BOTH
def test_a_sample_depends_on_its_seed_and_id_alone(name):
    draw = getattr(fd.noise, name)
    x = draw((6, 4, 3), 7)
    assert torch.equal(draw((2, 4, 3), 7), x[:2])
    assert torch.equal(draw((3, 4, 3), fd.Seeds(7, [5, 0, 3])), x[[5, 0, 3]])
    y = draw((3, 4, 3), [11, 12, 13])
    assert torch.equal(draw((1, 4, 3), 12), y[1:2])
    assert x.unique().numel() > 6 * 4 * 3 - 2  # no sample repeats another


@BOTH
def test_defaults_of_dtype_and_device(name):
    draw = getattr(fd.noise, name)
    assert draw((1, 2), 0).dtype == torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert draw((1, 2), 0).dtype == torch.float64
    finally:
        torch.set_default_dtype(before)
    with torch.device("meta"):
        assert draw((1, 2), 0).device.type == "meta"
    assert draw((1, 2), 0, device="meta").device.type == "meta"


@BOTH
def test_seeds_from_torch(name):
    draw = getattr(fd.noise, name)
    torch.manual_seed(5)
    a, b = draw((2, 3), None), draw((2, 3), None)
    torch.manual_seed(5)
    assert torch.equal(draw((2, 3), None), a) and not torch.equal(a, b)
    assert torch.equal(
        draw((2, 3), torch.Generator().manual_seed(2)), draw((2, 3), torch.Generator().manual_seed(2))
    )


@BOTH
@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        (5, {}, r"shape is 5; \(B, \*\) is allowed"),
        ((), {}, r"shape is \(\); \(B, \*\) is allowed"),
        ((2, 3), {"stream": 256}, r"stream is 256; 0 \.\. 255"),
        ((2, 3), {"stream": -1}, r"stream is -1; 0 \.\. 255"),
        ((2, 3), {"draw": 2**32}, r"draw is 4294967296; 0 \.\. 2\^32 - 1"),
        ((2, 3), {"draw": -1}, "draw is -1"),
        ((2, 3), {"dtype": torch.int32}, "dtype is torch.int32"),
        ((2, -3), {}, r"shape is \(2, -3\); sizes of at least 0"),
        ((-2, 3), {}, "the batch has size -2; at least 0"),
        ((2, 3), {"backend": "numpy"}, "backend='numpy' is unknown"),
    ],
)
def test_bad_draws(name, shape, options, words):
    with pytest.raises(ValueError, match=words):
        getattr(fd.noise, name)(shape, 0, **options)


@BOTH
def test_in_a_compiled_function_with_any_seed(name):
    torch._dynamo.reset()
    counter = CompileCounter()
    draw = getattr(fd.noise, name)
    compiled = torch.compile(
        lambda x, s: x + draw(x.shape, s, device=x.device), fullgraph=True, backend=counter
    )
    x = torch.zeros(2, 3)
    for s in range(0, 2**62, 2**58):
        assert torch.equal(compiled(x, s), draw((2, 3), s))
    assert counter.frame_count <= 2
