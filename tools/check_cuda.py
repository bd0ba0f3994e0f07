"""Compile the CUDA kernels and read the machine code: no GPU is needed.

    python tools/check_cuda.py                         compiles csrc/cuda/*.cu into a temporary folder
    python tools/check_cuda.py build/.../_cuda*.so     reads what is built (also object files)

No kernel may spill, use the stack or contract a product and a sum: a contraction would change bits that the
other backends agree on. Those for tensors of one type must move whole vectors of 16 bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

CUDA = Path(__file__).resolve().parent.parent / "csrc" / "cuda"
FLAGS = ["-c", "-O3", "-std=c++17", "--fmad=false", "-Xptxas=-v,-warn-spills"]  # as in CMakeLists.txt
THREADS, MOST_REGISTERS = 256, 128  # of a block; two blocks on a multiprocessor
REGISTERS, RESIDENT = 65536, 2048  # of a multiprocessor, and its threads
FUSED, FLUSHING = "FFMA|DFMA", r"[FH]\w+.*\.FTZ"
DTYPES = ("float32", "float16", "bfloat16")
SUMS = ("regression_loss", "dots", "gaussian_kl")


@dataclass
class Kernel:
    name: str
    fast: tuple[int, ...] | None  # dtype, inputs, outputs, noise
    registers: int
    stack: int
    shared: int
    code: Counter[str]
    listing: list[tuple[int, str, int | None]]  # address, instruction, where it may jump to

    @property
    def loops(self) -> list[tuple[int, int]]:
        """From and to which address, the longest last; a branch to itself ends the code."""
        spans = [(to, at) for at, op, to in self.listing if to is not None and to < at]
        return sorted(spans, key=lambda span: span[1] - span[0])

    def between(self, span: tuple[int, int]) -> Counter[str]:
        return Counter(op for at, op, _ in self.listing if span[0] <= at <= span[1])

    def count(self, pattern: str) -> int:
        return sum(n for op, n in self.code.items() if re.match(pattern, op))

    @property
    def blocks(self) -> int:
        """Resident on a multiprocessor; registers are given out by eights to a thread."""
        return min(REGISTERS // (-(-self.registers // 8) * 8 * THREADS), RESIDENT // THREADS)

    @property
    def bytes_ahead(self) -> int:
        """Of inputs that a thread asks for before it uses the first."""
        return 16 * self.count(r"LDG\.E\.128")

    def faults(self) -> list[str]:
        found = []
        if self.registers > MOST_REGISTERS:
            found.append(f"uses {self.registers} registers, more than {MOST_REGISTERS}")
        if self.stack or self.count("LDL|STL"):
            found.append(f"spills: {self.stack} bytes of stack, {self.count('LDL|STL')} accesses to it")
        # A rounded square root is an estimate that fused operations correct: two of them, three where the
        # argument is out of the ordinary; a rounded quotient likewise of a reciprocal, by up to nine of them.
        # Nothing else may be fused, or flush subnormals.
        roots, quotients = self.count("MUFU.RSQ"), self.count("MUFU.RCP")
        for what, pattern, by_root, by_quotient in (("fused", FUSED, 3, 9), ("flushing", FLUSHING, 5, 5)):
            number = self.count(pattern)
            if number > by_root * roots + by_quotient * quotients:
                found.append(f"has {number} {what} operations for {roots} roots and {quotients} quotients")
        if self.count("MUFU") > roots + quotients:
            found.append("approximates something (MUFU)")
        if self.fast:
            _, n_in, n_out, _ = self.fast
            for what, pattern, least in (("loads", "LDG.E.128", n_in), ("stores", "STG.E.128", n_out)):
                if self.count(pattern) < least:
                    found.append(f"has {self.count(pattern)} {what} of 16 bytes, fewer than {least}")
            if self.count(r"STG\.E$|STG\.E\.(64|U16|U8)"):
                found.append("stores less than 16 bytes at a time")
        if self.name.startswith(SUMS) and "end" not in self.name and not self.count("LDG.E.128"):
            found.append("has no load of 16 bytes")
        return found


def tool(name: str) -> str | None:
    """From PATH, or out of the triton wheel."""
    if found := shutil.which(name):
        return found
    spec = importlib.util.find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        return None
    inside = Path(spec.submodule_search_locations[0]) / "backends" / "nvidia" / "bin" / name
    return str(inside) if inside.exists() else None


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"check_cuda: {' '.join(command[:2])} ... failed\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def describe(mangled: str) -> tuple[str, tuple[int, ...] | None]:
    if m := re.search(r"fast_stepIL.*?E(\d)ELi(\d+)ELi(\d+)ELb(\d)", mangled):
        dtype, n_in, n_out, noise = fast = tuple(map(int, m.groups()))
        return f"{DTYPES[dtype]} {n_in} -> {n_out}{', noise' if noise else ''}", fast
    if m := re.search(r"general_kernelI([fd])Lb(\d)E", mangled):
        return f"general, float{32 if m[1] == 'f' else 64}{', short parts' if m[2] == '1' else ''}", None
    if m := re.search(r"8brownianILb(\d)E", mangled):
        return f"brownian{', areas' if m[1] == '1' else ''}", None
    if m := re.search(r"norm_(chunk|end)I([fd])?Lb(\d)E", mangled):
        kind = f", float{32 if m[2] == 'f' else 64}" if m[2] else ", end"
        return f"norm, {'max' if m[3] == '1' else 'rms'}{kind}", None
    if m := re.search(r"(loss|dots|kl)_(chunk|end)I?([fd])?", mangled):
        kind = {"f": ", float32", "d": ", float64", None: ""}[m[3]] if m[2] == "chunk" else ", end"
        return {"loss": "regression_loss", "dots": "dots", "kl": "gaussian_kl"}[m[1]] + kind, None
    if m := re.search(r"fill_(noise|positions)", mangled):
        return {"noise": "fill", "positions": "fill, mapped"}[m[1]], None
    return mangled, None


def ops(listing: list[tuple[int, str, int | None]]) -> tuple[Counter[str], list[tuple[int, str, int | None]]]:
    return Counter(op for _, op, _ in listing), listing


def read(binary: str, file: Path, arch: str) -> list[Kernel]:
    usage = run(binary, "-arch", arch, "-res-usage", str(file))
    code: dict[str, list[tuple[int, str, int | None]]] = defaultdict(list)
    name = ""
    for line in run(binary, "-arch", arch, "-sass", str(file)).splitlines():
        if m := re.search(r"Function : (\S+)", line):
            name = m[1]
        elif m := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)([^;]*)", line):
            to = re.search(r"0x([0-9a-f]+)\s*$", m[3]) if m[2].startswith("BRA") else None
            code[name].append((int(m[1], 16), m[2], int(to[1], 16) if to else None))
    kernels = []
    for mangled, *used in re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage):
        kernels.append(Kernel(*describe(mangled), *map(int, used), *ops(code[mangled])))
    return kernels


def compiled(nvcc: str, arch: str, folder: Path) -> list[Path]:
    objects = []
    for source in sorted(CUDA.glob("*.cu")):
        objects.append(folder / f"{source.stem}.o")
        log = run(nvcc, *FLAGS, f"-arch={arch}", str(source), "-o", str(objects[-1]))
        spills = [m for m in re.findall(r"(\d+) bytes spill", log) if m != "0"]
        if spills:
            sys.exit(f"check_cuda: ptxas reports spills in {source.name}: {', '.join(spills)} bytes")
    return objects


def table(kernels: list[Kernel]) -> None:
    """One line for a family; numbers by inputs, from 1 on."""
    rows: dict[str, list[Kernel]] = defaultdict(list)
    for k in sorted(kernels, key=lambda k: (k.fast is None, k.fast or (), k.name)):
        name = k.name
        if k.fast:
            dtype, _, n_out, noise = k.fast
            name = f"{DTYPES[dtype]} -> {n_out}{', noise' if noise else ''}"
        rows[name].append(k)
    print(f"{'kernel':30} {'registers':34} {'blocks/SM':18} KiB in flight/SM")
    for name, row in rows.items():
        flight = " ".join(str(k.bytes_ahead * THREADS * k.blocks // 1024) for k in row) if row[0].fast else ""
        registers = " ".join(f"{k.registers:3}" for k in row)
        print(f"{name:30} {registers:34} {' '.join(str(k.blocks) for k in row):18} {flight}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="a built _cuda module, or object files")
    parser.add_argument("--arch", default="sm_90")
    args = parser.parse_args()
    binary = tool("cuobjdump")
    with tempfile.TemporaryDirectory() as folder:
        files = args.files
        if not files:
            nvcc = shutil.which("nvcc")
            if nvcc is None:
                print("check_cuda: skipped, there is no nvcc")
                return 0
            if binary:
                files = compiled(nvcc, args.arch, Path(folder))
        if binary is None:
            print("check_cuda: no cuobjdump; the CUDA toolkit and the triton wheel have it", file=sys.stderr)
            return 1
        kernels = [k for f in files for k in read(binary, f, args.arch)]
    table(kernels)
    faults = [f"{k.name}: {fault}" for k in kernels for fault in k.faults()]
    if not any(k.fast for k in kernels):
        faults.append(f"no step kernel for {args.arch} found")
    for fault in faults:
        print(f"check_cuda: {fault}", file=sys.stderr)
    if not faults:
        print(f"{len(kernels)} kernels for {args.arch}: no spills, fused inside roots and quotients only,")
        print("vectors of 16 bytes where all tensors have one type")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
