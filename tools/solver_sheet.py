"""Writes docs/solvers.md: every solver with what it costs and how exact it is, measured.

    python tools/solver_sheet.py            write it
    python tools/solver_sheet.py --check    is it up to date? numbers within a unit of their last digit

Measured in float64 on lambda from -2.5 to 2.5: probability flows on a mixture of two normals on the line (the
largest error of 11 points against the flow itself), stochastic solvers on Gaussian data (Wasserstein-2
distance of their exact law to the marginal).
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastdiff.core.interpret import interpret
from fastdiff.core.plan import Plan, plan
from fastdiff.core.process import Process, processes
from fastdiff.core.solver import Solver, solvers
from fastdiff.runtime.adaptive import AdaptiveSampler
from fastdiff.runtime.denoiser import Denoiser
from fastdiff.testing import GaussianMixture, affine_law, order_of, pf_ode

PAGE = Path(__file__).parents[1] / "docs" / "solvers.md"
CALLS = (5, 10, 20, 50)
FINE = (160, 320)
TOLERANCES = (1e-1, 1e-2, 1e-3)
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
MEAN, STD = 0.7, 0.4
VP, EDM = processes.get("vp")(), processes.get("edm")()

HEAD = f"""# Solvers

Written by `python tools/solver_sheet.py`; CI checks that it is fresh. How a row is read:

- **calls** network calls a step; **carried** tensors that must be kept across a call, which equals the fewest
that
  any implementation could do with; **bytes** that a step's kernels move for each element in float32.
- **order** as the method's authors prove it, of the flow or (weak) of the SDE; **measured** between {FINE[0]}
and
  {FINE[1]} steps, with the default start: a multistep method that ramps up from order 1 is of order 2 at
  most. `startup="single"` gives it its own.
- **error** after so many network calls; "-" where that many are not enough for a step. Flows: the largest
error on a
  mixture of two normals on the line, lambda from -2.5 to 2.5, the exact flow of about size 2. Stochastic
  solvers: the distance (Wasserstein-2) of their exact law from the marginal of Gaussian data N({MEAN},
  {STD}^2). A method of high order wins where steps are small: at 5 or 8 calls it can lose to one of order 2.
"""


def grid(process: Process, steps: int) -> np.ndarray:
    return np.asarray(process.time_of(np.linspace(-2.5, 2.5, steps + 1)))


def made(solver: Solver, steps: int) -> tuple[Process, Plan]:
    process = EDM if solver.predicts == "slope" else VP
    return process, plan(solver, process, grid(process, steps))


def flow_error(solver: Solver, steps: int) -> float:
    process, p = made(solver, steps)
    first, last = (float(t) for t in p.times[[0, -1]])
    x = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64) * float(process.sigma(first))
    net = MIXTURE.denoiser(process, p.predicts)
    end = interpret(p, lambda x, call, branch: net(x, call.t), x)
    return float((end - pf_ode(MIXTURE, process, x, first, last)).abs().max())


def law_error(solver: Solver, steps: int) -> float:
    process, p = made(solver, steps)
    first, last = (process.node(float(t)) for t in p.times[[0, -1]])
    law = affine_law(
        lambda model, x, noise: interpret(p, lambda x, call, branch: model(x, call.t), x, noise=noise),
        process, float(first.t), mean=MEAN, std=STD, draws=8 * steps + 8,
    )  # fmt: skip
    return math.hypot(law.mean - last.alpha * MEAN, law.std - math.hypot(last.alpha * STD, last.sigma))


def row(key: str) -> list[str]:
    solver = solvers.make(key)
    error = law_error if solver.stochastic else flow_error
    if solver.adaptive:
        return [f"`{key}`", source(key), solver.predicts, str(solver.order), *tolerances(solver)]
    _, p = made(solver, 30)
    per_step = p.nfe / 30
    cells = [
        f"`{key}`",
        source(key),
        solver.predicts,
        f"{per_step:.2g}",
        str(p.carried),
        f"{p.traffic(4):.3g}",
    ]
    stated = f"{p.order}" + (" weak" if solver.stochastic else "")
    if not solver.linear:
        return [*cells, stated, *("-" for _ in range(1 + len(CALLS)))]  # its law has no closed form
    fine = [error(solver, n) for n in FINE]
    measured = "exact" if max(fine) < 1e-9 else f"{order_of(fine, FINE, floor=1e-10):.1f}"
    return [*cells, stated, measured, *(at(solver, error, n) for n in CALLS)]


def tolerances(solver: Solver) -> list[str]:
    """Error and mean calls at each relative tolerance; of a stochastic solver "-"."""
    if solver.stochastic:
        return ["-"] * len(TOLERANCES)
    first, last = (float(VP.time_of(v)) for v in (-2.5, 2.5))
    x = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)[:, None] * float(VP.sigma(first))
    exact = pf_ode(MIXTURE, VP, x, first, last)
    denoiser = Denoiser(MIXTURE.denoiser(VP, "noise"), VP, predicts="noise")
    found = []
    for tol in TOLERANCES:
        options = {"rtol": tol, "atol": tol / 10}
        run = AdaptiveSampler(denoiser, solvers.make(solver.key, **options), times=[first, last]).solve(x)
        error, calls = float((run.x - exact).abs().max()), float(run.calls.double().mean())
        found.append(f"{error:.1e}, {calls:.0f} calls")
    return found


def at(solver: Solver, error: Any, calls: int) -> str:
    """The error after at most that many calls."""
    for steps in range(calls, 0, -1):
        if made(solver, steps)[1].nfe <= calls:
            return f"{error(solver, steps):.1e}"
    return "-"


def source(key: str) -> str:
    cls = solvers.get(key)
    found = re.search(r"Source: ([^\n]*?arXiv:[\d.]+\d)", sys.modules[cls.__module__].__doc__ or "")
    return found.group(1) if found else cls.source


def page() -> str:
    parts = [HEAD]
    rows = {key: row(key) for key in solvers.names(kind="gaussian")}
    head = ["key", "paper", "predicts", "calls", "carried", "bytes", "order", "measured"]
    head += [f"error, {n}" for n in CALLS]
    fixed = [key for key in rows if not solvers.make(key).adaptive]
    for title, stochastic in (("Probability flow", False), ("Stochastic", True)):
        some = [rows[key] for key in fixed if bool(solvers.make(key).stochastic) == stochastic]
        lines = ["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *some]]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    head = ["key", "paper", "predicts", "order", *(f"rtol {tol:g}" for tol in TOLERANCES)]
    some = [rows[key] for key in rows if key not in fixed]
    lines = ["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *some]]
    parts.append("## Adaptive, each sample with steps of its own\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def fresh(old: str, new: str) -> bool:
    number = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")
    if number.sub("#", old) != number.sub("#", new):
        return False
    pairs = zip(number.findall(old), number.findall(new), strict=True)
    return all(a == b or math.isclose(float(a), float(b), rel_tol=0.11, abs_tol=1e-12) for a, b in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    new = page()
    if not check:
        PAGE.write_text(new)
        return 0
    if PAGE.exists() and fresh(PAGE.read_text(), new):
        return 0
    print(f"{PAGE.name} is out of date: run python tools/solver_sheet.py")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
