"""What it takes to test a solver of any key, one that was added today included.

planned(kind)      the keys that have a plan; the others choose their steps while they run
variants(key)      the options worth a test: every choice of every field
Digits             vectors of 60-digit numbers, for formulas run in more digits than float64 has
exact_mixture      the mixture's data prediction over them
network_rows       every network input of a formula as a row over x_T and the outputs before it
rank               of such rows, by elimination with full pivoting
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any

from ..core.direct import Direct
from ..core.number import Real, precision
from ..core.predict import convert, input_scale
from ..core.process import Node, Process
from ..core.solver import Solver, solvers
from ..core.solver import choices as allowed
from .mixture import GaussianMixture

Row = dict[int, Decimal]
# values worth a test of options that are numbers
SAMPLES = {"eta": (0.5, 1.0), "churn": (4.0,), "tau": (0.0, 0.6), "variance": ("large",)}


def planned(kind: str = "gaussian") -> list[str]:
    """Keys of solvers that by default have a fixed plan of linear stages alone, on processes of a kind."""
    return [k for k in solvers.names(kind) if (s := solvers.make(k)).linear and not s.adaptive]


def variants(key: str) -> list[dict[str, Any]]:
    """The defaults, then each other value of each field alone; order and startup in all combinations. Those
    that ask operators, which know tensors only, or make a planned solver adaptive are left out."""
    cls = solvers.get(key)
    default = {f.name: f.default for f in fields(cls)}  # type: ignore[arg-type]
    known = {**SAMPLES, **allowed(cls)}
    known |= {"order": getattr(cls, "orders", ()), "startup": getattr(cls, "startups", ())}
    others = {n: [v for v in known.get(n, ()) if v != default[n]] for n in default}
    both = [n for n in ("order", "startup") if others.get(n)]
    made = []
    for values in itertools.product(*([default[n], *others[n]] for n in both)):
        made.append({n: v for n, v in zip(both, values, strict=True) if v != default[n]})
    made += [{n: v} for n, values in others.items() if n not in both for v in values]
    kinds = [(solvers.make(key, **o), o) for o in made]
    return [o for s, o in kinds if s.linear and s.adaptive == solvers.make(key).adaptive]


class Digits:
    """A vector of Reals that adds and scales. Use inside `fastdiff.core.number.precision()`."""

    def __init__(self, values: Iterable[Any]):
        self.v = [v if isinstance(v, Real) else Real(v) for v in values]

    def __add__(self, o: Any) -> Digits:
        return (
            Digits(a + b for a, b in zip(self.v, o.v, strict=True))
            if isinstance(o, Digits)
            else NotImplemented
        )

    def __radd__(self, o: Any) -> Digits:
        return self if type(o) is int and o == 0 else NotImplemented  # so that sum() works

    def __sub__(self, o: Digits) -> Digits:
        return self + o * -1

    def __mul__(self, w: Any) -> Digits:
        return Digits(a * w for a in self.v)

    __rmul__ = __mul__

    def __truediv__(self, w: Any) -> Digits:
        return Digits(a / w for a in self.v)

    def __neg__(self) -> Digits:
        return self * -1

    def tolist(self) -> list[float]:
        return [float(v) for v in self.v]


def exact_mixture(mixture: GaussianMixture, predicts: str) -> Callable[[Digits, Node], Digits]:
    """The network of `mixture.denoiser`, for a mixture on the line, over Digits."""
    w, mu, sd = ([Real(float(v)) for v in a] for a in (mixture.weights, mixture.means, mixture.stds))

    def data(x: Real, alpha: Real, sigma: Real) -> Real:
        v = [(alpha * b) ** 2 + sigma**2 for b in sd]
        off = [x - alpha * m for m in mu]
        fit = [a.log() - (b.log() + d * d / b) / 2 for a, b, d in zip(w, v, off, strict=True)]
        top = max(fit, key=float)
        r = [(f - top).exp() for f in fit]
        x0 = [a * (m + alpha * b * b / c * d) for a, m, b, c, d in zip(r, mu, sd, v, off, strict=True)]
        return sum(x0[1:], x0[0]) / sum(r[1:], r[0])

    def net(x: Digits, n: Node) -> Digits:
        p, q = convert("data", predicts, n)
        scale = _real(input_scale(predicts, n))
        x = x / scale
        return x * _real(p) + Digits(data(v, _real(n.alpha), _real(n.sigma)) for v in x.v) * _real(q)

    return net


def network_rows(solver: Solver, process: Process, times: Sequence[float], predicts: str) -> list[Row]:
    """Row k: what call k is given, over (x_T, output 0, output 1, ...) in 60 digits; the last row is the
    result.

    Draws and consts are left out: a plan makes them again, or has them, and carries none.
    """
    rows: list[Row] = []

    def net(x: _Sparse, n: Node) -> _Sparse:
        rows.append(x.c)
        return _Sparse({len(rows): Decimal(1)})

    with precision():
        run = Direct(
            net,
            _Sparse({0: Decimal(1)}),
            predicts,
            wanted=solver.predicts,
            noise=lambda step, column: _Sparse({}),
            consts={} if process.const is None else {process.const: _Sparse({})},
        )
        solver.record(run, [process.node(Real(float(t))) for t in times])
        return [*rows, run.x.c]


def rank(rows: Iterable[Row], columns: Iterable[int], zero: Decimal = Decimal("1e-35")) -> int:
    """The rank of the rows restricted to some columns; each row is scaled to 1 first."""
    columns = list(columns)
    with precision():
        left = []
        for row in rows:
            scale = max((abs(v) for v in row.values()), default=Decimal(0))
            if scale:
                left.append([row.get(c, Decimal(0)) / scale for c in columns])
        found = 0
        while left and columns:
            i, j = max(
                itertools.product(range(len(left)), range(len(columns))),
                key=lambda ij: abs(left[ij[0]][ij[1]]),
            )
            pivot = left.pop(i)
            if abs(pivot[j]) <= zero:
                break
            left = [[a - row[j] / pivot[j] * b for a, b in zip(row, pivot, strict=True)] for row in left]
            for row in left:
                row[j] = Decimal(0)
            found += 1
        return found


class _Sparse:
    """A vector over named axes with Decimal entries."""

    def __init__(self, c: Row):
        self.c = c

    def __add__(self, o: Any) -> _Sparse:
        if not isinstance(o, _Sparse):
            return NotImplemented
        return _Sparse({a: self.c.get(a, Decimal(0)) + o.c.get(a, Decimal(0)) for a in {*self.c, *o.c}})

    def __radd__(self, o: Any) -> _Sparse:
        return self if type(o) is int and o == 0 else NotImplemented

    def __mul__(self, w: Any) -> _Sparse:
        w = _real(w).v
        return _Sparse({a: v * w for a, v in self.c.items()})

    __rmul__ = __mul__

    def __truediv__(self, w: Any) -> _Sparse:
        return _Sparse({a: v / _real(w).v for a, v in self.c.items()})

    def __sub__(self, o: _Sparse) -> _Sparse:
        return self + o * -1

    def __neg__(self) -> _Sparse:
        return self * -1


def _real(v: Any) -> Real:
    return v if isinstance(v, Real) else Real(v)
