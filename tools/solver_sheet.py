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
from functools import lru_cache
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
from fastdiff.testing.phase_space import PhaseMixture, phase_law
from fastdiff.testing.solvers import planned

PAGE = Path(__file__).parents[1] / "docs" / "solvers.md"
CALLS = (5, 10, 20, 50)
FINE = (160, 320)
TOLERANCES = (1e-1, 1e-2, 1e-3)
MIXTURE = GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.3, 0.5])
MEAN, STD = 0.7, 0.4
VP, EDM = processes.get("vp")(), processes.get("edm")()
PSLD: Any = processes.make("psld", nu=3.75, gamma=0.25, beta_min=0.1, beta_max=8.0)

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


PHASE = """## Several registers

Of PSLD with nu = 3.75, gamma = 0.25 and beta from 0.1 to 8, on equal steps of time from 1 to 0.05; the errors
are those of x, from 25 pairs (x, v). `ddim` goes by another flow of the same marginals: it is measured as
the stochastic ones are. Bytes are those of both registers.

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


@lru_cache
def phase_problem() -> tuple[PhaseMixture, list[torch.Tensor], Any]:
    """The mixture, starts (x, v) at t = 1, and x at 0.05 of the probability flow."""
    oracle, line = PhaseMixture(MIXTURE, PSLD), torch.linspace(-2, 2, 5, dtype=torch.float64)
    z = [a.reshape(-1) for a in torch.meshgrid(line, line * PSLD.mass**0.5, indexing="ij")]
    return oracle, z, oracle.flow(z, 1.0, 0.05)[0]


def phase_error(p: Plan, law: bool) -> float:
    """The measures of the other tables: of the law on Gaussian data, or of the mixture's flow."""
    if law:
        data = PhaseMixture(GaussianMixture([1.0], [MEAN], [STD]), PSLD)
        (m,), (C,), _ = data.components(0.05)
        made = phase_law(p, PSLD, mean=MEAN, std=STD, draws=8 * p.steps + 8)
        return math.hypot(made.mean[0] - m[0], made.cov[0, 0] ** 0.5 - C[0, 0] ** 0.5)
    oracle, z, exact = phase_problem()
    end = interpret(p, lambda z, call, b: oracle.outputs(z, call.t, "noise"), z[0], consts={"v": z[1]})
    return float(np.abs(end.numpy() - exact).max())


def phase_row(key: str) -> list[str]:
    solver = solvers.make(key)
    predicts = "data" if solver.predicts == "data" else "noise"
    law = bool(solver.stochastic) or predicts == "data"

    def made(steps: int) -> Plan:
        return plan(solver, PSLD, np.linspace(1, 0.05, steps + 1), predicts=predicts)

    def at(calls: int) -> str:
        fits = next((n for n in range(calls, 0, -1) if made(n).nfe <= calls), None)
        return "-" if fits is None else f"{phase_error(made(fits), law):.1e}"

    p = made(30)
    cells = [
        f"`{key}`",
        source(key),
        solver.predicts,
        f"{p.nfe / 30:.2g}",
        str(p.carried),
        f"{p.traffic(4):.3g}",
    ]
    measured = order_of([phase_error(made(n), law) for n in FINE], FINE, floor=1e-10)
    return [*cells, f"{p.order}" + (" weak" if law else ""), f"{measured:.1f}", *map(at, CALLS)]


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


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows]) + "\n"


def page() -> str:
    parts = [HEAD]
    rows = {key: row(key) for key in solvers.names(kind="gaussian")}
    head = ["key", "paper", "predicts", "calls", "carried", "bytes", "order", "measured"]
    head += [f"error, {n}" for n in CALLS]
    fixed = [key for key in rows if not solvers.make(key).adaptive]
    for title, stochastic in (("Probability flow", False), ("Stochastic", True)):
        some = [rows[key] for key in fixed if bool(solvers.make(key).stochastic) == stochastic]
        parts.append(f"## {title}\n\n" + table(head, some))
    parts.append(PHASE + table(head, [phase_row(key) for key in planned("linear")]))
    head = ["key", "paper", "predicts", "order", *(f"rtol {tol:g}" for tol in TOLERANCES)]
    some = [rows[key] for key in rows if key not in fixed]
    parts.append("## Adaptive, each sample with steps of its own\n\n" + table(head, some))
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
