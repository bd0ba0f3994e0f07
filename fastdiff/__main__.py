"""python -m fastdiff info | solvers | grids | processes"""
from __future__ import annotations

import argparse
import re
import sys


def info() -> list[tuple[str, str]]:
    """Versions, backends built and usable, devices."""
    import platform

    import torch

    from . import __version__
    from .ops import _backends

    rows = [("fastdiff", __version__), ("torch", torch.__version__)]
    rows += [("python", platform.python_version())]
    rows += [("backends on cpu", ", ".join(_backends.usable("cpu")))]
    from . import _C  # type: ignore[attr-defined]

    rows += [("cpu instruction set", f"{_C.isa()} (of {', '.join(_C.isas())}), {_C.threads()} threads")]
    why = _backends.missing("cuda", "cuda")
    rows += [("cuda module", "usable" if why is None else why)]
    why = _backends.missing("triton", "cuda")
    rows += [("triton", "usable" if why is None else why)]
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(i) for i in range(gpus)]
    return [*rows, ("gpus", ", ".join(names) or "none")]


def solvers() -> tuple[list[str], list[list[str]]]:
    """key, paper, order, network calls per step, tensors carried: read off compiled plans of 30 steps."""
    from .core.plan import plan
    from .core.process import Process
    from .core.solver import solvers as registry
    from .processes import PSLD, VP
    from .runtime.sample import grid

    head = ["key", "what", "source", "order", "calls a step", "tensors carried", "draws a step"]
    steps = 30
    plain: dict[str, Process] = {"gaussian": VP(), "linear": PSLD()}
    times = {k: grid(v.default_grid, v, steps=steps, final="sigma_min") for k, v in plain.items()}
    rows = []
    for key in registry.names():
        cls = registry.get(key)
        text = sys.modules[cls.__module__].__doc__ or ""
        what = text.split("\n", 1)[0].split(":")[0].rstrip(".")
        found = re.search(r"Source: ([^\n]*?arXiv:[\d.]+\d)", text)
        source = found.group(1) if found else cls.source
        solver = registry.make(key)
        if solver.adaptive:
            counts = ["adaptive", "-", "-"]
        else:
            kind = solver.kinds[0]
            p = plan(solver, plain[kind], times[kind], predicts="noise")
            draws = sum(len(s.draws) for s in p.stages)
            counts = [f"{p.nfe / steps:.2g}", str(p.carried), f"{draws / steps:.2g}"]
        rows.append([key, what, source, str(solver.order), *counts])
    return head, rows


def documented(family: str) -> tuple[list[str], list[list[str]]]:
    """Keys of a family with the first line of what their files say."""
    from .core.grid import grids
    from .core.process import processes

    registry = {"grids": grids, "processes": processes}[family]
    rows = []
    for key in registry.names():
        text = sys.modules[registry.get(key).__module__].__doc__ or ""
        rows.append([key, registry.get(key).__name__, text.split("\n", 1)[0]])
    return ["key", "class", "what"], rows


def table(head: list[str], rows: list[list[str]], markdown: bool) -> str:
    if markdown:
        return "\n".join("| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows])
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    lines = ("  ".join(v.ljust(w) for v, w in zip(r, widths, strict=True)) for r in [head, *rows])
    return "\n".join(line.rstrip() for line in lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastdiff", description=__doc__)
    parser.add_argument("what", choices=["info", "solvers", "grids", "processes"])
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")
    args = parser.parse_args(argv)
    if args.what == "info":
        print(table(["", ""], [list(r) for r in info()], args.markdown).strip())
    else:
        print(table(*(solvers() if args.what == "solvers" else documented(args.what)), args.markdown))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
