"""What the kernels should cost on a GPU, worked out from the machine code: no GPU is needed.

    python tools/predict_gpu.py build/.../_cuda*.so             Markdown tables, as in docs/performance.md
    python tools/predict_gpu.py _cuda*.so --gpu h100 --write    puts them into docs/performance.md

Registers, loads and instructions are read off the module (check_cuda.py); the rest is arithmetic:

    blocks    resident on a multiprocessor: what registers, threads and shared memory leave room for
    ahead     bytes that all threads together have asked for and not yet got; by Little's law memory is busy
              when they are as many as bandwidth times latency (of the reading part of the traffic)
    memory    bytes / copy bandwidth, divided by min(1, ahead / needed)
    issue     instructions of the loop's body, as each of the pipes takes them, over all the multiprocessors
    time      launch + max(memory, issue)

Every branch of a body is counted, so `issue` is an upper bound; caches are not counted on, so below the size
of the second cache `memory` is one too.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from check_cuda import DTYPES, RESIDENT, THREADS, Kernel, read, tool  # noqa: E402

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- made by tools/predict_gpu.py -->", "<!-- end -->"
SIZES = {"64 K": 1 << 16, "1 M": 1 << 20, "16 M": 1 << 24, "256 M": 1 << 28}
STEPS, DEPTH, INCREMENTS = 20, 16, 20
# Issue slots of 32 lanes for which an instruction keeps its pipe busy; a quarter multiprocessor issues one a
# clock.
# Its float pipe takes a warp in one clock, the integer one and wide products in two, conversions and special
# functions in eight, float64 in two.
PIPES: tuple[tuple[str, str, int], ...] = (
    ("special", r"MUFU|F2F|F2I|I2F|FRND|POPC|BREV|FLO", 8),
    ("double", r"DADD|DMUL|DFMA|DSETP", 2),
    ("wide", r"IMAD", 2),
    ("float", r"FADD|FMUL|FFMA|HADD|HMUL|HFMA", 1),
    ("memory", r"LD|ST|ATOM|RED", 4),
    ("integer", r"IADD|LOP|SHF|LEA|ISETP|SEL|FS|FMNMX|IMNMX|PRMT|PLOP|I2I|F2FP|IABS|VI|SGXT|P2R|R2P", 2),
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """Facts of a data sheet, and a copy as it was seen on such cards."""

    name: str
    bandwidth: float  # bytes/s of the data sheet
    copy: float  # bytes/s of a large copy, read and written
    clock: float = 1.755e9
    multiprocessors: int = 132
    latency: float = 700e-9  # of a load from memory under load
    launch: float = 2e-6  # of a small kernel in a graph, from one node's begin to the next one's

    @property
    def needed(self) -> float:
        """Bytes on the way on one multiprocessor that keep memory busy."""
        return self.bandwidth * self.latency / self.multiprocessors

    @property
    def slots(self) -> float:
        """Lanes issued in a second."""
        return self.multiprocessors * 4 * 32 * self.clock


GPUS = {"h200": Gpu("H200", 4.8e12, 4.3e12), "h100": Gpu("H100 SXM", 3.35e12, 3.0e12)}


@dataclass(frozen=True)
class Work:
    """What a pass over the elements does: with which kernel, tensors read and written."""

    what: str
    kernel: str
    reads: int
    writes: int
    width: int = 4  # bytes of an element
    per_step: float = 1.0  # turns of the loop inside the one over the elements, where there is one


def draws(i: int, j: int, depth: int) -> int:
    """Normals of an element for the increment from cell i to cell j: the nodes on the way to both ends."""
    lo, cells, number = 0, 1 << depth, 1
    ends: list[tuple[int, int]] = []
    while not (i == lo and j == lo + cells):
        cells //= 2
        number += 1
        if i < lo + cells < j:
            ends = [(lo, i), (lo + cells, j)]
            break
        lo += cells * (i >= lo + cells)
    for k, (lo, at) in enumerate(ends):
        left = cells
        while at != (lo + left if k else lo):
            left //= 2
            number += 1
            lo += left * (at > lo + left if k else at >= lo + left)
    return number


def scattered() -> float:
    """Mean over the increments between random times, those of bench/brownian.py."""
    import numpy as np

    times = [0.0, *sorted(np.random.default_rng(0).random(INCREMENTS - 1)), 1.0]
    cells = [round(t * 2**DEPTH) for t in times]
    return sum(draws(a, b, DEPTH) for a, b in zip(cells, cells[1:], strict=False)) / INCREMENTS


STEP = {"2M step": (3, 2, ""), "2M step + noise": (3, 2, ", noise"), "UniPC-2 step": (5, 3, "")}
WORKS = [
    *(Work(f"{what}, float32", f"float32 {i} -> {o}{z}", i, o) for what, (i, o, z) in STEP.items()),
    Work("2M step, bfloat16", "bfloat16 3 -> 2", 3, 2, 2),
    Work("2M step + noise, bfloat16", "bfloat16 3 -> 2, noise", 3, 2, 2),
    Work("perturb, float32", "float32 1 -> 1, noise", 1, 1),
    Work("regression_loss with noise and slope, float32", "regression_loss, float32", 1, 1),
    Work("Brownian query, depth 16, float32", "brownian", 0, 1, per_step=scattered()),
]
SAMPLERS = {"dpmpp-2m": "2M step", "dpmpp-2m-sde": "2M step + noise", "unipc-2": "UniPC-2 step"}
SHAPES = {"16x4x64x64": 1 << 18, "1x16x21x60x104": 2096640}


def slots(code: Counter[str]) -> float:
    """Issue slots of a stretch of code: those of the busiest pipe, or one for each instruction."""
    busy: Counter[str] = Counter()
    for op, n in code.items():
        pipe, cost = next(((p, c) for p, pattern, c in PIPES if re.match(pattern, op)), ("other", 1))
        busy[pipe] += n * cost
    return max(sum(code.values()), *busy.values())


def per_element(k: Kernel, w: Work) -> float:
    """Issue slots of a lane for one element."""
    if w.per_step != 1.0:  # four elements walk a tree; what is outside that loop is run once
        tree, whole = k.between(k.loops[-2]), k.between(k.loops[-1])
        return (slots(whole - tree) + w.per_step * slots(tree)) / 4
    code = k.between(k.loops[-1])
    vectors = sum(n for op, n in code.items() if op.startswith("LDG.E.128")) // w.reads if k.fast else 1
    return slots(code) / (vectors * (16 // w.width if k.fast else 4))


def ahead(k: Kernel, w: Work) -> float:
    """Of what memory needs, the share of bytes that are on the way, at most 1."""
    return k.bytes_ahead * THREADS * k.blocks if w.reads else 0.0


def seconds(k: Kernel, w: Work, n: int, gpu: Gpu) -> float:
    moved = n * w.width * (w.reads + w.writes)
    needed = gpu.needed * w.reads / (w.reads + w.writes)
    memory = moved / gpu.copy / (min(1.0, ahead(k, w) / needed) if w.reads else 1.0)
    return gpu.launch + max(memory, n * per_element(k, w) / gpu.slots)


def markdown(head: Sequence[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def tables(kernels: dict[str, Kernel], gpu: Gpu) -> Iterator[str]:
    yield f"Kernels, sm_90 machine code, {THREADS} threads a block; bytes on the way for the {gpu.name}:"
    yield ""
    rows = []
    for w in WORKS:
        k = kernels[w.kernel]
        loads, hinted = k.count(r"LDG\.E\.128"), k.count(r"(LDG|STG)\.E\.(EF|EL|LU|NA)")
        needed = gpu.needed * w.reads / (w.reads + w.writes)
        flight = f"{ahead(k, w) / 1024:.0f} of {needed / 1024:.0f}" if w.reads else "writes only"
        rows.append(
            [
                w.what,
                str(k.registers),
                str(k.stack),
                str(k.shared),
                f"{k.blocks} ({k.blocks * THREADS / RESIDENT:.0%})",
            ]
            + [f"{loads} / {k.count(r'STG.E.128')}", str(hinted), str(k.count("FFMA"))]
            + [flight, f"{per_element(k, w):.0f}"]
        )
    yield from markdown(
        (
            "work",
            "registers",
            "spilled bytes",
            "shared bytes",
            "blocks (occupancy)",
            "16-byte loads / stores",
            "cache hints",
        )
        + ("fused, all in roots", "KiB on the way, needed", "issue slots an element"),
        rows,
    )
    yield f"Time of one pass on the {gpu.name}, us, and the share of the copy's bandwidth at the largest:"
    yield ""
    rows = []
    for w in WORKS:
        k, n = kernels[w.kernel], max(SIZES.values())
        took = [seconds(k, w, n, gpu) for n in SIZES.values()]
        share = n * w.width * (w.reads + w.writes) / gpu.copy / took[-1]
        bound = "issue" if n * per_element(k, w) / gpu.slots > 0.99 * (took[-1] - gpu.launch) else "memory"
        rows.append([w.what, *(f"{1e6 * t:.3g}" for t in took), f"{share:.0%}", bound])
    yield from markdown(("work", *SIZES, "of copy", "bound by"), rows)
    yield f"Captured samplers of {STEPS} steps with a network that takes no time, us:"
    yield ""
    rows = []
    for name, step in SAMPLERS.items():
        for w in (w for w in WORKS if w.what.rsplit(",", 1)[0] == step):
            took = (STEPS * seconds(kernels[w.kernel], w, n, gpu) for n in SHAPES.values())
            rows.append([name, w.what.rsplit(", ", 1)[1], *(f"{1e6 * t:.3g}" for t in took)])
    yield from markdown(("sampler", "dtype", *SHAPES), rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("module", type=Path, help="a built _cuda module")
    parser.add_argument("--gpu", choices=GPUS, default="h200")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(PAGE.parent.parent)}")
    args = parser.parse_args()
    binary = tool("cuobjdump")
    if binary is None:
        sys.exit("predict_gpu: no cuobjdump; the CUDA toolkit and the triton wheel have it")
    kernels = {}
    for k in read(binary, args.module, "sm_90"):
        i, o, noise = k.fast[1:] if k.fast else (0, 0, 0)
        name = f"{DTYPES[k.fast[0]]} {i} -> {o}{', noise' if noise else ''}" if k.fast else k.name
        kernels[name] = k
    text = "\n".join(tables(kernels, GPUS[args.gpu]))
    if not args.write:
        print(text)
        return 0
    page = PAGE.read_text()
    before, rest = page.split(BEGIN, 1)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END, 1)[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
