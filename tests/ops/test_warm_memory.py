"""Results on memory that served before: nobody sees another's numbers, and no more stays than the bound."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fastdiff as fd
from fastdiff.ops import _backends, linear_step

N = 1 << 17  # float32: 512 KiB
MIB = 1 << 20
IDLE = 256 * MIB  # what documentation promises


@pytest.fixture(autouse=True)
def nothing_idle() -> Iterator[None]:
    fd.ops.empty_cache()
    yield
    fd.ops.empty_cache()


def times(x: torch.Tensor, c: float) -> torch.Tensor:
    return linear_step([x], torch.tensor([[c]], dtype=torch.float32))[0]


@pytest.mark.parametrize("n", [N, 3 * N + 5, 8 * N + 1, 40 * N])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_tensor_like_any_other(n: int, dtype: torch.dtype) -> None:
    """Shape, strides, version, and all that a tensor may be asked to do."""
    x = torch.arange(2 * n, dtype=torch.float64).remainder(251).to(dtype).view(2, n)
    one = torch.ones(1, 1, dtype=torch.promote_types(dtype, torch.float32))
    y = linear_step([x], one)[0]
    assert y.shape == x.shape and y.stride() == x.stride() and y.dtype == dtype and type(y) is torch.Tensor
    assert y.data_ptr() % 64 == 0 and not y.requires_grad and torch.equal(y, x)
    for other in (copy.deepcopy(y), pickle.loads(pickle.dumps(y)), y.clone(), y.to(torch.float64).to(dtype)):
        assert torch.equal(other, x)
    file = io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    assert torch.equal(torch.load(file), x)
    assert torch.equal(y.share_memory_(), x) and y.is_shared()


def test_views_keep_their_numbers() -> None:
    """A view, a numpy array and a graph each hold the block after the tensor itself is gone."""
    x = torch.ones(2, N, requires_grad=True)
    y = times(x, 3.0)
    view, array = y[1, 5:], y.detach()[0].numpy()
    squares = (y * y).sum()
    del y
    others = [times(torch.ones(2, N), float(k)) for k in range(4)]
    assert torch.all(view == 3.0) and (array == 3.0).all()
    assert torch.equal(torch.autograd.grad(squares, x)[0], torch.full((2, N), 18.0))  # 2 . 3 . 3
    assert [float(o[0, 0]) for o in others] == [0.0, 1.0, 2.0, 3.0]


def test_dropped_memory_serves_again() -> None:
    x = torch.ones(2, N)
    y = times(x, 2.0)
    place = y.data_ptr()
    alive = times(x, 3.0)
    assert alive.data_ptr() != place
    del y
    assert times(x, 4.0).data_ptr() == place and torch.all(alive == 3.0)


def test_small_results_are_torchs_own() -> None:
    assert times(torch.ones(2, 64), 2.0).untyped_storage().resizable()
    assert fd.ops.empty_cache() == 0


def test_bound() -> None:
    """600 MiB dropped leave 256 at most; what is larger than the bound is never kept."""
    many = [_backends.fresh((15 * N,), torch.float32, torch.device("cpu")) for _ in range(80)]
    del many
    assert IDLE - 16 * MIB <= fd.ops.empty_cache() <= IDLE
    assert fd.ops.empty_cache() == 0
    large = _backends.fresh((IDLE // 4 + 1,), torch.float32, torch.device("cpu"))
    del large
    assert fd.ops.empty_cache() == 0


def test_threads() -> None:
    """Eight threads write their own number and find it again."""

    def work(me: int) -> bool:
        good = True
        for k in range(40):
            n = N * (1 + (me + k) % 3)
            y = _backends.fresh((n,), torch.float32, torch.device("cpu")).fill_(100 * me + k)
            z = _backends.fresh((n,), torch.float32, torch.device("cpu")).fill_(-1)
            good &= bool((y == 100 * me + k).all()) and bool((z == -1).all())
        return good

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def child(queue: multiprocessing.SimpleQueue[float]) -> None:
    torch.set_num_threads(1)
    queue.put(float(times(torch.ones(2, N), 5.0).sum()))


def test_fork() -> None:
    """A child has its own copy of the blocks that lay idle."""
    x = torch.ones(2, N)
    y = times(x, 2.0)
    dropped = times(x, 7.0)
    del dropped
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get() == 5.0 * 2 * N
    process.join(30)
    assert process.exitcode == 0 and torch.all(y == 2.0) and torch.all(times(x, 3.0) == 3.0)


def test_inference_mode() -> None:
    with torch.inference_mode():
        y = times(torch.ones(2, N), 2.0)
        assert y.is_inference() and torch.all(y == 2.0)


@pytest.mark.parametrize("shape", [(1 << 40, 1 << 40), (1 << 62, 4), (1 << 61,), (1 << 46,), (-400, -400)])
def test_more_than_there_is(shape: tuple[int, ...]) -> None:
    """Of a size that wraps round torch would end the process."""
    with pytest.raises(MemoryError):
        _backends.fresh(shape, torch.float32, torch.device("cpu"))
    assert fd.ops.empty_cache() == 0
