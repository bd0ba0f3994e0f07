"""ConsistentNoise: one white noise on a texture, seen by all views.

    covered pixel     y_p = sum_{t in S_p} xi_t / sqrt(|S_p|)        S_p: the texels that fall into pixel p
    uncovered pixel   fresh noise of the view's own

A texel falls into one pixel of a view, so the S_p are disjoint and each view is white noise of variance 1.
Between views the correlation of two pixels is overlap / sqrt(|S_p| |S_q|): what they share of the surface.

Stream 22: the texture has draw 2^32 - 1 and element = (channel, texel); uncovered pixels of view v have draw
v and element = (channel, pixel). Sums run in pairs, in the order of the texels: the same bits on every device
and in every batch. float16 and bfloat16 are rounded once, from float32.

Source: Yan et al. 2025, Consistent Flow Distillation, arXiv:2501.05445.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import streams
from .families import normal
from .seeds import SeedsLike

TEXTURE_DRAW = 2**32 - 1
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class ConsistentNoise:
    """The noise of one view: `noise((B, C, *pixels), seeds)`; equal seeds see one texture.

    pixel_of_texel  (n_texels,) integers: the pixel, counted row by row, into which each texel falls; -1 where
                    it is not seen. Project each texel's point, keep those that pass a depth test
    pixels          the view's size, (H, W) or any other
    view            0 .. 2^32 - 2; two views with one number share the noise of their uncovered pixels
    """

    def __init__(self, pixel_of_texel: Tensor, pixels: Sequence[int], view: int = 0):
        pixels = _sizes(pixels)
        n = math.prod(pixels)
        _check_map(pixel_of_texel, n, pixels)
        if isinstance(view, bool) or not isinstance(view, int) or not 0 <= view < TEXTURE_DRAW:
            raise ValueError(f"ConsistentNoise: view is {view!r}; 0 .. 2^32 - 2 is allowed")
        self.pixels, self.view, self.texels = pixels, view, pixel_of_texel.numel()
        device = pixel_of_texel.device
        pixel, order = pixel_of_texel.long().sort(stable=True)
        hidden = int((pixel < 0).sum())
        self._order, pixel = order[hidden:], pixel[hidden:]
        self._covered, size = torch.unique_consecutive(pixel, return_counts=True)
        self._first = size.cumsum(0) - size  # where a pixel's texels begin
        rank = torch.arange(pixel.numel(), device=device) - self._first.repeat_interleave(size)
        left = size.repeat_interleave(size) - rank
        self._scale = 1 / size.double().sqrt()
        self._pairs: list[tuple[int, Tensor]] = []  # (s, where the sum s texels further on is added)
        s, longest = 1, int(size.max()) if size.numel() else 0
        while s < longest:
            self._pairs.append((s, torch.nonzero((rank % (2 * s) == 0) & (left > s)).squeeze(1)))
            s *= 2

    @property
    def coverage(self) -> Tensor:
        """(*pixels) int64: how many texels each pixel sees."""
        count = torch.zeros(math.prod(self.pixels), dtype=torch.int64, device=self._order.device)
        count[self._covered] = (self._scale**-2).round().long()
        return count.view(self.pixels)

    def __call__(
        self,
        shape: Sequence[int],
        seeds: SeedsLike,
        *,
        dtype: torch.dtype | None = None,
        backend: str | None = None,
    ) -> Tensor:
        """Standard normals (B, C, *pixels) on the map's device."""
        d = len(self.pixels)
        if not isinstance(shape, (list, tuple)) or len(shape) != 2 + d or tuple(shape[2:]) != self.pixels:
            said = ", ".join(str(n) for n in self.pixels)
            raise ValueError(f"ConsistentNoise: shape is {shape!r}; (B, C, {said}) is allowed")
        dtype = dtype or torch.get_default_dtype()
        if dtype not in DTYPES:
            raise ValueError(
                f"ConsistentNoise: dtype is {dtype}; float16, bfloat16, float32 or float64 is allowed"
            )
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        device = self._order.device
        texture = normal(
            (*shape[:2], self.texels), seeds, stream=streams.TEXTURE, draw=TEXTURE_DRAW, dtype=wide,
            device=device, backend=backend,
        )  # fmt: skip
        fresh = normal(
            shape, seeds, stream=streams.TEXTURE, draw=self.view, dtype=wide, device=device, backend=backend
        )
        return self.warp(texture, fresh).to(dtype)

    def warp(self, texture: Tensor, fresh: Tensor) -> Tensor:
        """The view of a texture (*, texels); fresh (*, *pixels) shows where no texel falls."""
        lead = texture.shape[:-1]
        if texture.shape[-1:] != (self.texels,) or fresh.shape != (*lead, *self.pixels):
            raise ValueError(
                f"ConsistentNoise.warp: texture is {tuple(texture.shape)} and fresh {tuple(fresh.shape)}; "
                f"(*, {self.texels}) and (*, {', '.join(str(n) for n in self.pixels)}) are allowed"
            )
        total = texture[..., self._order]
        for s, at in self._pairs:
            total = total.index_copy(-1, at, total[..., at] + total[..., at + s])
        seen = total[..., self._first] * self._scale.to(texture.dtype)
        flat = fresh.reshape(*lead, -1).to(texture.dtype)
        return flat.index_copy(-1, self._covered, seen).reshape(fresh.shape)

    def __repr__(self) -> str:
        seen = self._order.numel()
        return f"ConsistentNoise({seen} of {self.texels} texels in {self.pixels} pixels, view={self.view})"


def _sizes(pixels: Any) -> tuple[int, ...]:
    sizes = tuple(pixels) if isinstance(pixels, (list, tuple)) else ()
    if not sizes or any(type(n) is not int or n < 1 for n in sizes):
        raise ValueError(
            f"ConsistentNoise: pixels is {pixels!r}; one size or more, each at least 1, is allowed"
        )
    return sizes


def _check_map(m: Any, n: int, pixels: tuple[int, ...]) -> None:
    tensor = isinstance(m, Tensor)
    if not tensor or m.dim() != 1 or m.dtype not in (torch.int32, torch.int64) or not m.numel():
        came = f"{tuple(m.shape)} of {m.dtype}" if tensor else type(m).__name__
        raise TypeError(f"ConsistentNoise: pixel_of_texel is {came}; (n_texels,) int32 or int64 is allowed")
    low, high = int(m.min()), int(m.max())
    if low < -1 or high >= n:
        raise ValueError(
            f"ConsistentNoise: pixel_of_texel has {low} .. {high}; -1 .. {n - 1} is allowed for {pixels}"
        )
