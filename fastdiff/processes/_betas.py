"""Tables of discrete processes: the betas people train with, and which steps a respaced process keeps.

Sources: Ho et al. 2020, arXiv:2006.11239 (linear); Rombach et al. 2022, arXiv:2112.10752 (scaled linear);
Nichol & Dhariwal 2021, arXiv:2102.09672 (cosine, respacing).
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def linear(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    return np.linspace(beta_start, beta_end, steps)


def scaled_linear(steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> np.ndarray:
    return np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2


def cosine(steps: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> np.ndarray:
    angle = np.arange(steps + 1) / steps
    angle = (angle + s) / (1 + s) * (np.pi / 2)
    # 1 - cos^2 y / cos^2 x = sin(x + y) sin(y - x) / cos^2 x
    x, y = angle[:-1], angle[1:]
    return np.minimum(np.sin(x + y) * np.sin(y - x) / np.cos(x) ** 2, beta_max)


NAMED = {"linear": linear, "scaled-linear": scaled_linear, "cosine": cosine}


def row(what: str, values: Any) -> np.ndarray:
    """A list, array or tensor as one row of float64."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    try:
        table = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise TypeError(f"{what} must be a sequence of numbers, got {type(values).__name__}") from e
    if table.ndim != 1 or len(table) < 2:
        raise ValueError(f"{what} must be at least 2 numbers in one row, got shape {table.shape}")
    return table


def kept_steps(steps: int, sections: int | str | Sequence[int]) -> np.ndarray:
    """Indices a respaced process keeps: K steps, "ddimK", or one count per equal section ("10,15,20" or a
    list).

    In a section the first and the last index are kept and the others lie between them at equal, rounded
    strides. "ddimK" takes the integer stride that gives exactly K.
    """
    if isinstance(sections, str):
        if sections.startswith("ddim"):
            return _integer_stride(steps, _count(sections[4:], sections))
        sections = [_count(part, sections) for part in sections.split(",")]
    counts = [sections] if isinstance(sections, (int, np.integer)) else list(sections)
    size, larger = divmod(steps, len(counts))
    start, kept = 0, []
    for i, count in enumerate(counts):
        length = size + (i < larger)
        if not 1 <= count <= length:
            raise ValueError(f"respace: section {i} has {length} steps, so it cannot keep {count}")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        kept.append(start + np.round(np.arange(count) * stride).astype(int))
        start += length
    return np.concatenate(kept)


def _integer_stride(steps: int, count: int) -> np.ndarray:
    for stride in range(1, steps):
        if -(-steps // stride) == count:
            return np.arange(0, steps, stride)
    raise ValueError(f"respace: no integer stride gives {count} of {steps} steps")


def _count(text: str, whole: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'respace: expected "10,15,20", "ddim25" or a count, got {whole!r}') from None
