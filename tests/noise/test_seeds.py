"""Seeds: who draws what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastdiff.noise import Seeds, resolve, seeds

END = 2**63


def rows(x: torch.Tensor) -> list[list[int]]:
    assert x.dtype == torch.int64 and x.is_contiguous()
    return x.tolist()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (5, [[5, 0, 0], [5, 1, 0], [5, 2, 0]]),
        (END - 1, [[END - 1, 0, 0], [END - 1, 1, 0], [END - 1, 2, 0]]),
        (np.int64(5), [[5, 0, 0], [5, 1, 0], [5, 2, 0]]),
        (torch.tensor(5), [[5, 0, 0], [5, 1, 0], [5, 2, 0]]),
        ([7, 0, END - 1], [[7, 0, 0], [0, 0, 0], [END - 1, 0, 0]]),
        ((7, 7, 7), [[7, 0, 0]] * 3),
        (range(3), [[0, 0, 0], [1, 0, 0], [2, 0, 0]]),
        (np.array([4, 5, 6]), [[4, 0, 0], [5, 0, 0], [6, 0, 0]]),
        (torch.tensor([4, 5, 6], dtype=torch.int32), [[4, 0, 0], [5, 0, 0], [6, 0, 0]]),
        (Seeds(9), [[9, 0, 0], [9, 1, 0], [9, 2, 0]]),
        (Seeds(9, [5, 2**56 - 1, 0]), [[9, 5, 0], [9, 2**56 - 1, 0], [9, 0, 0]]),
        (Seeds(9, torch.tensor([5, 6, 7])), [[9, 5, 0], [9, 6, 0], [9, 7, 0]]),
        (Seeds([1, 2, 3], [5, 6, 7]), [[1, 5, 0], [2, 6, 0], [3, 7, 0]]),
        (Seeds([1, 2, 3]), [[1, 0, 0], [2, 0, 0], [3, 0, 0]]),
    ],
)
def test_resolved(given, expected):
    assert rows(resolve(given, 3)) == expected


@pytest.mark.parametrize("given", [5, [], Seeds(1, []), None])
def test_a_batch_of_nothing(given):
    assert resolve(given, 0).shape == (0, 3)


def test_drawn_seeds():
    """One int from the generator (torch's own for None), whatever the batch; the ids count on."""
    g = torch.Generator().manual_seed(3)
    a, b = resolve(g, 2), resolve(g, 4)
    assert a[0, 0] != b[0, 0] and b[:, 0].unique().numel() == 1
    assert a[:, 1:].tolist() == [[0, 0], [1, 0]]
    assert torch.equal(resolve(torch.Generator().manual_seed(3), 4)[:2], a)
    torch.manual_seed(11)
    first, second = resolve(None, 2), resolve(None, 2)
    torch.manual_seed(11)
    assert torch.equal(resolve(None, 2), first) and not torch.equal(first, second)
    drawn = torch.stack([resolve(None, 1)[0, 0] for _ in range(200)])
    assert drawn.min() >= 0 and drawn.max() > 2**62  # all 63 bits are used: fails once in 2^200


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (True, TypeError, r"seeds: got True \(bool\)"),
        (-1, ValueError, r"seeds: got -1; 0 \.\. 2\^63 - 1 is allowed"),
        (END, ValueError, "seeds: got 9223372036854775808"),
        (1.0, TypeError, r"seeds: got 1.0 \(float\); allowed: an int, a sequence of ints, Seeds"),
        ("7", TypeError, r"seeds: got '7' \(str\)"),
        ({1, 2, 3}, TypeError, r"seeds: got \{1, 2, 3\} \(set\)"),
        ([1, 2], ValueError, "seeds: got 2 of them for a batch of 3; one for each sample is allowed"),
        ([1, 2, 3, 4], ValueError, "seeds: got 4 of them for a batch of 3"),
        ([1, 2, -3], ValueError, "seeds: got -3"),
        ([1, 2, END], ValueError, "seeds: got 9223372036854775808"),
        ([1, 2, 3.0], TypeError, r"seeds: got 3.0 \(float\)"),
        ([1, 2, True], TypeError, r"seeds: got True \(bool\)"),
        ([[1], [2], [3]], TypeError, r"seeds: got \[1\] \(list\)"),
        (np.array([1.0, 2.0, 3.0]), TypeError, "seeds: got .*1.0"),
        (np.array([1, 2, 2**63], dtype=np.uint64), ValueError, "seeds: got 9223372036854775808"),
        (
            torch.tensor([1.0, 2.0, 3.0]),
            TypeError,
            r"seeds: got a tensor \(3,\) of torch.float32; one dimension of integers",
        ),
        (torch.tensor([True, False, True]), TypeError, "of torch.bool"),
        (torch.tensor([[1, 2, 3]]), TypeError, r"seeds: got a tensor \(1, 3\)"),
        (torch.tensor([1, 2, -3]), ValueError, "seeds: got -3"),
        (torch.tensor([1, 2]), ValueError, "seeds: got 2 of them for a batch of 3"),
        (torch.tensor(-1), ValueError, "seeds: got -1"),
    ],
)
def test_bad_seeds(given, error, words):
    with pytest.raises(error, match=words):
        resolve(given, 3)


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        (5, TypeError, "ids: got 5; a sequence of ints"),
        ([1, 2], ValueError, "ids: got 2 of them for a batch of 3"),
        ([0, 1, 2**56], ValueError, r"ids: got 72057594037927936; 0 \.\. 2\^56 - 1 is allowed"),
        ([0, -1, 2], ValueError, "ids: got -1"),
        ([0, 0.5, 1], TypeError, "ids: got 0.5"),
        (torch.tensor([0.0, 1.0, 2.0]), TypeError, "ids: got a tensor"),
    ],
)
def test_bad_ids(ids, error, words):
    with pytest.raises(error, match=words):
        resolve(Seeds(1, ids), 3)


def test_bad_seeds_are_said_when_made():
    with pytest.raises(ValueError, match="seeds: got -1"):
        Seeds(-1)
    with pytest.raises(TypeError, match="seeds: got None"):
        Seeds(None)  # type: ignore[arg-type]


def test_results_are_the_callers_own():
    """The kept tables are never handed out."""
    a = resolve(5, 4)
    a += 1000
    assert rows(resolve(6, 4)) == [[6, 0, 0], [6, 1, 0], [6, 2, 0], [6, 3, 0]]


def test_modes_do_not_leak_into_the_kept_tables():
    seeds._tables.cache_clear()
    with torch.inference_mode():
        resolve(1, 7)
    with torch._subclasses.FakeTensorMode():
        assert type(resolve(1, 8)) is torch._subclasses.FakeTensor
    for batch in (7, 8):
        x = resolve(1, batch)
        assert type(x) is torch.Tensor and not x.is_inference()
        x.add_(0)


@pytest.mark.parametrize("given", [3, [4, 5], Seeds(3, [8, 9]), torch.tensor([4, 5])])
def test_traceable(given):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda s, x: resolve(s, x.shape[0], x.device) + 0, fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(given, torch.ones(2)), resolve(given, 2))


@pytest.mark.gpu
def test_on_a_gpu():
    for given in (
        5,
        [7, 8],
        Seeds(9, [1, 2]),
        torch.tensor([3, 4], device="cuda"),
        torch.Generator("cuda").manual_seed(1),
    ):
        x = resolve(given, 2, "cuda")
        assert x.is_cuda and x.shape == (2, 3)
    assert rows(resolve(5, 2, "cuda").cpu()) == rows(resolve(5, 2))
