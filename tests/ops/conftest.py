"""Bits, cases and instruction sets shared by the tests of the ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor

from fastdiff import _C
from fastdiff.noise import resolve

INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    """Equal in every bit; of NaNs only that both are (their payload is nobody's promise)."""
    assert a.dtype == b.dtype and a.shape == b.shape
    a, b = a.detach().cpu().contiguous(), b.detach().cpu().contiguous()
    kind = INTEGER[a.element_size()]
    differ = (a.view(kind) != b.view(kind)) & ~(a.isnan() & b.isnan())
    assert not differ.any(), (
        f"{int(differ.sum())} of {a.numel()} differ, first {a[differ][0]!r} and {b[differ][0]!r}"
    )


@dataclass
class Case:
    """Arguments of a linear step."""

    T: list[Tensor]
    A: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def to(self, device: str) -> Case:
        move = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        return Case([t.to(device) for t in self.T], self.A.to(device), move)


def build_case(
    layout: str = "table",
    dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 2,
    out: torch.dtype | None = None,
    *,
    batch: int = 3,
    shape: tuple[int, ...] = (5, 6),
    n_out: int = 2,
    noise: int = 1,
    parts: int = 6,
    wild: bool = True,
    constant: bool = True,
) -> Case:
    """Tensors of these dtypes, and a constant register when asked for. `wild` adds values that show how a
    kernel rounds (subnormals of every dtype, huge values, signed zeros, inf, NaN) and zero coefficients."""
    g = torch.Generator().manual_seed(crc32(repr((layout, dtypes, out, batch, shape, n_out, noise)).encode()))
    kinds = [*dtypes, *(dtypes[:1] if constant else ())]
    T = []
    for i, dtype in enumerate(kinds):
        x = torch.randn(1 if i == len(dtypes) else batch, *shape, generator=g, dtype=torch.float64)
        if wild:
            scales = torch.tensor([1.0, 1.0, 1e-4, 1e-7, 1e-39, 1e4, 1e30, 0.0, -0.0], dtype=torch.float64)
            x = x * scales[torch.randint(len(scales), x.shape, generator=g)]
            if x.numel() > 20:
                x.view(-1)[3], x.view(-1)[7] = float("inf"), float("nan")
        T.append(x.to(dtype))
    wide = torch.float64 in (*kinds, out)
    lead = {"table": (), "sample": (batch,), "group": (4,)}[layout]
    A = torch.randn(*lead, n_out, len(T) + noise, generator=g, dtype=torch.float64)
    if wild:
        A[..., 0, -1] = 0.0
        A[..., -1, 0] = 0.0
    options: dict[str, Any] = {"dtype": out}
    if layout == "group":
        options["index"] = torch.randint(4, (batch, parts), generator=g, dtype=torch.int32)
    if noise:
        options |= {
            "rng": resolve(1234567, batch),
            "draws": [3, 2**32 - 2, 0, 5][:noise],
            "streams": [0, 9, 130, 255][:noise],
        }
    return Case(T, A if wide else A.float(), options)


@pytest.fixture
def same_bits() -> Callable[[Tensor, Tensor], None]:
    return assert_same_bits


@pytest.fixture
def make_case() -> Callable[..., Case]:
    return build_case


@pytest.fixture
def isa() -> Iterator[Callable[[str], None]]:
    """Sets the instruction set of the CPU kernels; put back afterwards."""
    before = _C.isa()
    yield _C.set_isa
    _C.set_isa(before)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
