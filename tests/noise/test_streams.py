"""The register of streams is part of the file format: names.md section 3."""

from __future__ import annotations

import pytest

from fastdiff.noise import streams


def test_numbers_are_distinct_and_below_the_users():
    numbers = {k: v for k, v in vars(streams).items() if k.isupper() and k not in ("USER", "HOOKS", "LAST")}
    assert sorted(numbers.values()) == [*range(31)]
    assert (streams.USER, streams.HOOKS, streams.LAST) == (32, 96, 255)


def test_columns():
    assert [streams.column_stream(c) for c in (0, 1, 2, 3, 63)] == [0, 9, 130, 131, 191]
    assert [streams.training_column_stream(c) for c in (0, 1, 63)] == [2, 193, 255]
    assert [streams.hook_stream(k) for k in (0, 31)] == [96, 127]
    columns = [streams.column_stream(c) for c in range(64)] + [
        streams.training_column_stream(c) for c in range(64)
    ]
    hooks = [streams.hook_stream(k) for k in range(32)]
    assert len({*columns, *hooks, *range(32, 96)}) == 64 + 64 + 32 + 64  # no two ever meet


@pytest.mark.parametrize("f", [streams.column_stream, streams.training_column_stream, streams.hook_stream])
@pytest.mark.parametrize("k", [-1, 64])
def test_out_of_range(f, k):
    with pytest.raises(ValueError, match=f"{f.__name__}: .*{k}"):
        f(k)
