"""What every launch decides (block, device, options), and the exact conversions that the kernels share."""

# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

# a twin must round as the definition does: without this a * b + c becomes one fma
OPTIONS = {"enable_fp_fusion": False, "num_warps": 4}
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def block(elements: int) -> int:
    """Elements for one program. The interpreter pays by the program: there one takes a whole sample."""
    return max(16, min(triton.next_power_of_2(elements), 2**20 if _INTERPRETED else 1024))


def on(t: Tensor) -> AbstractContextManager[object]:
    """Launches go to the current device."""
    return torch.cuda.device(t.device) if t.is_cuda else nullcontext()


@triton.jit
def widen(x, wide: tl.constexpr):
    """Exact. bfloat16 by its bits: the interpreter's own conversion loses subnormals."""
    if x.dtype == tl.bfloat16:
        x = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(wide)


@triton.jit
def narrow(y, dtype: tl.constexpr):
    """One rounding to nearest even, subnormals kept. float64 goes to half through a float32 rounded to odd,
    which keeps the side that the second rounding must see; bfloat16 by bits: the interpreter truncates."""
    if y.dtype == tl.float64 and (dtype == tl.float16 or dtype == tl.bfloat16):
        f = y.to(tl.float32)
        back = f.to(tl.float64)
        u = f.to(tl.uint32, bitcast=True)
        fix = (back != y) & ((u & 1) == 0) & (y == y)
        u = tl.where(fix, tl.where(tl.abs(back) > tl.abs(y), u - 1, u + 1), u)
        y = u.to(tl.float32, bitcast=True)
    if dtype == tl.bfloat16:
        u = y.to(tl.uint32, bitcast=True)
        rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
        y = tl.where(y != y, (u >> 16) | 0x40, rounded).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        y = y.to(dtype)
    return y
