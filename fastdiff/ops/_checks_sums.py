"""The checks at the door of the ops that end in sums over a sample: dots, regression_loss, gaussian_kl."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import DTYPES, MAX_NOISE, draw_stream, few_elements, rng_tensor, say, tensor

MAX_TERMS, MAX_PAIRS, MAX_ROWS = 8, 16, 8
CHUNK = 1024


def state(call: str, name: str, t: Any, like: Tensor, constant: bool, batch: int) -> None:
    """A tensor (B, *), or with `constant` (1, *), of samples like those of `like`."""
    tensor(call, name, t)
    if t.dtype not in DTYPES:
        say(call, name, f"is {t.dtype}", "float32, float16, bfloat16 or float64")
    if t.dim() < 1:
        say(call, name, "has no dimension", "the first one counts the samples")
    if t.shape[1:] != like.shape[1:] or not (t.shape[0] == batch or constant and t.shape[0] == 1):
        allowed = (
            f"({batch}{' or 1' if constant and batch != 1 else ''}, *) with samples {tuple(like.shape[1:])}"
        )
        say(call, name, f"has shape {tuple(t.shape)}", allowed)
    if t.device != like.device:
        say(call, name, f"is on {t.device}", f"the other tensors are on {like.device}: one device for all")


def table(call: str, name: str, t: Any, shapes: Sequence[tuple[int, ...]], like: Tensor, dtype: Any) -> None:
    tensor(call, name, t)
    if t.dtype != dtype:
        say(call, name, f"is {t.dtype}", f"{dtype}")
    if tuple(t.shape) not in shapes:
        say(call, name, f"has shape {tuple(t.shape)}", " or ".join(map(str, shapes)))
    if t.device != like.device:
        say(call, name, f"is on {t.device}", f"the other tensors are on {like.device}: one device for all")


def noise(call: str, rng: Any, draws: Any, streams: Any, batch: int, like: Tensor) -> None:
    for name, numbers in (("draws", draws), ("streams", streams)):
        if not isinstance(numbers, (list, tuple)):
            raise TypeError(f"{call}: {name} must be a list of ints, got {type(numbers).__name__}")
    if len(draws) != len(streams) or len(draws) > MAX_NOISE:
        lengths = f"have lengths {len(draws)} and {len(streams)}"
        say(call, "draws and streams", lengths, f"one of each for each noise column, at most {MAX_NOISE}")
    for k, (d, s) in enumerate(zip(draws, streams, strict=True)):
        draw_stream(call, d, s, f"s[{k}]")
    if draws:
        if rng is None:
            say(call, "rng", "is None", "noise needs it: fastdiff.noise.resolve(seeds, batch, device)")
        rng_tensor(call, rng, batch, like.device)
        few_elements(call, "a tensor", like.shape[1:])


def work(like: Tensor, batch: int, sums: int) -> Tensor:
    """Memory for the partial results of each chunk."""
    chunks = max(1, -(-like.shape[1:].numel() // CHUNK))
    return like.new_empty((batch, sums, chunks), dtype=torch.float64)


def list_of_tensors(call: str, T: Any, most: int, least: int = 0) -> None:
    if not isinstance(T, (list, tuple)):
        raise TypeError(f"{call}: T must be a list of tensors, got {type(T).__name__}")
    if not least <= len(T) <= most:
        say(call, "T", f"has {len(T)} tensors", f"{least} .. {most}")
    for i, t in enumerate(T):
        tensor(call, f"T[{i}]", t)
        if t.dim() < 1:
            say(call, f"T[{i}]", "has no dimension", "the first one counts the samples")


def finite(call: str, name: str, v: Any, least: float) -> float:
    if isinstance(v, bool) or not isinstance(v, (int, float)):
        raise TypeError(f"{call}: {name} must be a number, got {type(v).__name__}")
    if not least < v < float("inf"):
        say(call, name, f"is {v}", f"finite and above {least:g}")
    return float(v)
