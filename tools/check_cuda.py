"""Looks at compiled CUDA kernels without a GPU: no spills, 16-byte loads and stores, no contraction.

    python tools/check_cuda.py                   compiles csrc/cuda for sm_90 and looks at that
    python tools/check_cuda.py fastdiff/_cuda.so looks at every target inside a built module

Bit equality with the other backends needs a multiplication and an addition that each round. The one place for
FFMA is inside the correctly rounded square root: two after each MUFU.RSQ, one more in its slow path.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "cuda"
MOST_REGISTERS = 168  # 256 threads of more would leave an SM with one block
_PTXAS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


@dataclass
class Kernel:
    arch: str
    name: str
    registers: int = 0
    stack: int = 0
    ops: Counter[str] = field(default_factory=Counter)

    def count(self, *starts: str) -> int:
        return sum(n for op, n in self.ops.items() if op.startswith(starts))

    def faults(self) -> list[str]:
        found = []
        if self.stack or self.count("STL", "LDL"):
            found.append(f"spills: {self.stack} bytes of stack, {self.count('STL', 'LDL')} local accesses")
        if self.registers > MOST_REGISTERS:
            found.append(f"{self.registers} registers, more than {MOST_REGISTERS}")
        roots = self.count("MUFU.RSQ")
        if self.count("FFMA", "DFMA") > (2 * roots + 1 if roots else 0):
            found.append(f"{self.count('FFMA', 'DFMA')} fused multiply-adds beside {roots} square roots")
        if self.vector and not (self.count("LDG.E.128") and self.count("STG.E.128")):
            found.append("no 16-byte load or no 16-byte store")
        return found

    @property
    def family(self) -> str:
        return next((f for f in ("same_type", "general", "fill") if f in self.name), "other")

    @property
    def vector(self) -> bool:
        return self.family == "same_type" or (self.family == "general" and "Lb1EEEv" in self.name)


def tool(name: str) -> str:
    """nvcc's neighbour, or the copy inside the triton wheel."""
    spec = importlib.util.find_spec("triton")
    inside = Path(spec.origin).parent / "backends/nvidia/bin" / name if spec and spec.origin else Path(name)
    path = shutil.which(name) or (str(inside) if inside.is_file() else None)
    if path is None:
        sys.exit(f"check_cuda: {name} is neither on PATH nor in a triton wheel")
    return path


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"check_cuda: {' '.join(command)} failed\n{done.stderr}")
    return done.stdout + done.stderr


def compiled(into: Path) -> tuple[list[Path], list[str]]:
    """Objects for sm_90, and what ptxas says about spills."""
    objects, spills = [], []
    for source in sorted(SOURCES.glob("*.cu")):
        objects.append(into / f"{source.stem}.o")
        flags = ["-std=c++17", "-O3", "--fmad=false", "-arch=sm_90", "-Xptxas", "-v", "-Xcompiler", "-fPIC"]
        report = output(tool("nvcc"), *flags, "-c", str(source), "-o", str(objects[-1]))
        said = _PTXAS.finditer(report)
        spills += [f"{source.name}: {m.group()}" for m in said if any(map(int, m.groups()))]
    return objects, spills


def kernels(binary: Path) -> list[Kernel]:
    found: dict[tuple[str, str], Kernel] = {}
    arch, kernel = "", None
    for line in output(tool("cuobjdump"), "-sass", str(binary)).splitlines():
        if m := re.search(r"^\s*arch = (\w+)", line):
            arch = m.group(1)
        elif m := re.search(r"Function : (\S+)", line):
            kernel = found.setdefault((arch, m.group(1)), Kernel(arch, m.group(1)))
        elif kernel and (m := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", line)):
            kernel.ops[m.group(1)] += 1
    for line in output(tool("cuobjdump"), "-res-usage", str(binary)).splitlines():
        if m := re.search(r"^\s*arch = (\w+)", line):
            arch = m.group(1)
        elif m := re.search(r"Function (\S+):", line):
            kernel = found.get((arch, m.group(1)))
        elif kernel and (m := re.search(r"REG:(\d+) STACK:(\d+)", line)):
            kernel.registers, kernel.stack = int(m.group(1)), int(m.group(2))
    return list(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", nargs="?", type=Path, help="a built _cuda*.so; default: compile")
    module = parser.parse_args().module
    with tempfile.TemporaryDirectory() as folder:
        objects, faults = ([module], []) if module else compiled(Path(folder))
        found = [k for o in objects for k in kernels(o)]
    if not found:
        sys.exit(f"check_cuda: no kernels in {module or SOURCES}")
    print("target   family     kernels  registers  128-bit  FFMA roots")
    for arch, family in sorted({(k.arch, k.family) for k in found}):
        some = [k for k in found if (k.arch, k.family) == (arch, family)]
        regs = f"{min(k.registers for k in some)}-{max(k.registers for k in some)}"
        wide = sum(1 for k in some if k.count("STG.E.128"))
        fused, roots = max(k.count("FFMA", "DFMA") for k in some), max(k.count("MUFU.RSQ") for k in some)
        print(f"{arch:8} {family:10} {len(some):7} {regs:>10} {wide:8} {fused:5} {roots:5}")
    faults += [f"{k.arch} {k.name}: {fault}" for k in found for fault in k.faults()]
    print("\n".join(faults) if faults else "no spills, no contraction, vectors whole", file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
