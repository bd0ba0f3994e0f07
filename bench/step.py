"""One fused pass against the same sum in torch: eager, and compiled where a GPU or `--all` asks for it.

The kinds are what plans are made of: a DPM++ 2M step (three tensors in, two out), the same with noise, a
UniPC-2 step (five in, three out). Coefficients do not matter to the time and are drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

import fastdiff as fd

from ._case import Case, Goal, Scale

KINDS = {"2M step": (3, 2, 0), "2M step + noise": (3, 2, 1), "UniPC-2 step": (5, 3, 0)}
ROWS = 16  # samples in the batch
GOALS = {  # GPU, kind, dtype, elements
    (False, "2M step", torch.float32, 1 << 18): (Goal("of_copy", least=0.85),),
    (True, "2M step", torch.float32, 1 << 26): (Goal("of_copy", least=0.88),),
    (True, "2M step", torch.bfloat16, 1 << 26): (Goal("of_copy", least=0.88),),
    (True, "2M step + noise", torch.float32, 1 << 26): (Goal("of_copy", least=0.75),),
    (True, "2M step", torch.bfloat16, 1 << 20): (Goal("ours_us", most=4.0),),
}


def summed(tensors: Sequence[Tensor], table: Sequence[Sequence[float]]) -> list[Tensor]:
    """What people write."""
    outs = []
    for row in table:
        y = row[0] * tensors[0]
        for a, t in zip(row[1 : len(tensors)], tensors[1:], strict=True):
            y = y + a * t
        if len(row) > len(tensors):
            y = y + row[-1] * torch.randn_like(y)
        outs.append(y)
    return outs


def made(kind: str, elements: int, dtype: torch.dtype, scale: Scale) -> Case:
    n_in, n_out, noise = KINDS[kind]
    torch.manual_seed(0)
    T = [torch.randn(ROWS, elements // ROWS, device=scale.device).to(dtype) for _ in range(n_in)]
    out = [torch.empty_like(T[0]) for _ in range(n_out)]
    A = torch.randn(n_out, n_in + noise)
    A[1:, n_in:] = 0  # one output takes the noise
    table = [row[: n_in + (j == 0) * noise] for j, row in enumerate(A.tolist())]
    A = A.to(scale.device)
    rng = fd.noise.resolve(0, ROWS, T[0].device) if noise else None
    counters = {"rng": rng, "draws": [0] * noise, "streams": [0] * noise}
    peers: dict[str, Callable[[], object] | None] = {"torch": lambda: summed(T, table)}
    if scale.gpu and elements == 1 << 26:  # to compile takes longer than to measure
        whole = torch.compile(summed, mode="max-autotune-no-cudagraphs", dynamic=False)
        peers["torch.compile"] = lambda: whole(T, table)
    return Case(
        kind,
        lambda: fd.ops.linear_step_(T, A, out, **counters),
        peers,
        bytes=(n_in + n_out) * elements * T[0].element_size(),
        normals=noise * elements,
        shape=tuple(T[0].shape),
        dtype=dtype,
        along=elements,
        goals=GOALS.get((scale.gpu, kind, dtype, elements), ()),
    )


def cases(scale: Scale) -> Iterator[Case]:
    sizes = [1 << 18] if scale.quick else [1 << 16, 1 << 18, 1 << 20, 1 << 22]
    if scale.gpu:
        sizes = [1 << 16, 1 << 20, 1 << 24, 1 << 26, 1 << 28]
    for kind in KINDS:
        for dtype in (torch.float32, torch.bfloat16):
            for elements in sizes:
                yield made(kind, elements, dtype, scale)
