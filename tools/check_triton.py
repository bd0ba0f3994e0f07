"""Compile the Triton twins ahead of time and read what came out: no GPU is needed.

    python tools/check_triton.py [--capability 90]

Each variant must have 128-bit loads and stores for its tensors, no fused multiply-add, nothing approximate,
no flushing of subnormals: a contraction would change bits that the other backends agree on.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastdiff.ops.noise import PARAMETERS
from fastdiff.ops.triton import brownian, error_norm, linear_step, noise, normal, sums
from fastdiff.ops.triton._launch import OPTIONS

ALIGNED = [["tt.divisibility", 16]]
FORBIDDEN = {"fused multiply-add": r"\bfma\.", "approximation": r"\.approx", "flushed subnormals": r"\.ftz"}


def step(
    inputs: tuple[str, ...], out: str, n_out: int, *, noise: int = 0, layout: int = 0, wide: str = "fp32"
) -> Any:
    signature: dict[str, Any] = {
        "T": tuple(f"*{d}" for d in inputs),
        "out": (f"*{out}",) * n_out,
        "A": f"*{wide}",
        "index": "*i32",
        "rng": "*i64",
    }
    signature |= {k: "i64" for k in ("E", "parts", "groups", "part", "index_step")}
    signature |= {f"{k}{c}": "i32" for k in "ds" for c in range(4)}
    constants = {
        "N_IN": len(inputs),
        "N_OUT": n_out,
        "N_NOISE": noise,
        "CONSTANT": 0,
        "LAYOUT": layout,
        "BLOCK": 1024,
    }
    aligned = [(0, i) for i in range(len(inputs))] + [(1, j) for j in range(n_out)] + [(5,)]
    return linear_step.step_kernel, signature, constants, aligned


def fill(out: str, is_normal: bool) -> Any:
    signature = {"out": f"*{out}", "rng": "*i64", "E": "i64", "parts": "i64", "draw": "i32", "stream": "i32"}
    return normal.fill_kernel, signature, {"NORMAL": is_normal, "BLOCK": 1024}, [(0,), (2,)]


def norm(inputs: tuple[str, ...], largest: bool, wide: str = "fp32") -> Any:
    signature: dict[str, Any] = {"T": tuple(f"*{d}" for d in inputs)}
    signature |= {"C": f"*{wide}", "a": f"*{inputs[0]}", "b": f"*{inputs[0]}", "work": "*fp64"}
    signature |= {"limits": f"*{wide}", **{k: "i64" for k in ("E", "chunks", "C_step")}}
    constants = {"N_IN": len(inputs), "LARGEST": largest, "BLOCK": 1024, "LEVELS": 10}
    aligned = [(0, i) for i in range(len(inputs))] + [(2,), (3,), (6,)]
    return error_norm.chunk_kernel, signature, constants, aligned


def norm_end(largest: bool) -> Any:
    signature = {"work": "*fp64", "out": "*fp32", "E": "i64", "chunks": "i64"}
    return error_norm.end_kernel, signature, {"LARGEST": largest, "BLOCK": 1024, "LEVELS": 10}, []


def loss(
    inputs: tuple[str, ...], rho: str, *, noise: int = 0, masked: bool = False, wide: str = "fp32"
) -> Any:
    d = inputs[0]
    signature: dict[str, Any] = {"pred": f"*{d}", "T": tuple(f"*{k}" for k in inputs[1:]), "C": f"*{wide}"}
    signature |= {"w": f"*{wide}", "mask": f"*{d}", "rng": "*i64", "work": "*fp64", "slope": f"*{d}"}
    signature |= {"limits": "*fp64", **{k: "i64" for k in ("E", "chunks", "C_step", "mask_step")}}
    signature |= {"d0": "i32", "s0": "i32"}
    constants = {"N_IN": len(inputs) - 1, "N_NOISE": noise, "CONSTANT": 0, "RHO": sums.RHO[rho]}
    constants |= {"WEIGHTED": True, "MASKED": masked, "SLOPE": True, "BLOCK": 1024, "LEVELS": 10}
    aligned = [(0,), *((1, i) for i in range(len(inputs) - 1)), (4,), (7,), (9,), (12,)]
    return sums.loss_kernel, signature, constants, aligned


def dots(inputs: tuple[str, ...], *, noise: int = 0, rows: int = 0, wide: str = "fp32") -> Any:
    signature: dict[str, Any] = {"T": tuple(f"*{k}" for k in inputs), "R": f"*{wide}", "rng": "*i64"}
    signature |= {"work": "*fp64", **{k: "i64" for k in ("E", "chunks", "R_step")}}
    signature |= {f"{k}{c}": "i32" for k in "ds" for c in range(4)}
    last = rows - 1 if rows else len(inputs)
    constants: dict[str, Any] = {"PAIRS": (0, 0, 0, last), "SIZES": 2, "NEEDED": -1, "N_IN": len(inputs)}
    constants |= {"N_NOISE": noise, "ROWS": rows, "CONSTANT": 0, "BLOCK": 1024, "LEVELS": 10}
    constants |= {"REAL": tl.float64 if wide == "fp64" else tl.float32}
    return sums.dots_kernel, signature, constants, [*((0, i) for i in range(len(inputs))), (4,)]


def kl(d: str, *, learned: bool, bins: bool) -> Any:
    signature: dict[str, Any] = {k: f"*{d}" for k in ("pred", "var", "x0", "xt")}
    signature |= {"C": "*fp64", "is_bin": "*i32", "w": "*fp64", "limits": "*fp64", "work": "*fp64"}
    signature |= {"by_pred": f"*{d}", "by_var": f"*{d}", "E": "i64", "chunks": "i64"}
    constants = {"LEARNED": learned, "BINS": bins, "WEIGHTED": True, "BY_PRED": True, "BY_VAR": learned}
    aligned = [(k,) for k in (0, 1, 2, 3, 9, 10, 11)]
    return sums.kl_kernel, signature, constants | {"BLOCK": 1024, "LEVELS": 10}, aligned


def sums_end(root: bool, total: bool) -> Any:
    signature = {"work": "*fp64", "out": "*fp32", "w": "*fp32", "limits": "*fp64", "total": "*fp64"}
    signature |= {"weights": "*fp64", "chunks": "i64", "weights_step": "i64"}
    constants = {
        "SUMS": 2 if total else 1,
        "EMPTY": False,
        "OUT": not total,
        "WEIGHTED": not total,
        "ROOT": root,
    }
    return sums.end_kernel, signature, constants | {"TOTAL": total, "BLOCK": 1024, "LEVELS": 10}, []


def law(family: str, boost: int) -> Any:
    signature: dict[str, Any] = {"out": "*fp32", "rng": "*i64"}
    signature |= {k: "i64" for k in ("E", "parts")} | {k: "i32" for k in ("draw", "stream")}
    signature |= {k: "i64" for k in ("offset", "n1", "n2", "n3", "t0", "t1", "t2", "t3", "symmetric")}
    signature |= {f"f{i}": "fp32" for i in range(5)} | {"ones": "i64"}
    constants = {
        "FAMILY": family,
        "SHIFT": noise.SHIFT.get(family, 2),
        "BOOST": boost,
        "SYMMETRIC": True,
        "BLOCK": 1024,
    }
    return noise.law_kernel, signature, constants, [(0,), (2,)]


def increment(out: str, levy: bool = False, own: bool = False, clock: bool = False) -> Any:
    signature = {"W_out": f"*{out}", "H_out": f"*{out}", "rng": "*i64", "at": "*i64"}
    signature |= {k: "*fp32" for k in ("coefs", "scale", "H_scale")}
    signature |= {"first": "i64", "last": "i64", "depth": "i32", "rows": "i32", "E": "i64", "parts": "i64"}
    flags = {"LEVY": levy, "IN_MEMORY": own, "OWN": own, "CLOCK": clock, "SCALED": True}
    return brownian.brownian_kernel, signature, flags | {"BLOCK": 1024}, [(0,), (1,), (11,)]


def variants() -> Iterator[tuple[str, Any]]:
    for d in ("fp32", "bf16", "fp16"):
        yield f"step {d} 3 -> 2", step((d,) * 3, d, 2)
        yield f"step {d} 3 -> 2, noise", step((d,) * 3, d, 2, noise=1)
    yield "step fp64 2 -> 1, noise", step(("fp64",) * 2, "fp64", 1, noise=1, wide="fp64")
    yield "step fp32 + bf16 -> fp32, per sample", step(("fp32", "bf16"), "fp32", 1, layout=1)
    yield "step fp32 2 -> 1, per group", step(("fp32",) * 2, "fp32", 1, layout=2)
    yield "step fp32 12 -> 4, 4 noise columns", step(("fp32",) * 12, "fp32", 4, noise=4)
    for d in ("fp32", "bf16", "fp16", "fp64"):
        yield f"fill normal {d}", fill(d, True)
        yield f"fill uniform {d}", fill(d, False)
        yield f"brownian {d}", increment(d)
    yield "brownian fp32, levy", increment("fp32", levy=True)
    yield "brownian fp32, own intervals", increment("fp32", own=True)
    yield "brownian fp32, clock", increment("fp32", clock=True)
    for family in PARAMETERS:
        yield f"law {family}", law(family, 0)
    for family in ("gamma", "multivariate_t"):
        yield f"law {family}, boosted", law(family, 1)
    yield "law gamma, not centred", law("gamma", -1)
    for largest in (False, True):
        what = "max" if largest else "rms"
        yield f"norm {what} fp32 + bf16", norm(("fp32", "bf16"), largest)
        yield f"norm {what} fp64", norm(("fp64",), largest, "fp64")
        yield f"norm {what}, end", norm_end(largest)
    for rho in sums.RHO:
        yield f"loss {rho} fp32, noise made", loss(("fp32",) * 2, rho, noise=1)
    for d in ("bf16", "fp16"):
        yield f"loss l2 {d}, noise read, masked", loss((d,) * 3, "l2", masked=True)
    yield "loss l2 fp64", loss(("fp64",) * 2, "l2", noise=1, wide="fp64")
    yield "dots fp32 + bf16, noise", dots(("fp32", "bf16"), noise=1)
    yield "dots fp32, rows", dots(("fp32",) * 3, noise=1, rows=2)
    yield "dots fp64", dots(("fp64",) * 2, wide="fp64")
    yield "kl fp32", kl("fp32", learned=False, bins=False)
    yield "kl bf16, learned, bins", kl("bf16", learned=True, bins=True)
    yield "sums, end", sums_end(False, False)
    yield "sums, end, root", sums_end(True, False)
    yield "sums, end, total", sums_end(False, True)


def compiled(variant: Any, capability: int, options: dict[str, Any] = OPTIONS) -> str:
    """The PTX of a variant."""
    kernel, signature, constants, aligned = variant
    signature = signature | {name: "constexpr" for name in constants}
    source = ASTSource(kernel, signature, constants, {path: ALIGNED for path in aligned})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]


def faults(ptx: str) -> list[str]:
    found = [what for what, pattern in FORBIDDEN.items() if re.search(pattern, ptx)]
    loads = bool(re.search(r"ld\.global\.(v4\.b32|v2\.b64)", ptx))
    loads = loads or any(f"{name}_kernel" in ptx for name in ("fill", "law", "brownian"))
    stores = bool(re.search(r"st\.global\.(v4\.b32|v2\.b64)", ptx))
    # a norm stores one number for a chunk, and its end reads few
    loads, stores = loads or "end_kernel" in ptx, stores or "chunk_kernel" in ptx or "end_kernel" in ptx
    stores = stores or "dots_kernel" in ptx
    return found + ["no 128-bit load"] * (not loads) + ["no 128-bit store"] * (not stores)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90)
    capability, bad = parser.parse_args().capability, 0
    for name, variant in variants():
        wrong = faults(compiled(variant, capability))
        bad += bool(wrong)
        print(f"{'wrong: ' + ', '.join(wrong) if wrong else 'ok':24}{name}")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
